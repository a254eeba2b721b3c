"""One loss: weights, terms and the sequence ratio, worked out on paper; slopes by logprob and by entropy."""

import math

import pytest
import torch

from isentropic.objectives import ce_gppo, gspo
from isentropic.objectives.ce_gppo import CeGppoConfig
from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.covariance.clip_cov import ClipCovConfig
from isentropic.objectives.gspo import GspoConfig
from isentropic.objectives.loss.leaves import leaf_gradients, step_loss
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.terms import EntropyBonusTerm, KlTerm, NllTerm, TermsConfig

BETAS = {"clip_low": 0.2, "clip_high": 0.2, "beta1": 0.5, "beta2": 1.0, "dual_clip": None}
CE_GPPO = CeGppoConfig(name="ce_gppo", ratio="token", **BETAS)
CLIP = {"clip_low": None, "clip_high": None, "dual_clip": None}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def fields(**others):
    base = {
        "logprob": f64(math.log(0.5), math.log(0.3)),
        "old_logprob": f64(0.0, math.log(0.1)),  # ratios 0.5 and 3
        "advantage": f64(-1.0, 1.0),
        "loss_weight": f64(0.25, 0.5),
    }
    return base | others


def terms(**on):
    return TermsConfig(name="some", **on)


def test_policy_loss_times_both_weights(close):
    """-F A is 0.4 and -1.2; times 0.25 * 2 and 0.5 * 3."""
    result = leaf_gradients(CE_GPPO, BETAS, fields(token_weight=f64(2.0, 3.0)))
    assert result.d_logprob.tolist() == close([0.2, -1.8])
    assert result.loss.item() == pytest.approx(-1.6, rel=1e-12)
    assert result.d_entropy is None


def test_token_weight_is_one_where_absent(close):
    assert leaf_gradients(CE_GPPO, BETAS, fields()).d_logprob.tolist() == close([0.1, -0.6])


def test_entropy_bonus_has_its_own_slope(close):
    bonus = EntropyBonusTerm(coef=0.1)
    given = fields(entropy=f64(1.0, 2.0), token_weight=f64(2.0, 3.0))
    result = leaf_gradients(
        CE_GPPO,
        BETAS,
        given,
        terms=terms(entropy_bonus=bonus),
        term_coefficients={"entropy_bonus": 0.1},
    )
    assert result.d_entropy.tolist() == close(
        [-0.025, -0.05]
    )  # the engine's weight is not for the bonus
    assert result.d_logprob.tolist() == close([0.2, -1.8])
    assert result.loss.item() == pytest.approx(-1.6 - 0.025 - 0.1, rel=1e-12)


def test_kl_shares_the_loss_weight(close):
    """k2: coef * loss_weight * (logprob - ref) = 0.1 * 0.25 * 1 and 0.1 * 0.5 * -2."""
    base = fields()
    given = base | {"ref_logprob": base["logprob"] + f64(-1.0, 2.0)}
    on = terms(kl=KlTerm(estimator="k2", coef=0.1))
    result = leaf_gradients(CE_GPPO, BETAS, given, terms=on, term_coefficients={"kl": 0.1})
    assert result.d_logprob.tolist() == close([0.1 + 0.025, -0.6 - 0.1])
    assert result.metrics["terms/kl"].tolist() == close([0.5, 2.0])


def test_nll_has_its_own_weight(close):
    on = terms(nll=NllTerm(coef=0.1))
    given = fields(nll_weight=f64(0.0, 1.0), token_weight=f64(1.0, 1.0))
    result = leaf_gradients(CE_GPPO, BETAS, given, terms=on, term_coefficients={"nll": 0.1})
    assert result.d_logprob.tolist() == close([0.1, -0.6 - 0.1])
    assert result.loss.item() == pytest.approx(0.1 - 0.6 - 0.1 * math.log(0.3), rel=1e-12)


def test_clip_with_ratio_sequence_is_gspo(close):
    sequence = torch.tensor([0, 0])
    given = fields(sequence_id=sequence, loss_weight=f64(1.0, 1.0))
    config = ClipConfig(name="clip", ratio="sequence", **CLIP)
    result = leaf_gradients(config, config.at(1), given)
    s = math.sqrt(0.5 * 3)
    assert result.d_logprob.tolist() == close([s, -s])
    log_ratio = given["logprob"] - given["old_logprob"]
    direct = gspo(log_ratio, given["advantage"], sequence_id=sequence, **CLIP)
    assert direct.loss.sum().item() == pytest.approx(result.loss.item())
    preset = GspoConfig(name="gspo", ratio="sequence", **CLIP)
    assert torch.equal(step_loss(preset, preset.at(1), given).loss, direct.loss)
    assert required_fields(config) >= {"sequence_id"} and not config.needs_minibatch


def test_backpropagated_leaf_gradients_are_the_gradient_of_the_loss():
    """Of any model: here logprob = log sigmoid(w x), entropy = w^2 x."""
    x, w = f64(0.3, -0.7), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    on, coefficients = (
        terms(entropy_bonus=EntropyBonusTerm(coef=0.1)),
        {"entropy_bonus": 0.1},
    )

    def outputs():
        return {"logprob": torch.nn.functional.logsigmoid(w * x), "entropy": w**2 * x}

    live = step_loss(CE_GPPO, BETAS, fields() | outputs(), terms=on, term_coefficients=coefficients)
    direct = torch.autograd.grad(live.loss.sum(), w)[0]
    with torch.no_grad():
        leaves = leaf_gradients(
            CE_GPPO, BETAS, fields() | outputs(), terms=on, term_coefficients=coefficients
        )
    again = outputs()
    through = torch.autograd.grad(
        [again["logprob"], again["entropy"]], w, [leaves.d_logprob, leaves.d_entropy]
    )[0]
    torch.testing.assert_close(through, direct, rtol=1e-13, atol=0)


def test_step_loss_is_the_objective_itself():
    given = fields()
    log_ratio = given["logprob"] - given["old_logprob"]
    policy = ce_gppo(log_ratio, given["advantage"], **BETAS)
    assert torch.equal(step_loss(CE_GPPO, BETAS, given).loss, given["loss_weight"] * policy.loss)


def test_seed_reaches_the_draw():
    n = 200
    generator = torch.Generator().manual_seed(0)
    logprob, advantage = (
        torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    given = {
        "logprob": logprob,
        "old_logprob": logprob,
        "advantage": advantage,
        "loss_weight": torch.ones(n),
    }
    coefficients = {
        "clip_low": None,
        "clip_high": None,
        "share": 0.1,
        "cov_low": 0.0,
        "cov_high": 99.0,
        "dual_clip": None,
    }
    config = ClipCovConfig(name="clip_cov", ratio="token", **coefficients)
    drawn = [
        leaf_gradients(config, coefficients, given, seed=seed).metrics["clip_cov/frac"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
