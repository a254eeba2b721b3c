"""The YAML files of conf/: where they lie, what a group offers, what interpolations may read."""

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


def groups() -> list[str]:
    """Return the config groups: model, task, objective, ..."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def choices(group: str) -> list[str]:
    """Return the names that a group may be given."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_raw(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose the config; raises what Hydra raises. `settings.compose` speaks to users.

    with_hydra: keep the node `hydra`, which says what was chosen.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra_compose("config", list(overrides), return_hydra_config=with_hydra)


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
