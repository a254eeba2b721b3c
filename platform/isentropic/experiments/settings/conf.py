"""The YAML files of conf/ and of the user's own folders: where they lie, what a group offers, what
interpolations may read."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
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
        ValueError: there is no such folder, or a file of it has the name of one of ours, which
            would hide it.
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


def search_path() -> list[str]:
    """Return the override that makes Hydra search the user's own folders after conf/."""
    folders = ",".join(f"'file://{folder}'" for folder in _own)
    return [f"hydra.searchpath=[{folders}]"] if _own else []


def groups() -> list[str]:
    """Return the config groups: model, task, objective, ..."""
    folders = [path for root in (CONF, *_own) for path in root.iterdir() if path.is_dir()]
    return sorted({path.name for path in folders if not path.name.startswith(".")})


def choices(group: str) -> list[str]:
    """Return the names that a group may be given."""
    return sorted({path.stem for root in (CONF, *_own) for path in (root / group).glob("*.yaml")})


def preset_path(group: str, name: str) -> Path:
    """Return the file of a choice; one under conf/ if there is none."""
    paths = [root / group / f"{name}.yaml" for root in (CONF, *_own)]
    return next((path for path in paths if path.is_file()), paths[0])


def _config_dir(name: str) -> Path:
    folder = Path(name).expanduser().absolute()
    if not name or "'" in name or not folder.is_dir():
        raise ValueError(
            f"--config-dir {name or '<nothing>'} is no folder. Give one that has presets in groups, "
            "as conf/ has: <folder>/task/mine.yaml is chosen by task=mine."
        )
    for path in sorted(folder.glob("*/*.yaml")):
        group = path.parent.name
        if (CONF / group / path.name).is_file():
            raise ValueError(
                f"{path} has the name of a preset of isentropic, {group}={path.stem}, which would "
                "be taken in its place. Give it another name; it can begin with ours: "
                f"defaults: [{path.stem}, _self_]."
            )
    return folder


def compose_raw(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose the config; raises what Hydra raises. `settings.compose` speaks to users.

    with_hydra: keep the node `hydra`, which says what was chosen.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        given = [*search_path(), *overrides]
        return hydra_compose("config", given, return_hydra_config=with_hydra)


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


OmegaConf.register_new_resolver("oc.env", _environment_variable, replace=True)
