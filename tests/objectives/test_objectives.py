"""What holds for every entry of OBJECTIVES, with the values of its own preset in conf/objective."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from isentropic import objectives
from isentropic.objectives import OBJECTIVES
from isentropic.objectives.clip import clip
from isentropic.objectives.loss import unit_slope
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.loss.objective import TOKEN_FIELDS

PRESETS = Path(__file__).parents[2] / "conf" / "objective"


def preset(name):
    """The typed config of conf/objective/<name>.yaml, its `/objective@base` under `base`."""
    values = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{name}.yaml"))
    for entry in values.pop("defaults", []):
        if entry != "_self_":
            ((where, other),) = entry.items()
            values[where.partition("@")[2]] = preset(other)
    return OBJECTIVES[values["name"]](**values)


def batch(log_ratio, advantage, sequences=3):
    """Fields of a minibatch: every token of it, with uneven weights."""
    n = len(log_ratio)
    generator = torch.Generator().manual_seed(n)
    draw = lambda: torch.rand(n, generator=generator, dtype=torch.float64)  # noqa: E731
    old = -3 * draw() - 0.01
    return {
        "logprob": old + log_ratio.double(),
        "old_logprob": old,
        "rollout_logprob": old + 0.01,
        "advantage": advantage.double(),
        "entropy": draw() + 0.5,
        "old_entropy": draw() + 0.5,
        "sensitivity": draw() - 0.5,
        "sequence_id": torch.arange(n) % sequences,
        "is_teacher": torch.zeros(n, dtype=torch.bool),
        "loss_weight": (draw() + 0.1) / n,
        "token_weight": draw() + 0.5,
    }


# Which function `own` is the user says: it has a test of its own.
ALL = sorted({path.stem for path in PRESETS.glob("*.yaml")} - {"own"})


def test_every_objective_has_a_preset_and_a_function():
    assert set(OBJECTIVES) <= set(ALL)
    for name, config in OBJECTIVES.items():  # gspo is clip at the ratio that `step_loss` forms
        assert config.function is (clip if name == "gspo" else getattr(objectives, name))
    assert all(preset(name).name in OBJECTIVES for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_on_policy_every_slope_is_minus_the_advantage(name):
    """But for the tokens that Clip-Cov draws, and with loss weights and STEER's weights undone."""
    config = preset(name)
    fields = batch(torch.zeros(7), torch.tensor([1.0, -1.0, 2.0, -0.5, 0.0, 0.3, -3.0]))
    fields["old_entropy"] = fields["entropy"]
    result = leaf_gradients(config, config.at(1), fields)
    slope = result.d_logprob / (fields["loss_weight"] * fields["token_weight"])
    slope = slope / result.metrics.get("steer_weight/mean", 1.0)
    drawn = result.metrics.get("clip_cov/frac", torch.zeros(7)).bool()
    torch.testing.assert_close(slope[~drawn], -fields["advantage"][~drawn], rtol=1e-12, atol=0)
    assert drawn.sum() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_finite_at_extremes_and_metrics_are_per_token(name, dtype):
    config = preset(name)
    extremes = torch.tensor([200.0, -200.0, 200.0, -200.0, 0.0, 88.0, -104.0, 20.0, -20.0])
    fields = batch(extremes, torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -2.0, 2.0, 0.0, 0.0]))
    fields = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in fields.items()
    }
    result = leaf_gradients(config, config.at(1), fields)
    for value in (result.loss, result.d_logprob, *result.metrics.values()):
        assert value.isfinite().all()
    assert result.d_logprob.dtype == dtype
    assert {value.shape for value in result.metrics.values()} == {(9,)}
    assert not any(value.requires_grad for value in result.metrics.values())


# Means of logprob over the minibatch, and the square of a log ratio: not finite by their definition.
INFINITE = {"clip_cov", "kl_cov", "dppo_tv"}


@pytest.mark.parametrize("impossible", ["logprob", "old_logprob"])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("name", sorted(set(ALL) - INFINITE))
def test_a_token_of_probability_0_gives_no_nan(name, advantage, impossible):
    """Under the new policy the ratio is 0, under the old one infinite; its slope is finite."""
    config = preset(name)
    fields = batch(torch.tensor([0.1, -0.1, 0.0]), torch.tensor([advantage, 1.0, -1.0]))
    fields[impossible][0] = -torch.inf
    result = leaf_gradients(config, config.at(1), fields)
    for value in (result.loss, result.d_logprob, *result.metrics.values()):
        assert value.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=8))
def test_the_gradient_alone_has_value_0_and_the_slopes_it_always_had(dtype, values):
    log_ratio = torch.tensor(values, dtype=dtype, requires_grad=True)
    slopes = torch.arange(1.0, len(values) + 1, dtype=dtype)
    value = unit_slope(log_ratio)
    (value * slopes).sum().backward()
    assert value.tolist() == [1.0] * len(values)
    assert log_ratio.grad.tolist() == torch.where(log_ratio.isfinite(), slopes, 0.0).tolist()


@pytest.mark.parametrize("name", ALL)
def test_no_token_is_no_loss(name):
    """A rank may have nothing to do."""
    fields = {key: value[:0] for key, value in batch(torch.zeros(1), torch.zeros(1)).items()}
    config = preset(name)
    result = leaf_gradients(config, config.at(1), fields)
    assert result.loss == 0 and result.d_logprob.shape == (0,)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_order_and_parts_change_nothing(name, data):
    """Sequences in any order, and cut into microbatches where the objective allows it: the same slopes, float64."""
    lengths = data.draw(
        st.lists(st.integers(1, 5), min_size=3, max_size=6)
    )  # two tokens tie in KL-Cov
    n = sum(lengths)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    fields = batch(torch.randn(n, generator=generator), torch.randn(n, generator=generator))
    fields["sequence_id"] = torch.repeat_interleave(
        torch.arange(len(lengths)), torch.tensor(lengths)
    )
    config = preset(name)
    whole = leaf_gradients(config, config.at(1), fields)
    if not config.needs_minibatch:
        cut = data.draw(st.integers(1, len(lengths) - 1))
        parts = [fields["sequence_id"] < cut, fields["sequence_id"] >= cut]
        results = [
            leaf_gradients(config, config.at(1), {k: v[part] for k, v in fields.items()})
            for part in parts
        ]
        torch.testing.assert_close(
            torch.cat([result.d_logprob for result in results]),
            whole.d_logprob,
            rtol=1e-11,
            atol=1e-14,
        )
        torch.testing.assert_close(
            sum(result.loss for result in results), whole.loss, rtol=1e-11, atol=1e-14
        )
    if name != "clip_cov":  # its draw belongs to the canonical order
        order = torch.tensor(data.draw(st.permutations(range(n))))
        moved = leaf_gradients(config, config.at(1), {k: v[order] for k, v in fields.items()})
        torch.testing.assert_close(moved.d_logprob, whole.d_logprob[order], rtol=1e-11, atol=1e-14)


def test_fields_are_read_from_the_signature():
    assert preset("clip").token_fields == set()
    assert preset("dppo_tv").token_fields == {"logprob", "old_logprob"}
    assert {name for name in ALL if preset(name).needs_minibatch} == {
        "bapo",
        "clip_b",
        "clip_cov",
        "clip_v",
        "kl_cov",
        "steer",
    }
    given = dict.fromkeys(TOKEN_FIELDS)
    seeded = {name for name in ALL if "seed" in preset(name).inputs(preset(name).at(1), given, 3)}
    assert seeded == {"clip_cov"}
    assert required_fields(preset("erc")) >= {"entropy", "old_entropy", "advantage", "loss_weight"}


def test_a_nan_keeps_its_gradient():
    """Or an update with a broken token would be made as if nothing were wrong."""
    log_ratio = torch.tensor([torch.nan, 0.5], requires_grad=True)
    unit_slope(log_ratio).sum().backward()
    assert log_ratio.grad.isnan().tolist() == [True, False]
