"""A drawn token has loss 0 and gradient 0; the others are PPO's."""

import torch

from isentropic.objectives import clip, clip_cov

GIVEN = {"clip_low": 0.2, "clip_high": 0.2}


def many(n=1000):
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(n, generator=generator, dtype=torch.float64)  # noqa: E731
    return 0.05 * draw(), draw(), draw()


def test_draws_the_share_among_candidates_and_leaves_the_rest():
    log_ratio, advantage, logprob = many()
    inputs = {"logprob": logprob, "share": 0.01, "cov_low": 0.5, "cov_high": 2.0, **GIVEN}
    log_ratio.requires_grad_()
    result = clip_cov(log_ratio, advantage, **inputs, seed=1)
    drawn = result.metrics["clip_cov/frac"] == 1
    covariance = (advantage - advantage.mean()) * (logprob - logprob.mean())
    assert int(drawn.sum()) == 10  # int(0.01 * 1000)
    assert ((covariance[drawn] > 0.5) & (covariance[drawn] < 2.0)).all()
    slope = torch.autograd.grad(result.loss.sum(), log_ratio)[0]
    plain = clip(log_ratio, advantage, **GIVEN).loss
    assert (result.loss[drawn] == 0).all() and (slope[drawn] == 0).all()
    assert torch.equal(result.loss[~drawn], plain[~drawn])
    assert torch.equal(slope[~drawn], torch.autograd.grad(plain.sum(), log_ratio)[0][~drawn])


def test_draw_depends_on_the_seed_alone():
    log_ratio, advantage, logprob = many()
    inputs = {"logprob": logprob, "share": 0.01, "cov_low": 0.1, "cov_high": 9.0, **GIVEN}
    first, again, other = (
        clip_cov(log_ratio, advantage, **inputs, seed=seed).metrics["clip_cov/frac"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_never_draws_what_the_clip_has_silenced_and_takes_all_if_few():
    """Covariances: 4.5 * (A - mean): tokens 0 and 1 qualify, token 1 is clipped already."""
    log_ratio = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    logprob = torch.tensor([-1.0, -1.0, -1.0, -5.0], dtype=torch.float64)
    result = clip_cov(
        log_ratio, advantage, logprob=logprob, share=1.0, cov_low=0.5, cov_high=1.5, **GIVEN
    )
    assert result.metrics["cov"].tolist() == [1.0, 1.0, -1.0, 3.0]
    assert result.metrics["clip_cov/frac"].tolist() == [1.0, 0.0, 0.0, 0.0]
    # Bounds on the covariance are strict.
    result = clip_cov(
        log_ratio, advantage, logprob=logprob, share=1.0, cov_low=1.0, cov_high=3.0, **GIVEN
    )
    assert result.metrics["clip_cov/frac"].sum() == 0
