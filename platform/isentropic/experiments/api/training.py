"""Trains a run from Python, in a script or in a notebook."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isentropic.checks import refuse_secrets
from isentropic.experiments.api.arguments import shown
from isentropic.experiments.api.run import Run
from isentropic.experiments.program import RESUMABLE
from isentropic.experiments.settings.compose import compose_run
from isentropic.experiments.settings.options import refuse_two_methods
from isentropic.experiments.settings.overrides import refuse_nothing
from isentropic.experiments.sweep.draws import as_text
from isentropic.folders import unset_empty, use_durable_folders

Overrides = Sequence[str] | Mapping[str, Any]


def compose(overrides: Overrides = ()) -> DictConfig:
    """Compose a run's config from conf/, to look at it or to change it before `train`.

    Args:
        overrides: as on the command line, ["experiment=ce_gppo_tiny", "seed=1"], or
            {"experiment": "ce_gppo_tiny", "seed": 1}.

    Raises:
        ValueError: an unknown key or choice, with the nearest name.
    """
    given = as_list(overrides)
    refuse_secrets(given)
    cfg = compose_run(given)
    refuse_nothing(given, cfg)
    return cfg


def train(overrides: Overrides | DictConfig = ()) -> Run:
    """Train a run to its end, and return it; what it shows and writes is as by jobs/train.py.

    It runs in this process, over Ray, also in a notebook. Ctrl-C (in a notebook: interrupt) ends it
    after the step under way, with a checkpoint; resume=auto goes on. A run that an alarm stopped is
    returned too: see `Run.status`.

    Args:
        overrides: as for `compose`, or the config that it returned.

    Raises:
        ValueError: the config, the data, the model or the folder cannot be used; nothing was
            started.
        KeyboardInterrupt: it was stopped, and can go on.
    """
    unset_empty()
    use_durable_folders()
    cfg = overrides if isinstance(overrides, DictConfig) else compose(overrides)
    if OmegaConf.select(cfg, "run.dir") is None:
        raise ValueError(
            f"this config is not a run's, it has no run.dir; got {shown(cfg)}. Give overrides, or "
            "the config that isentropic.compose returns."
        )
    if OmegaConf.select(cfg, "run.dry"):
        raise ValueError("run.dry=true trains nothing. jobs/train.py prints the plan of a run.")
    # torch: once the names hold
    from isentropic.experiments.commands.train import train as train_config
    from isentropic.experiments.settings.load import load

    config = load(cfg)
    run = Run(Path(config.run.dir))
    if train_config(config, cfg) == RESUMABLE:
        raise KeyboardInterrupt(f"{run!r} was stopped; the same with resume=auto goes on.")
    return run


def as_list(overrides: Overrides, name: str = "overrides") -> list[str]:
    """Return overrides as the command line has them.

    name: of the argument, for the error.

    Raises:
        ValueError: no list of texts and no mapping, such as one text in the place of a list; two
            methods where one list composes them.
    """
    if isinstance(overrides, DictConfig):
        raise ValueError(f"{name} must be a list of texts or a mapping; got a whole config.")
    if isinstance(overrides, Mapping):
        named = all(isinstance(key, str) and key for key in overrides)
        given = [f"{key}={as_text(value)}" for key, value in overrides.items()]
    elif isinstance(overrides, Sequence) and not isinstance(overrides, str | bytes):
        named = all(isinstance(override, str) for override in overrides)
        given = list(overrides)
    else:
        named, given = False, []
    if not named:
        raise ValueError(
            f'{name} must be a list of texts, ["seed=1", "task=math"], or a mapping of keys to '
            f'values, {{"seed": 1}}; got {shown(overrides)}.'
        )
    refuse_two_methods(given)
    return given
