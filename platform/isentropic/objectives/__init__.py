"""Losses, one objective per file.

A new one is a file (function and config), a line in OBJECTIVES, a preset, a test.
"""

from isentropic.objectives.aspo import AspoConfig, aspo
from isentropic.objectives.bapo import BapoConfig, bapo
from isentropic.objectives.ce_gppo import CeGppoConfig, ce_gppo
from isentropic.objectives.cispo import CispoConfig, cispo
from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.covariance.clip_cov import ClipCovConfig, clip_cov
from isentropic.objectives.covariance.kl_cov import KlCovConfig, kl_cov
from isentropic.objectives.dppo_tv import DppoTvConfig, dppo_tv
from isentropic.objectives.flexec import FlexEcConfig, flexec
from isentropic.objectives.gppo import GppoConfig, gppo
from isentropic.objectives.gspo import GspoConfig, gspo
from isentropic.objectives.loss import ObjectiveConfig, TokenLoss
from isentropic.objectives.over.entropy_mask import ClipBConfig, ClipVConfig, clip_b, clip_v
from isentropic.objectives.over.erc import ErcConfig, erc
from isentropic.objectives.over.shaped_offline import ShapedOfflineConfig, shaped_offline
from isentropic.objectives.over.steer import SteerConfig, steer
from isentropic.objectives.reinforce import ReinforceConfig, reinforce
from isentropic.objectives.sapo import SapoConfig, sapo

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "reinforce": ReinforceConfig,
    "clip": ClipConfig,
    "ce_gppo": CeGppoConfig,
    "gppo": GppoConfig,
    "cispo": CispoConfig,
    "gspo": GspoConfig,
    "sapo": SapoConfig,
    "dppo_tv": DppoTvConfig,
    "clip_cov": ClipCovConfig,
    "kl_cov": KlCovConfig,
    "bapo": BapoConfig,
    "flexec": FlexEcConfig,
    "aspo": AspoConfig,
    "erc": ErcConfig,
    "steer": SteerConfig,
    "clip_b": ClipBConfig,
    "clip_v": ClipVConfig,
    "shaped_offline": ShapedOfflineConfig,
}

__all__ = [
    "OBJECTIVES",
    "ObjectiveConfig",
    "TokenLoss",
    "aspo",
    "bapo",
    "ce_gppo",
    "cispo",
    "clip",
    "clip_b",
    "clip_cov",
    "clip_v",
    "dppo_tv",
    "erc",
    "flexec",
    "gppo",
    "gspo",
    "kl_cov",
    "reinforce",
    "sapo",
    "shaped_offline",
    "steer",
]
