"""d loss / d logprob on a teacher token is -shape * p / (p + shape)^2 * A, wherever the ratio stands."""

import pytest
import torch

from isentropic.objectives import OBJECTIVES
from isentropic.objectives.clip import ClipConfig, clip
from isentropic.objectives.gspo import GspoConfig
from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.over.shaped_offline import shaped_offline, with_shaped_offline

BOUNDS = {"clip_low": 0.2, "clip_high": 0.2}


def losses(p, old_p, advantage, is_teacher):
    logprob = torch.tensor(p, dtype=torch.float64).log().requires_grad_()
    log_ratio = logprob - torch.tensor(old_p, dtype=torch.float64).log()
    advantage, teachers = torch.tensor(advantage, dtype=torch.float64), torch.tensor(is_teacher)
    result = shaped_offline(
        log_ratio,
        advantage,
        logprob=logprob,
        is_teacher=teachers,
        offline_shape=0.1,
        base=clip,
        **BOUNDS,
    )
    result.loss.sum().backward()
    return result, clip(log_ratio, advantage, **BOUNDS), logprob.grad


@pytest.mark.parametrize(
    ("p", "old_p", "slope"),
    [
        pytest.param(0.1, 0.1, -0.25, id="largest weight at p = shape"),
        pytest.param(0.1, 0.01, -0.25, id="far above the bound: no clip"),
        pytest.param(0.9, 0.9, -0.09, id="a likely token teaches little"),
        pytest.param(0.025, 0.025, -0.16, id="an unlikely one still teaches"),
    ],
)
def test_gradient_on_a_teacher_token(p, old_p, slope):
    result, _, grad = losses([p], [old_p], [1.0], [True])
    assert grad.item() == pytest.approx(slope)
    assert result.loss.item() == pytest.approx(-p / (p + 0.1))
    assert result.metrics["clip/high_frac"].item() == 0.0


def test_other_tokens_keep_the_objective():
    arguments = [0.5, 0.3, 0.1], [0.5, 0.1, 0.2], [1.0, 2.0, -1.0]
    result, base, grad = losses(*arguments, [False, False, False])
    assert torch.equal(result.loss, base.loss)
    assert all(torch.equal(result.metrics[name], base.metrics[name]) for name in base.metrics)
    mixed, _, mixed_grad = losses(*arguments, [False, True, False])
    assert torch.equal(mixed.loss[[0, 2]], base.loss[[0, 2]])
    assert torch.equal(mixed_grad[[0, 2]], grad[[0, 2]])


@pytest.mark.parametrize(
    "base",
    [
        ClipConfig(name="clip", ratio="token", dual_clip=None, **BOUNDS),
        ClipConfig(name="clip", ratio="sequence", dual_clip=None, **BOUNDS),
        GspoConfig(name="gspo", ratio="sequence", dual_clip=None, **BOUNDS),
    ],
    ids=["token", "sequence", "gspo"],
)
def test_over_any_base_the_policys_sequences_are_unchanged(base):
    over = with_shaped_offline(base, 0.1)
    fields = {
        "logprob": torch.tensor([-0.5, -1.0, -0.7, -2.0], dtype=torch.float64),
        "old_logprob": torch.tensor([-0.6, -0.9, -0.75, -2.3], dtype=torch.float64),
        "advantage": torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64),
        "loss_weight": torch.full((4,), 0.25, dtype=torch.float64),
        "sequence_id": torch.tensor([0, 0, 1, 1]),
        "is_teacher": torch.tensor([False, False, True, True]),
    }
    assert "is_teacher" in required_fields(over)
    plain = leaf_gradients(base, base.at(1), fields)
    shaped = leaf_gradients(over, over.at(1), fields)
    torch.testing.assert_close(shaped.d_logprob[:2], plain.d_logprob[:2], rtol=0, atol=0)
    p = fields["logprob"][2:].exp()
    torch.testing.assert_close(shaped.d_logprob[2:], 0.25 * 0.1 * p / (p + 0.1) ** 2)
    assert with_shaped_offline(base, None) is base
    assert OBJECTIVES["shaped_offline"].function is shaped_offline
