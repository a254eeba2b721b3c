"""The books of an update: how much of the entropy's change each part of the optimizer's step made.

Over a fixed set of contexts C let H(theta) be the mean entropy of their response tokens and grad H
its gradient. An update goes from theta to theta'. AdamW's step is a sum of three parts,

    m' = b1 m + (1 - b1) s g      v' = b2 v + (1 - b2) (s g)^2      D = sqrt(v' / (1 - b2^t)) + eps

    theta' - theta = - lr / ((1 - b1^t) D) * [ (1 - b1) s g + b1 m ]  -  lr wd theta
                                                now           momentum    decay

where t counts the steps, this one included, and s = min(1, max_norm / (norm + 1e-6)) is the clip of
the gradient g. To first order H changes by <grad H(theta), theta' - theta>. With the mean gradient
G = (grad H(theta) + grad H(theta')) / 2 the trapezoid <G, theta' - theta> comes closer, and it is
exactly now + momentum + decay.

Every token's part of `now` follows from one direction u = (1 - b1) / ((1 - b1^t) D) * G, because
g = - sum_t push_t grad logprob_t + sum_t d_entropy_t grad entropy_t:

    now = lr s sum_t push_t j_t - lr s sum_t d_entropy_t i_t
    j_t = <u, grad logprob_t>,  i_t = <u, grad entropy_t>

and central differences along u give j and i of all tokens in forward passes: two, whose error along
a sharp direction is that of the third derivative, and two more at twice the length, with which it
cancels (Richardson's extrapolation).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isentropic.learner.books.owners import Owners
from isentropic.learner.books.shards import (
    Shards,
    local,
    local_gradient,
    on_host,
    sum_over_shards,
)
from isentropic.records import MicroBatch, UpdateBooks

# Length of the step along u in parameter space. In float32 the tokens' sum was right to 3e-4 of the
# sum of their absolute values: shorter steps drown in rounding, longer ones see the curvature.
REACH = 0.02

# Copies of a rank's shards in float32 that there are at most; `learner.estimate` plans for them.
ON_HOST = 6  # gradients at the start and at the end, what is `Kept`, and the updated weights
ON_DEVICE = 2  # the mean gradient, and the weights that the update began with
AT_WORK = 13  # of one shard alone, while it is summed up in float64
PARTS = ("first", "trapezoid", "now", "momentum", "decay")


@dataclass(frozen=True)
class Slope:
    """Mean entropy over the contexts, and this rank's shards of its gradient, on the host."""

    entropy: float
    gradient: Shards


@dataclass(frozen=True)
class Kept:
    """What a step changes, as it was before, on the host."""

    weights: Shards
    gradients: Shards
    momentum: Shards


def clip_scale(grad_norm: float, max_norm: float) -> float:
    """Computes s: what the clip of the gradient leaves of it."""
    return min(1.0, max_norm / (grad_norm + 1e-6))


def check_adamw(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError unless the optimizer makes the steps whose parts the books know."""
    name = type(optimizer).__name__
    other = [key for key in ("amsgrad", "maximize") if optimizer.param_groups[0].get(key)]
    if type(optimizer) is not torch.optim.AdamW or other:
        raise ValueError(
            f"the entropy ledger splits the steps of torch's AdamW, and the optimizer is {name}"
            f"{f' with {other[0]}' if other else ''}. Set accounting.ledger.every=0."
        )


class Books:
    """Follows the updates of one step: call `before` and `after` around each optimizer step.

    The weights are moved along u and put back from copies, so training has the same bits with and
    without the books. Copies of this rank's shards lie in host memory, `ON_HOST` at most; on a GPU
    there are `ON_DEVICE` more, and only while tokens are scored along u.

    Args:
        optimizer: AdamW with one group over all parameters.
        measure: returns H over the contexts; leaves its gradient in the parameters' `grad`, summed
            over ranks.
        score: returns [N] logprob and [N] entropy of microbatches under the present weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.AdamW,
        measure: Callable[[], float],
        score: Callable[[Sequence[MicroBatch]], tuple[Tensor, Tensor]],
    ) -> None:
        self._optimizer = optimizer
        check_adamw(optimizer)
        (self._group,) = optimizer.param_groups
        self._measure = measure
        self._score = score
        self._slope = self._slope_here()

    def before(self, grad_norm: float, max_norm: float) -> None:
        """Keeps what the step is about to change; `grad` holds the clipped gradients."""
        self._scale = clip_scale(grad_norm, max_norm)
        self._kept = Kept(
            weights=[on_host(parameter) for parameter in self._parameters],
            gradients=[on_host(local_gradient(parameter)) for parameter in self._parameters],
            momentum=[on_host(state["exp_avg"]) for state in self._states],
        )

    def after(
        self, microbatches: Sequence[MicroBatch], owners: Owners | None = None
    ) -> UpdateBooks:
        """Closes the books of the step made on `microbatches`; every rank must call it.

        owners: whose momentum it was; None if that is not followed.
        """
        start, self._slope = self._slope, self._slope_here()
        parts, mean = self._parts(start, self._kept)
        owned = owners.parts(self._along(mean)) if owners else {}
        logprob_slope, entropy_slope = self._slopes(microbatches, mean, self._kept.weights)
        del self._kept
        return UpdateBooks(
            owned=owned,
            entropy_before=start.entropy,
            entropy_after=self._slope.entropy,
            scale=self._scale,
            impulse=self._impulse,
            logprob_slope=logprob_slope,
            entropy_slope=entropy_slope,
            **parts,
        )

    def skipped(self, num_tokens: int) -> UpdateBooks:
        """Returns the books of an update that made no step: nothing moved."""
        nothing = torch.zeros(num_tokens).numpy()
        return UpdateBooks(
            entropy_before=self._slope.entropy,
            entropy_after=self._slope.entropy,
            scale=0.0,
            impulse=0.0,
            logprob_slope=nothing,
            entropy_slope=nothing,
            **dict.fromkeys(PARTS, 0.0),
        )

    @property
    def _parameters(self) -> list[Tensor]:
        return self._group["params"]

    @property
    def _states(self) -> list[dict[str, Tensor]]:
        return [self._optimizer.state[parameter] for parameter in self._parameters]

    @property
    def _impulse(self) -> float:
        """AdamW's momentum gives a gradient (1 - b1^t) / (1 - b1) times its first effect."""
        beta1, _ = self._group["betas"]
        count = float(self._states[0]["step"])
        return (1 - beta1**count) / (1 - beta1)

    def _slope_here(self) -> Slope:
        self._optimizer.zero_grad(set_to_none=True)
        entropy = self._measure()
        gradient = [local_gradient(parameter).cpu() for parameter in self._parameters]
        self._optimizer.zero_grad(set_to_none=True)
        return Slope(entropy, gradient)

    def _denominator(self, state: dict[str, Tensor]) -> Tensor:
        """Returns (1 - b1^t) D of a shard, as the step used it, in float64."""
        beta1, beta2 = self._group["betas"]
        count = float(state["step"])
        second = local(state["exp_avg_sq"]).double() / (1 - beta2**count)
        return (1 - beta1**count) * (second.sqrt() + self._group["eps"])

    def _along(self, mean: Shards, factor: float = 1.0) -> Iterator[Tensor]:
        """Yields factor * G / ((1 - b1^t) D) of each shard, in float64.

        One after the other: of all at once they would be as large as weights and moments.
        """
        for average, state in zip(mean, self._states, strict=True):
            yield factor * average.double() / self._denominator(state)

    def _direction(self, mean: Shards) -> Iterator[Tensor]:
        """Yields u of each shard."""
        beta1, _ = self._group["betas"]
        return self._along(mean, 1 - beta1)

    @torch.no_grad()
    def _parts(self, start: Slope, kept: Kept) -> tuple[dict[str, float], Shards]:
        """Returns the sums of `UpdateBooks` by name, over all ranks and in float64; and G.

        The memory of `start` is used up.
        """
        beta1, _ = self._group["betas"]
        rate = self._group["lr"]
        device = local(self._parameters[0]).device
        sums = torch.zeros(len(PARTS), dtype=torch.float64, device=device)
        mean: Shards = []
        for parameter, state, *shards in zip(
            self._parameters,
            self._states,
            start.gradient,
            self._slope.gradient,
            kept.weights,
            kept.gradients,
            kept.momentum,
            strict=True,
        ):
            slope, end, weight, gradient, momentum = (shard.to(device) for shard in shards)
            step = local(parameter).double() - weight.double()
            first = (slope.double() * step).sum()
            average = slope.add_(end).div_(2)
            along = average.double() / self._denominator(state)
            sums += torch.stack(
                [
                    first,
                    (average.double() * step).sum(),
                    -rate * (1 - beta1) * (along * gradient.double()).sum(),
                    -rate * beta1 * (along * momentum.double()).sum(),
                    -rate * self._group["weight_decay"] * (average.double() * weight).sum(),
                ]
            )
            mean.append(average)
        sum_over_shards(sums, self._parameters[0])
        return dict(zip(PARTS, sums.tolist(), strict=True)), mean

    @torch.no_grad()
    def _slopes(self, microbatches: Sequence[MicroBatch], mean: Shards, weights: Shards) -> tuple:
        """Returns [N] j and [N] i: slopes along u at `weights`, those that the update began with."""
        square = torch.stack([part.square().sum() for part in self._direction(mean)]).sum()
        sum_over_shards(square, self._parameters[0])
        length = math.sqrt(float(square))
        if not length:
            lengths = sum(len(batch.target) for batch in microbatches)
            return torch.zeros(lengths).numpy(), torch.zeros(lengths).numpy()
        updated = [on_host(parameter) for parameter in self._parameters]
        before = [weight.to(mean[0].device) for weight in weights]
        near = self._differences(microbatches, before, mean, REACH / length)
        far = self._differences(microbatches, before, mean, 2 * REACH / length)
        slopes = [(4 * half - whole) / 3 for half, whole in zip(near, far, strict=True)]
        for parameter, weight in zip(self._parameters, updated, strict=True):
            local(parameter).copy_(weight)
        return tuple(slope.float().cpu().numpy() for slope in slopes)

    def _differences(
        self, microbatches: Sequence[MicroBatch], before: Shards, mean: Shards, reach: float
    ) -> list[Tensor]:
        """Returns [N] central differences of logprob and of entropy; leaves the weights moved."""
        sides = []
        for sign in (1, -1):
            self._move(before, mean, sign * reach)
            sides.append(self._score(microbatches))
        return [
            (above.double() - below.double()) / (2 * reach)
            for above, below in zip(*sides, strict=True)
        ]

    def _move(self, before: Shards, mean: Shards, reach: float) -> None:
        """Sets the weights to `before` + reach * u; of a call of its own no shard is left behind."""
        for parameter, weight, part in zip(
            self._parameters, before, self._direction(mean), strict=True
        ):
            local(parameter).copy_(weight.double() + reach * part)
