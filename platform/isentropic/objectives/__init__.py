"""Losses, one objective a file. A new one is a file (function and config), a line in OBJECTIVES, a preset, a test."""

from isentropic.objectives.bapo import BapoConfig, bapo
from isentropic.objectives.ce_gppo import CeGppoConfig, ce_gppo
from isentropic.objectives.cispo import CispoConfig, cispo
from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.covariance.clip_cov import ClipCovConfig, clip_cov
from isentropic.objectives.covariance.kl_cov import KlCovConfig, kl_cov
from isentropic.objectives.dppo_tv import DppoTvConfig, dppo_tv
from isentropic.objectives.gppo import GppoConfig, gppo
from isentropic.objectives.gspo import GspoConfig, gspo
from isentropic.objectives.loss.objective import Objective, ObjectiveConfig
from isentropic.objectives.loss.token_loss import TokenLoss
from isentropic.objectives.over.erc import ErcConfig, erc
from isentropic.objectives.over.shaped_offline import ShapedOfflineConfig, shaped_offline
from isentropic.objectives.reinforce import ReinforceConfig, reinforce
from isentropic.objectives.sapo import SapoConfig, sapo

OBJECTIVES: dict[str, Objective] = {
    "reinforce": Objective(function=reinforce, config=ReinforceConfig),
    "clip": Objective(function=clip, config=ClipConfig),
    "ce_gppo": Objective(function=ce_gppo, config=CeGppoConfig),
    "gppo": Objective(function=gppo, config=GppoConfig),
    "cispo": Objective(function=cispo, config=CispoConfig),
    "gspo": Objective(function=gspo, config=GspoConfig, own_ratio=True),
    "sapo": Objective(function=sapo, config=SapoConfig),
    "dppo_tv": Objective(function=dppo_tv, config=DppoTvConfig),
    "clip_cov": Objective(function=clip_cov, config=ClipCovConfig, needs_minibatch=True),
    "kl_cov": Objective(function=kl_cov, config=KlCovConfig, needs_minibatch=True),
    "bapo": Objective(function=bapo, config=BapoConfig, needs_minibatch=True),
    "erc": Objective(function=erc, config=ErcConfig),
    "shaped_offline": Objective(function=shaped_offline, config=ShapedOfflineConfig),
}

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveConfig",
    "TokenLoss",
    "bapo",
    "ce_gppo",
    "cispo",
    "clip",
    "clip_cov",
    "dppo_tv",
    "erc",
    "gppo",
    "gspo",
    "kl_cov",
    "reinforce",
    "sapo",
    "shaped_offline",
]
