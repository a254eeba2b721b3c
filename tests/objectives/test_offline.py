"""d loss / d logprob on a teacher token is -shape * p / (p + shape)^2 * A, wherever the ratio stands."""

import pytest
import torch

from isentropic.objectives.clip import clip
from isentropic.objectives.offline import shaped_offline


def losses(p, old_p, advantage, is_teacher):
    logprob = torch.tensor(p, dtype=torch.float64).log().requires_grad_()
    log_ratio = logprob - torch.tensor(old_p, dtype=torch.float64).log()
    advantage = torch.tensor(advantage, dtype=torch.float64)
    online = clip(log_ratio, advantage, clip_low=0.2, clip_high=0.2)
    teachers = torch.tensor(is_teacher)
    result = shaped_offline(online, logprob=logprob, advantage=advantage, is_teacher=teachers, shape=0.1)
    result.loss.sum().backward()
    return result, online, logprob.grad


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
    result, online, grad = losses(*arguments, [False, False, False])
    assert torch.equal(result.loss, online.loss)
    assert all(torch.equal(result.metrics[name], online.metrics[name]) for name in online.metrics)
    mixed, _, mixed_grad = losses(*arguments, [False, True, False])
    assert torch.equal(mixed.loss[[0, 2]], online.loss[[0, 2]])
    assert torch.equal(mixed_grad[[0, 2]], grad[[0, 2]])
