"""What in a user's file may run what a model wrote.

No reader of a program can tell what it evaluates: sympy does, pandas does, a helper of the user's may.
So the question is turned round. A file evaluates nothing if it imports only modules that are known not
to, and uses none of Python's own ways. Any other file may, and whoever wrote it can say that it does not.
"""

import ast
from collections.abc import Iterator

# With all that is inside. No module that turns text into code, or text into the name of what is called.
PACKAGES = (
    "aiohttp collections html http httpx isentropic json openai regex requests urllib urllib3"
)
MODULES = """
    __future__ abc array ast asyncio base64 binascii bisect calendar cmath contextlib copy csv dataclasses
    datetime decimal difflib enum fractions functools gzip hashlib heapq io itertools logging math numbers
    numpy numpy.fft numpy.linalg numpy.ma numpy.polynomial numpy.random numpy.typing operator pathlib
    random re reprlib secrets statistics string struct textwrap time tomllib typing unicodedata uuid
    warnings xml.etree.ElementTree zlib zoneinfo
"""
# Python's own ways: names that run text, or find what is called by a text.
WAYS = """
    eval exec __import__ __builtins__ __dict__ __globals__ __code__ __loader__ __subclasses__
    __getattribute__ globals locals vars attrgetter methodcaller get_type_hints import_module
    create_subprocess_exec create_subprocess_shell subprocess_exec subprocess_shell allow_pickle
"""
KNOWN_PACKAGES, KNOWN_MODULES, NAMES = (frozenset(x.split()) for x in (PACKAGES, MODULES, WAYS))
BY_NAME = ("getattr", "setattr", "delattr")  # harmless with a name that stands in the file
LOOKUP = 1  # the place of the name among their arguments


def evaluator(text: str) -> str:
    """Says what may run a text that a model wrote, as 'it imports sympy (line 3)'; "" if nothing.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(text)
    by_line = min(_evaluators(tree), default=None)
    return f"it {by_line[1]} (line {by_line[0]})" if by_line else ""


def imported(text: str) -> list[str]:
    """Returns the modules that a file imports, inside its functions too."""
    return [name for node in ast.walk(ast.parse(text)) for name in _modules(node) if name]


def _evaluators(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of all that may run a text."""
    plain = {id(node.func) for node in ast.walk(tree) if _is_plain_lookup(node)}
    for node in ast.walk(tree):
        for module in _modules(node):
            if not _is_known(module):
                yield node.lineno, f"imports {module or 'what lies beside it'}"
        for name in _names(node):
            if name in NAMES or (name in BY_NAME and id(node) not in plain):
                yield node.lineno, f"uses {name}"
        # Not of a module: re.compile makes no code.
        if isinstance(node, ast.Name) and node.id == "compile":
            yield node.lineno, "uses compile"


def _modules(node: ast.AST) -> list[str]:
    """Returns the modules that a statement imports; "" for one beside the file."""
    if isinstance(node, ast.ImportFrom):
        return ["" if node.level else str(node.module)]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def _is_known(module: str) -> bool:
    return module in KNOWN_MODULES or module.partition(".")[0] in KNOWN_PACKAGES


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    return [node.arg] if isinstance(node, ast.keyword) and node.arg in NAMES else []


def _is_plain_lookup(node: ast.AST) -> bool:
    """Whether it is a getattr(x, "name") of a harmless name that stands there."""
    if not isinstance(node, ast.Call) or len(node.args) <= LOOKUP:
        return False
    name = node.args[LOOKUP]
    return isinstance(name, ast.Constant) and name.value not in (*NAMES, *BY_NAME)
