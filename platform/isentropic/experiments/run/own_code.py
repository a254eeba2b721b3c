"""The user's own code in a run folder: a copy of each file, and whether it is still the same.

code/task.reward/my_reward.py    the file that the config's key names
code/task/package                or the name and version of the package that offers it
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from isentropic.config import Config, is_under
from isentropic.durable import write_text_durably

FOLDER = "code"
PACKAGE = "package"


class Own(NamedTuple):
    """What a key of the config has of the user's own."""

    key: str
    name: str  # of the file, or "package"
    text: str  # the file's, or name and version of the package
    path: str | None  # as the config has it; None: a package


def own_code(config: Config) -> Iterator[Own]:
    """Yields everything of the user's own that the config names."""
    holders = {"task": config.task, "task.reward": getattr(config.task, "reward", None)}
    key, objective = "objective", config.objective
    while objective is not None:
        holders[key] = objective
        key, objective = f"{key}.base", getattr(objective, "base", None)
    for key, holder in holders.items():
        if code := getattr(holder, "code", None):
            yield Own(key, Path(code.path).name, code.text, code.path)
        elif package := getattr(holder, "package", None):
            yield Own(key, PACKAGE, package, None)


def check_own_code(folder: Path, config: Config, allowed: Sequence[str]) -> None:
    """Refuses code that is not what the folder's run used.

    Raises:
        ValueError: a file or a package's version differs, and `allowed` does not name its key.
    """
    for own in changed_code(folder, config):
        if is_under(own.key, allowed) or f"{own.key}.file" in allowed:
            continue
        path = _place(folder, own)
        now = own.path or own.text
        what = f"was run with another: see {path}" if path.is_file() else f"has no copy at {path}"
        raise ValueError(
            f"{own.key}: {now} is not what {folder} used, which {what}. Restore it, allow the "
            f"change ('resume.allow_changes=[{own.key}]'), or start another run: run.name=<another>."
        )


def changed_code(folder: Path, config: Config) -> list[Own]:
    """Returns what is not the text that the folder's run used, or has no copy there."""
    places = ((own, _place(folder, own)) for own in own_code(config))
    return [
        own
        for own, path in places
        if not path.is_file() or path.read_text(encoding="utf-8") != own.text
    ]


def write_own_code(folder: Path, config: Config) -> None:
    """Copies the code into the run folder; other code, from before a change, is kept beside it."""
    for own in own_code(config):
        path = _place(folder, own)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            if path.read_text(encoding="utf-8") == own.text:
                continue
            earlier = len(list(path.parent.glob(f"{path.name}.*"))) + 1
            path.rename(path.with_name(f"{path.name}.{earlier}"))
        write_text_durably(path, own.text)


def with_copies(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recorded config whose files are the run folder's copies: what the run used."""
    values = deepcopy(dict(values))
    for path in folder.glob(f"{FOLDER}/*/*.py"):
        section: Any = values
        for name in path.parent.name.split("."):
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and Path(str(section.get("file"))).name == path.name:
            section["file"] = str(path)
    return values


def _place(folder: Path, own: Own) -> Path:
    return folder / FOLDER / own.key / own.name
