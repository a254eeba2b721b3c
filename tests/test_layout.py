"""The tree itself: imports point one way, the source root shadows nothing, files stay readable."""

import ast
import platform as standard_library_platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "platform" / "isentropic"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LAYER = {  # a module may import its own level and those below
    "doctor": 8,
    "experiments": 7,
    "actors": 6,
    "controller": 5,
    "rollout": 4,
    "learner": 4,
    "weights": 4,
    "shared_gpu": 4,
    "models": 3,
    "methods": 2,
    "tasks": 2,
    "batching": 2,
    "metrics": 2,
    "objectives": 0,
    "own": 0,  # code of users, from files and packages
    "checks": 0,  # of values: the standard library alone
    "seeds": 0,
}
SHARED = 1  # records, config, ...: the files at the top of the package


def level(name: str) -> int:
    return LAYER.get(name, SHARED)


def imported(path: Path) -> set[str]:
    """First names under isentropic that a file imports: isentropic.metrics.entropy -> metrics."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "isentropic":
            names |= {f"isentropic.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    names.discard(
        "isentropic.controller.protocols"
    )  # interfaces: those below may name what they implement
    return {name.split(".")[1] for name in names if name.startswith("isentropic.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if (
        own == "__init__" or own == "doctor"
    ):  # the package itself loads nothing, the doctor looks at everything
        return
    upward = {name for name in imported(path) if level(name) > level(own)}

    assert not upward, f"{own} (level {level(own)}) imports from above: {sorted(upward)}"


ROOM = {  # of experiments/: a module may import its own room and those below, not one beside it
    "api": 7,
    "console": 8,
    "completion": 7,
    "commands": 6,
    "hydra_main": 5,
    "results": 5,
    "statements": 4,
    "sweep": 3,
    "attribution": 4,
    "branch": 3,
    "dry": 3,
    "card": 3,
    "doctor": 2,
    "run": 2,
    "submit": 2,
    "program": 1,
    "settings": 0,
    "started": 0,
}
EXPERIMENTS = sorted((PACKAGE / "experiments").rglob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_of_experiments_point_down(path):
    room = path.relative_to(PACKAGE / "experiments").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    text = path.read_text(encoding="utf-8")
    others = set(re.findall(r"isentropic\.experiments\.(\w+)", text)) - {room}
    wrong = {other for other in others if ROOM[other] >= ROOM[room]}

    assert not wrong


def test_each_job_is_a_command():
    jobs = {path.name for path in (ROOT / "jobs").glob("*.py")}
    commands = {path.name for path in (PACKAGE / "experiments" / "commands").glob("*.py")}

    assert jobs == commands - {"__init__.py"}
    shapes = {
        re.sub(rf"^.*|{path.stem}", "", path.read_text(), count=2)
        for path in (ROOT / "jobs").glob("*.py")
    }
    assert len(shapes) == 1, "the scripts differ in more than their first line and their command"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_at_start(path: Path, modules: Collection[str]) -> set[str]:
    """Modules of the package that a file names at module level: what it cannot be loaded without.

    `from package import name` is an import of package.name if that is a module, else of the
    package's __init__.
    """
    names = set()
    for node in module_level(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else node.module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(modules)


def module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when a module is loaded: functions are left out, and so is TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from module_level(child)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, first and last the same; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_name(path): path for path in SOURCES}
    graph = {name: imported_at_start(path, modules) for name, path in modules.items()}

    assert circle_in(graph) == []


def test_what_is_only_looked_at_or_refused_loads_no_learner():
    """Ray and transformers take seconds: settings are checked, and results listed or read, without."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {name: imported_at_start(path, modules) for name, path in modules.items()}
    light = tuple(
        f"isentropic.experiments.{room}."
        for room in ("api", "commands", "results", "settings", "statements")
    )

    def reached(name: str, seen: set[str]) -> set[str]:
        for inner in graph[name] - seen:
            seen.add(inner)
            reached(inner, seen)
        return seen

    heavy = {
        name: sorted(
            inner
            for inner in reached(name, set())
            if inner.startswith(("isentropic.actors.", "isentropic.learner."))
        )
        for name in graph
        if name.startswith(light)
    }
    assert heavy and not any(heavy.values()), {name: of for name, of in heavy.items() if of}


def test_a_circle_through_an_init_is_found(tmp_path):
    """room/__init__ takes a name from room.one; room.one takes the room's table."""
    texts = {
        "room": "from room.one import Config\nTABLE = [Config]\n",
        "room.one": "if True:\n    from room import TABLE\n",
        "room.two": "def later():\n    from room import TABLE\n",
    }
    graph = {}
    for name, text in texts.items():
        (path := tmp_path / f"{name}.py").write_text(text)
        graph[name] = imported_at_start(path, texts)

    assert set(circle_in(graph)) == {"room", "room.one"}
    assert graph["room.two"] == set()


def test_objectives_import_no_other_layer_and_no_heavy_library():
    foreign = set()
    of_gpus = {"kernels.py", "heads.py"}  # they may name triton, which not every machine has
    for path in (PACKAGE / "objectives").rglob("*.py"):
        allowed = {"triton"} if path.name in of_gpus else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            foreign |= {module.split(".")[0] for module in modules if module} - allowed

    assert (
        foreign <= {"torch", "numpy", "isentropic"} | sys.stdlib_module_names
    )  # numpy: reductions weigh on the host


def test_one_file_imports_vllm():
    importers = [
        path
        for path in SOURCES
        if re.search(r"^\s*(import|from) vllm\b", path.read_text(), re.MULTILINE)
    ]

    assert {path.relative_to(PACKAGE).parts[0] for path in importers} <= {"rollout"}


def test_the_source_root_does_not_shadow_the_standard_library():
    assert not (ROOT / "platform" / "__init__.py").exists()
    answer = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.system())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == standard_library_platform.system()


def test_most_files_and_functions_fit_a_screen():
    """A rule for the tree, not for one file: splitting a file that holds one idea makes nothing simpler."""
    lines, functions = [], []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        lines.append(text.count("\n"))
        functions += [
            node.end_lineno - node.lineno + 1
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]

    assert percentile(lines, 90) < 300
    assert percentile(functions, 90) < 40


def test_no_room_is_a_drawer():
    rooms = Counter(path.parent.relative_to(PACKAGE) for path in SOURCES)
    # One file per job, no more and no less: another test holds the two folders together.
    del rooms[Path("experiments/commands")]

    assert {str(room): count for room, count in rooms.items() if count > 12} == {}


def percentile(values: list[int], share: int) -> int:
    return sorted(values)[len(values) * share // 100]


def test_no_path_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    machine = re.compile(
        r"(?<![\w.])/(?:" + "|".join(["work", "root", "home/\\w+", "Users/\\w+"]) + r")/\w"
    )
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".yaml", ".toml", ".md", ".sh", ".cff"} and path.exists():
            found += [
                f"{name}: {line.strip()}"
                for line in path.read_text().splitlines()
                if machine.search(line)
            ]

    assert not found
