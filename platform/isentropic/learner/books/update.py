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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isentropic.learner.books.owners import Owners
from isentropic.learner.books.shards import Shards, local, local_gradients, sum_over_shards
from isentropic.records import MicroBatch, UpdateBooks

# Length of the step along u in parameter space. In float32 the tokens' sum was right to 3e-4 of the
# sum of their absolute values: shorter steps drown in rounding, longer ones see the curvature.
REACH = 0.02

PARTS = ("first", "trapezoid", "now", "momentum", "decay")


@dataclass(frozen=True)
class Slope:
    """Mean entropy over the contexts, and this rank's shards of its gradient."""

    entropy: float
    gradient: Shards


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
    without the books. Holds five more copies of this rank's shards while it lives.

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
        self._weights = [local(parameter).clone() for parameter in self._parameters]
        self._gradients = local_gradients(self._parameters)
        self._momentum = [local(state["exp_avg"]).clone() for state in self._states]

    def after(
        self, microbatches: Sequence[MicroBatch], owners: Owners | None = None
    ) -> UpdateBooks:
        """Closes the books of the step made on `microbatches`; every rank must call it.

        owners: whose momentum it was; None if that is not followed.
        """
        start = self._slope
        end = self._slope_here()
        self._slope = end
        mean = [(one + other) / 2 for one, other in zip(start.gradient, end.gradient, strict=True)]
        parts = self._parts(start.gradient, mean)
        logprob_slope, entropy_slope = self._slopes(microbatches, mean)
        return UpdateBooks(
            owned=owners.parts(self._along(mean)) if owners else {},
            entropy_before=start.entropy,
            entropy_after=end.entropy,
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
        gradient = local_gradients(self._parameters)
        self._optimizer.zero_grad(set_to_none=True)
        return Slope(entropy, gradient)

    def _denominators(self) -> list[Tensor]:
        """Returns (1 - b1^t) D of each shard, as the step used it, in float64."""
        beta1, beta2 = self._group["betas"]
        denominators = []
        for state in self._states:
            count = float(state["step"])
            second = local(state["exp_avg_sq"]).double() / (1 - beta2**count)
            denominators.append((1 - beta1**count) * (second.sqrt() + self._group["eps"]))
        return denominators

    def _along(self, mean: Shards) -> Shards:
        """Returns G / ((1 - b1^t) D) of each shard, in float64."""
        return [
            average.double() / denominator
            for average, denominator in zip(mean, self._denominators(), strict=True)
        ]

    @torch.no_grad()
    def _parts(self, start: Shards, mean: Shards) -> dict[str, float]:
        """Returns the sums of `UpdateBooks` by name, over all ranks and in float64."""
        beta1, _ = self._group["betas"]
        rate = self._group["lr"]
        sums = torch.zeros(len(PARTS), dtype=torch.float64, device=mean[0].device)
        for slope, average, parameter, weight, gradient, momentum, denominator in zip(
            start,
            mean,
            self._parameters,
            self._weights,
            self._gradients,
            self._momentum,
            self._denominators(),
            strict=True,
        ):
            step = local(parameter).double() - weight.double()
            along = average.double() / denominator
            sums += torch.stack(
                [
                    (slope.double() * step).sum(),
                    (average.double() * step).sum(),
                    -rate * (1 - beta1) * (along * gradient.double()).sum(),
                    -rate * beta1 * (along * momentum.double()).sum(),
                    -rate * self._group["weight_decay"] * (average.double() * weight).sum(),
                ]
            )
        sum_over_shards(sums, self._parameters[0])
        return dict(zip(PARTS, sums.tolist(), strict=True))

    @torch.no_grad()
    def _slopes(self, microbatches: Sequence[MicroBatch], mean: Shards) -> tuple:
        """Returns [N] j and [N] i: slopes along u at the weights that the update began with."""
        beta1, _ = self._group["betas"]
        direction = [
            (1 - beta1) * average.double() / denominator
            for average, denominator in zip(mean, self._denominators(), strict=True)
        ]
        square = torch.stack([part.square().sum() for part in direction]).sum()
        sum_over_shards(square, self._parameters[0])
        length = math.sqrt(float(square))
        if not length:
            lengths = sum(len(batch.target) for batch in microbatches)
            return torch.zeros(lengths).numpy(), torch.zeros(lengths).numpy()
        updated = [local(parameter).clone() for parameter in self._parameters]
        near = self._differences(microbatches, direction, REACH / length)
        far = self._differences(microbatches, direction, 2 * REACH / length)
        slopes = [(4 * half - whole) / 3 for half, whole in zip(near, far, strict=True)]
        for parameter, weight in zip(self._parameters, updated, strict=True):
            local(parameter).copy_(weight)
        return tuple(slope.float().cpu().numpy() for slope in slopes)

    def _differences(
        self, microbatches: Sequence[MicroBatch], direction: Shards, reach: float
    ) -> list[Tensor]:
        """Returns [N] central differences of logprob and of entropy; leaves the weights moved."""
        sides = []
        for sign in (1, -1):
            for parameter, weight, part in zip(
                self._parameters, self._weights, direction, strict=True
            ):
                local(parameter).copy_(weight.double() + sign * reach * part)
            sides.append(self._score(microbatches))
        return [
            (above.double() - below.double()) / (2 * reach)
            for above, below in zip(*sides, strict=True)
        ]
