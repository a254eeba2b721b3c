"""A base is handed over bound to its own inputs; combinations that cannot work are refused."""

import pytest
import torch

from isentropic.objectives.ce_gppo import CeGppoConfig, ce_gppo
from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.covariance.clip_cov import ClipCovConfig
from isentropic.objectives.over.erc import ErcConfig
from isentropic.objectives.over.shaped_offline import ShapedOfflineConfig

CLIP = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None}
BASE = ClipConfig(name="clip", ratio="token", **CLIP)


def erc_over(base, ratio="token"):
    return ErcConfig(name="erc", ratio=ratio, band_low=0.95, band_high=1.05, base=base)


def shaped_over(base):
    return ShapedOfflineConfig(name="shaped_offline", ratio="token", offline_shape=0.1, base=base)


def test_the_base_is_called_with_its_own_coefficients_and_fields():
    coefficients = {"clip_low": 0.2, "clip_high": 0.2, "beta1": 0.5, "beta2": 1.0}
    base = CeGppoConfig(name="ce_gppo", ratio="token", **coefficients, dual_clip=None)
    fields = {name: torch.ones(2) for name in ("entropy", "old_entropy", "logprob")}
    over = erc_over(base)
    inputs = over.inputs(over.at(1), fields, seed=0)
    assert inputs.keys() == {"entropy", "old_entropy", "band_low", "band_high", "base"}
    log_ratio, advantage = torch.tensor([-0.7, 0.9]), torch.tensor([-1.0, 1.0])
    direct = ce_gppo(log_ratio, advantage, **coefficients)
    assert torch.equal(inputs["base"](log_ratio, advantage).loss, direct.loss)


def test_the_seed_reaches_the_base():
    draw = ClipCovConfig(
        name="clip_cov", ratio="token", share=0.5, cov_low=0.0, cov_high=9.0, **CLIP
    )
    fields = {name: torch.ones(2) for name in ("entropy", "old_entropy", "logprob", "is_teacher")}
    over = shaped_over(erc_over(draw))
    inner = over.inputs(over.at(1), fields, seed=7)["base"]
    assert inner.keywords["base"].keywords["seed"] == 7


@pytest.mark.parametrize("base", [erc_over(BASE), shaped_over(erc_over(BASE))])
def test_not_over_itself(base):
    with pytest.raises(ValueError, match=r"has band_high, band_low as erc has.*another base"):
        erc_over(base)


def test_one_ratio_for_both():
    message = (
        "objective.ratio=sequence with objective.base.ratio=token: they must be equal. Set "
        "objective.ratio=token, or"
    )
    with pytest.raises(ValueError, match=message):
        erc_over(BASE, ratio="sequence")
