"""The YAML files of conf/ and of the user's own folders: where they lie, what a group offers, what
interpolations may read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from isentropic.folders import CACHE, RUNS, variable

# A wheel has it in the package, where a checkout has a link to it; a tree that was sent to a
# cluster has no links.
IN_PACKAGE = Path(__file__).resolve().parents[2] / "conf"
CONF = (IN_PACKAGE if IN_PACKAGE.is_dir() else IN_PACKAGE.parents[2] / "conf").resolve()
READABLE = (RUNS, CACHE, "HOME", "USER", "TMPDIR")


CONFIG_DIR = ("--config-dir", "-cd")
_own: list[Path] = []  # folders of the command line, in groups as conf/ is


def take_config_dirs(arguments: Sequence[str]) -> list[str]:
    """Search the folders of `--config-dir <folder>` from now on; return the other arguments.

    Raises:
        ValueError: there is no such folder.
    """
    _own.clear()
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        flag, separator, value = argument.partition("=")
        if flag in CONFIG_DIR:
            _own.append(_config_dir(value if separator else next(given, "")))
        else:
            rest.append(argument)
    return rest


def own_config_dirs() -> list[Path]:
    """Return the folders of `--config-dir`, absolute."""
    return list(_own)


def roots() -> list[Path]:
    """Return the folders that have groups: conf/, then the user's own."""
    return [CONF, *_own]


def search_path() -> list[str]:
    """Return the override that makes Hydra search the user's own folders after conf/."""
    folders = ",".join(f"'file://{folder}'" for folder in _own)
    return [f"hydra.searchpath=[{folders}]"] if _own else []


def groups() -> list[str]:
    """Return the config groups: model, task, objective, ..."""
    folders = [path for root in roots() for path in root.iterdir() if path.is_dir()]
    return sorted({path.name for path in folders if not path.name.startswith(".")})


def choices(group: str) -> list[str]:
    """Return the names that a group may be given."""
    return sorted({path.stem for root in roots() for path in (root / group).glob("*.yaml")})


def preset_path(group: str, name: str) -> Path:
    """Return the file of a choice; one under conf/ if there is none.

    Raises:
        ValueError: several folders have one.
    """
    paths = [root / group / f"{name}.yaml" for root in roots()]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise ValueError(_ambiguous(*found[:2]))
    return found[0] if found else paths[0]


def refuse_ambiguous(overrides: Sequence[str]) -> None:
    """Refuse what Hydra would load from conf/ although a folder of the user's has it too.

    Hydra takes the first that it finds and says nothing: the user's file would do nothing. Files of
    the same name that nothing chooses are no matter. Hydra must be initialized.

    Raises:
        ValueError: a choice, or what one begins with, is in several folders; names both files.
    """
    files: dict[str, list[Path]] = {}
    for root in roots() if _own else ():
        for path in root.glob("*/*.yaml"):
            files.setdefault(f"{path.parent.name}/{path.stem}", []).append(path)
    twins = {name: paths for name, paths in files.items() if len(paths) > 1}
    if not twins:
        return
    loader = GlobalHydra.instance().config_loader()
    given = [*search_path(), *overrides]
    for part in loader.compute_defaults_list("config", given, RunMode.RUN).defaults:
        if part.config_path in twins:
            raise ValueError(_ambiguous(*twins[part.config_path][:2]))


def _ambiguous(ours: Path, other: Path) -> str:
    group, name = ours.parent.name, ours.stem
    return (
        f"{group}={name} is two files, {ours} and {other}: which is meant? Give yours another name, "
        f"such as {other.with_stem(f'my_{name}')} for {group}=my_{name}; it can begin with the "
        f"other: defaults: [{name}, _self_]."
    )


def _config_dir(name: str) -> Path:
    folder = Path(name).expanduser().absolute()
    if not name or "'" in name or not folder.is_dir():
        raise ValueError(
            f"--config-dir {name or '<nothing>'} is no folder. Give one that has presets in groups, "
            "as conf/ has: <folder>/task/mine.yaml is chosen by task=mine."
        )
    return folder


def compose_raw(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose the config; raises what Hydra raises. `settings.compose` speaks to users.

    with_hydra: keep the node `hydra`, which says what was chosen.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        given = [*search_path(), *overrides]
        cfg = hydra_compose("config", given, return_hydra_config=with_hydra)
        refuse_ambiguous(overrides)
        return cfg


def _environment_variable(name: str, *default: str | None) -> str | None:
    """Stand in for OmegaConf's `oc.env`: an allow-list, and an empty variable is an unset one.

    The config is written to the run folder, the report and the trackers. A list of forbidden names
    would always lack one, and a pattern over the YAML text misses quotes and nested interpolations;
    here the final name arrives.
    """
    if name not in READABLE:
        raise ValueError(
            f"the environment variable {name} may not be read by a config, which is written to the "
            f"run folder and to the trackers; allowed are {', '.join(READABLE)}. Libraries find "
            "their keys in the environment themselves"
        )
    value = variable(name)
    if value is None and not default:
        raise ValueError(f"the environment variable {name} is not set and has no default")
    return default[0] if value is None else value


def _after(step: Any) -> Any:
    """Return the step after one: ${after:${run.steps}} is where a schedule over all updates ends.

    With k = step - 1 updates done of T = run.steps, k / T is 1 at step T + 1.
    """
    return step + 1 if isinstance(step, int) else step  # what is no step is refused under its key


OmegaConf.register_new_resolver("oc.env", _environment_variable, replace=True)
OmegaConf.register_new_resolver("after", _after, replace=True)
