"""Composes the config from conf/ and overrides; what Hydra refuses is said in our words."""

from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from isentropic.experiments.settings.conf import compose_raw
from isentropic.experiments.settings.errors import explain
from isentropic.experiments.settings.overrides import for_hydra


def compose(overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose the config. Raises ValueError for an unknown key or choice, with the nearest name.

    with_hydra: keep the node `hydra`, which says what was chosen.
    """
    try:
        return compose_raw(for_hydra(overrides), with_hydra=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, overrides)) from error
