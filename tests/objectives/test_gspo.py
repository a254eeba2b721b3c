"""The sequence's ratio is the geometric mean of its tokens'; the gradient of each token is its own."""

import math

import pytest
import torch

from isentropic.objectives import gspo
from isentropic.objectives.gspo import GspoConfig

ID = torch.tensor([0, 1, 0, 1, 1])


def test_ratio_is_that_of_the_sequence(at, close):
    """Sequence 0: sqrt(2 * 8) = 4, above the bound; sequence 1: (1 * 2 * 0.25)^(1/3) = 0.7937, inside."""
    loss, slope, _ = at(
        gspo,
        [2.0, 1.0, 8.0, 2.0, 0.25],
        [-1.0, 1.0, -1.0, 1.0, 2.0],
        sequence_id=ID,
        clip_low=0.5,
        clip_high=1.0,
    )
    s = 0.5 ** (1 / 3)
    assert loss == close([4.0, -s, 4.0, -s, -2 * s])
    assert slope == close([4.0, -s, 4.0, -s, -2 * s])


def test_clips_whole_sequences(at, close):
    loss, slope, metrics = at(
        gspo,
        [2.0, 1.0, 8.0, 2.0, 0.25],
        [1.0, -1.0, 1.0, -1.0, -1.0],
        sequence_id=ID,
        clip_low=0.1,
        clip_high=1.0,
    )
    assert loss == close([-2.0, 0.9, -2.0, 0.9, 0.9]) and slope == [0.0] * 5
    assert metrics["clip/high_frac"] == [1, 0, 1, 0, 0]


def test_gradient_of_the_sequence_mean_is_that_of_s():
    """With one advantage a response: d(-s A)/d log_ratio_t = -s A / length, as if s were differentiated."""
    log_ratio = torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64, requires_grad=True)
    one = torch.zeros(3, dtype=torch.int64)
    loss = gspo(
        log_ratio,
        torch.full((3,), 2.0, dtype=torch.float64),
        sequence_id=one,
        clip_low=None,
        clip_high=None,
    )
    ours = torch.autograd.grad(loss.loss.mean(), log_ratio)[0]
    theirs = torch.autograd.grad(-2.0 * log_ratio.mean().exp(), log_ratio)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


def test_token_advantages_stay_with_their_tokens(at, close):
    one = torch.zeros(2, dtype=torch.int64)
    _, slope, _ = at(gspo, [1.0, 1.0], [1.0, -3.0], sequence_id=one, clip_low=0.2, clip_high=0.2)
    assert slope == close([-1.0, 3.0])


def test_extreme_tokens_that_cancel_and_that_do_not(at, close):
    log_ratio = torch.tensor([200.0, 200.0, -200.0, -200.0, -200.0], dtype=torch.float64)
    sequence_id = torch.tensor([0, 1, 0, 2, 2])
    _, slope, _ = at(
        gspo, log_ratio, [1.0] * 5, sequence_id=sequence_id, clip_low=None, clip_high=None
    )
    assert slope == close([-1.0, 0.0, -1.0, 0.0, 0.0])
    loss, *_ = at(
        gspo, log_ratio, [-1.0] * 5, sequence_id=sequence_id, clip_low=None, clip_high=None
    )
    assert loss == close([1.0, math.exp(20), 1.0, math.exp(-20), math.exp(-20)])


def test_config_refuses_the_token_ratio():
    with pytest.raises(
        ValueError,
        match=r"objective.ratio of gspo must be sequence, got 'token'. .* objective=clip",
    ):
        GspoConfig(name="gspo", ratio="token", clip_low=3e-4, clip_high=4e-4, dual_clip=None)
