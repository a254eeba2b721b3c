"""No wait for another machine or process without a deadline."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "platform" / "isentropic"
BLOCKING = {  # call -> where its timeout stands among the positional arguments; None: by name only
    "ray.get": None,
    "ray.wait": None,
    "urllib.request.urlopen": 2,
    "socket.create_connection": 1,
    "requests.get": None,
    "requests.post": None,
}


BOUNDED = ("wait_one(", "wait_all(", ".asked(")  # the last is an engine handle's own wait_one


def name_of(node: ast.expr) -> str:
    return ast.unparse(node)


def unbounded(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in BLOCKING:
            place = BLOCKING[name]
            named = any(keyword.arg == "timeout" for keyword in node.keywords)
            if not named and (place is None or len(node.args) <= place):
                found.append(f"{path.name}:{node.lineno} {name}")
    return found


def test_every_blocking_call_has_a_timeout():
    assert not [place for path in sorted(PACKAGE.rglob("*.py")) for place in unbounded(path)]


def test_remote_calls_are_awaited_through_waiting_alone():
    """`waiting.wait_one` and `wait_all` name who was waited for; a bare `await ref` would hang without a word."""
    found = []
    for path in sorted((PACKAGE / "actors").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Await) or ".remote(" not in name_of(node.value):
                continue
            if not any(bounded in name_of(node.value) for bounded in BOUNDED):
                found.append(f"{path.name}:{node.lineno} {name_of(node.value)}")
    assert not found


def test_the_check_sees_a_call_without_a_timeout(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import ray\nray.get(1)\nray.get(1, timeout=2)\n")
    assert unbounded(path) == ["a.py:2 ray.get"]
