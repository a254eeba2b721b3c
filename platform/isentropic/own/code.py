"""A user's Python file: its text goes along with whoever holds it, so that it runs on any machine."""

import importlib
import inspect
import linecache
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from isentropic.checks import nearest
from isentropic.own.evaluates import evaluator, imported

MOST_BYTES = 2**20


@dataclass(frozen=True)
class OwnCode:
    """A file as it was when the run began. A pickle of it loads the module where it is opened."""

    path: str  # as the user wrote it: errors name it
    text: str

    @classmethod
    def read(cls, key: str, path: str) -> "OwnCode":
        """Reads a file; `key` is where the config names it.

        Raises:
            ValueError: there is no such file, or it is no text.
        """
        try:
            data = Path(path).expanduser().read_bytes()
            if len(data) > MOST_BYTES:
                raise ValueError(f"it has {len(data)} bytes, at most {MOST_BYTES} are allowed")
            text = data.decode("utf-8-sig")
            # As any reader of text sees it: else the copy in the run folder reads as another file.
            return cls(path, text.replace("\r\n", "\n").replace("\r", "\n"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if isinstance(error, UnicodeDecodeError):
                reason += " (save it as UTF-8)"
            raise ValueError(
                f"{key}={path} cannot be read as Python: {reason}. Give a .py file, by a path "
                f"from {Path.cwd()} or an absolute one."
            ) from error

    @property
    def digest(self) -> str:
        """The SHA-256 of the text."""
        return sha256(self.text.encode()).hexdigest()

    def get(self, key: str, name: str) -> Any:
        """Returns what the file calls `name`; `key` is where the config asks for it.

        Raises:
            ValueError: the file fails when it is run, or has no such name.
        """
        values = vars(_module(self.path, self.text))
        if name not in values:
            own = [
                other
                for other, value in values.items()
                if not other.startswith("_") and not isinstance(value, ModuleType)
            ]
            raise ValueError(
                f"{key}={name}: {self.path} has no such name.{nearest(name, own)} It has: "
                f"{', '.join(own) or 'none'}."
            )
        return values[name]

    @property
    def evaluator(self) -> str:
        """What in the file may run what a model wrote, as 'it imports sympy (line 3)'; "" if nothing."""
        return evaluator(self.text)

    def import_all(self) -> None:
        """Imports what functions of the file would import in each new process, for seconds perhaps."""
        for name in imported(self.text):
            # What fails here fails in the function too, if that ever comes to it.
            with suppress(Exception, SystemExit):
                importlib.import_module(name)

    def line(self, function: Any) -> str:
        """Says where a function or class of the file begins, as file:line."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        own = [code.co_firstlineno] if code is not None and code.co_filename == self.path else []
        return f"{self.path}:{own[0]}" if own else self.path

    def __reduce__(self) -> tuple[Any, ...]:
        # Loading comes first: pickles of the file's own classes, behind it, look for the module.
        return _loaded, (self.path, self.text)


class OwnError(ValueError):
    """What is wrong with what a user's code gave; `place` is file:line."""

    def __init__(self, place: str, text: str, kind: str | None = None) -> None:
        super().__init__(text)
        self.place = place
        self.kind = kind  # of reward errors; None: it raised


def place(error: BaseException) -> str:
    """Says where in a user's file an error arose, as file:line; "" if it did not pass through one."""
    if isinstance(error, OwnError):
        return error.place
    if isinstance(error, SyntaxError) and error.filename in FILES:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename in FILES]
    return own[-1] if own else ""


def named(error: BaseException) -> str:
    """Returns an error as 'KeyError: gold': its type and what it says."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, OwnError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


FILES: set[str] = set()  # paths of the users' files that this process has run


@cache
def _module(path: str, text: str) -> ModuleType:
    """Runs the file as a module of its own; once per process and text."""
    name = f"isentropic_own_{sha256(f'{path}{text}'.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = path
    FILES.add(path)
    # So that tracebacks show the lines, on machines that lack the file too.
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    sys.modules[name] = module
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # of the user's own code: it may raise what it likes
        del sys.modules[name]
        hint = (
            " The file travels alone: put what it imports into it, or install it as a package."
            if isinstance(error, ImportError)
            else ""
        )
        raise ValueError(f"{place(error) or path}: {named(error)}.{hint}") from error
    return module


def _loaded(path: str, text: str) -> OwnCode:
    _module(path, text)
    return OwnCode(path, text)
