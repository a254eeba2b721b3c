"""Composes the config from conf/ and overrides; what Hydra refuses is said in our words."""

from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from isentropic.experiments.settings.conf import compose_raw
from isentropic.experiments.settings.errors import explain
from isentropic.experiments.settings.overrides import for_hydra
from isentropic.experiments.settings.presets import check_presets, name_presets


def compose(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose the config. Raises ValueError for an unknown key or choice, with the nearest name.

    with_hydra: keep the node `hydra`, which says what was chosen.
    """
    given = for_hydra(overrides)
    try:
        return compose_raw(given, with_hydra=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, given)) from error


def compose_run(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the config of a run as a job does it: presets that contradict each other are refused.

    The presets that were chosen are named in `run.preset`.
    """
    cfg = compose(overrides, with_hydra=True)
    check_presets(cfg.hydra)
    name_presets(cfg, cfg.hydra)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg
