"""STEER: any objective, its tokens weighed down by how far they would move the entropy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isentropic.checks import check_choice, check_range
from isentropic.objectives.clip import clip
from isentropic.objectives.loss import TokenLoss, bounded_exp, check_coefficient
from isentropic.objectives.over.base import OverConfig

SMALL = 1e-8  # probabilities are kept this far from 0 and 1, as in the released code
METRICS = ("paper", "own", "exact")
MAPPINGS = ("exponential", "linear")
RESPONSES = (
    "It counts responses: 8 as in the released code, null for the whole minibatch. The microbatches "
    "that the learner packs cannot be meant: they follow learner.microbatch_tokens and the number of "
    "ranks, so the weights would depend on the hardware."
)


def steer(
    log_ratio: Tensor,
    advantage: Tensor,
    *,
    logprob: Tensor,
    old_logprob: Tensor,
    entropy: Tensor,
    sensitivity: Tensor,
    sequence_id: Tensor,
    weight_min: float,
    weight_max: float,
    floor: float,
    quantile: float,
    metric: str = "paper",
    mapping: str = "exponential",
    skip_silenced: bool = True,
    microbatch: int | None = None,
    base: Callable[..., TokenLoss] = clip,
    **base_inputs: Any,
) -> TokenLoss:
    """Token weights from the estimated entropy change, over another objective (arXiv:2510.10150).

        u_t    = |A_t / q_t * p_t (1 - p_t) (log p_t + H_t)|        p current, q old probability
        w_t    = clamp(exp(ln(weight_min) * u_t / max(max u, floor)), weight_min, 1)   exponential
                 weight_max - (u_t - min u) (weight_max - weight_min) / (max u - min u)     linear
        loss_t = w_t * base loss_t

    A large change is damped, whichever way it goes: a speed limit, not a target. No gradient flows
    through w. max and min go over the tokens given, so give it a whole minibatch; with `microbatch`
    over every few responses of it in turn. The released code takes them over each microbatch that a
    GPU holds, 8 responses; counted in responses the blocks depend on no packing and no rank.
    The weights lower the total gradient: compare with a base whose learning rate is lower by
    `steer_weight/mean`.

    Args:
        log_ratio: [N] logprob - old_logprob in nats; carries the gradient.
        advantage: [N] in reward units, no gradient.
        logprob, old_logprob: [N] nats; entropy: [N] nats, of the current policy.
        sensitivity: [N] S of the token statistics; read only for metric=exact.
        sequence_id: [N] which response, in the minibatch's order; read only with `microbatch`.
        weight_min, weight_max: range of the weights; weight_max is that of the linear mapping.
        floor: max u counts as at least this much, as in the released code; 0 is off.
        quantile: of u, in place of its maximum, if below 1 ([reconstructed]): one token cannot
            set the scale for all.
        metric: paper: u | own: p u, the token's own logit's share | exact: |r A S| ([reconstructed],
            the last two).
        mapping: exponential | linear.
        skip_silenced: tokens without a gradient in the base have u = 0, as in the paper's text; the
            released code lets them take part in the maximum.
        microbatch: responses that share a maximum and a minimum; the last block may have fewer.
            None: the whole minibatch.
        base: the other objective's function; `base_inputs` are its keyword arguments.
    """
    loss, base_metrics = base(log_ratio, advantage, **base_inputs)
    with torch.no_grad():
        change = _change(advantage, logprob, old_logprob, entropy, sensitivity, metric)
    if skip_silenced:
        silent = _silent(log_ratio, advantage, base, base_inputs)
        change = change.masked_fill(silent, 0.0)
    weight = torch.empty_like(change)
    for block in _blocks(sequence_id, microbatch):
        weight[block] = _weights(change[block], mapping, weight_min, weight_max, floor, quantile)
    one = torch.ones_like(weight)
    metrics = {
        "steer_weight/mean": weight,
        "steer_weight/std": (weight.std(correction=0) if weight.numel() else 0.0) * one,
        "steer_weight/low_frac": (weight < 0.95).to(weight.dtype),
        "steer_weight/change_mean": change,
        "steer_weight/change_max": (change.max() if weight.numel() else 0.0) * one,
    }
    return TokenLoss(loss * weight, base_metrics | metrics)


def _change(
    advantage: Tensor,
    logprob: Tensor,
    old_logprob: Tensor,
    entropy: Tensor,
    sensitivity: Tensor,
    metric: str,
) -> Tensor:
    """[N] size of the estimated entropy change, per unit of step size; not finite counts as 0."""
    if metric == "exact":
        change = bounded_exp(logprob - old_logprob) * advantage * sensitivity
    else:
        p = logprob.exp().clamp(SMALL, 1 - SMALL)
        q = old_logprob.exp().clamp(SMALL, 1.0)
        change = advantage / q * p * (1 - p) * (p.log() + entropy)
        change = change * p if metric == "own" else change
    return change.abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _silent(
    log_ratio: Tensor, advantage: Tensor, base: Callable[..., TokenLoss], inputs: Mapping[str, Any]
) -> Tensor:
    """[N] tokens whose ratio has no gradient in the base: clipped ones, and those with A = 0."""
    with torch.enable_grad():
        leaf = log_ratio.detach().requires_grad_()
        total = base(leaf, advantage, **inputs).loss.sum()
        (slope,) = torch.autograd.grad(total, leaf)
    return slope == 0


def _blocks(sequence_id: Tensor, microbatch: int | None) -> list[Tensor | slice]:
    """Index the tokens of every `microbatch` responses, in the order of their numbers."""
    if microbatch is None:
        return [slice(None)]
    # A response without tokens has no number in the update and one in the metrics: neither counts.
    block = torch.unique(sequence_id, return_inverse=True)[1] // microbatch
    return [block == number for number in block.unique().tolist()]


def _weights(
    change: Tensor,
    mapping: str,
    weight_min: float,
    weight_max: float,
    floor: float,
    quantile: float,
) -> Tensor:
    """[N] weights; larger changes weigh less."""
    if not change.numel():
        return change
    # torch.quantile refuses more than 16 million values, and kthvalue is refused with learner.deterministic.
    rank = max(1, math.ceil(quantile * change.numel()))
    largest = change.sort().values[rank - 1]
    if mapping == "exponential":
        scale = largest.clamp(min=floor)
        share = torch.where(scale > 0, change / scale, (change > 0).to(change))
        return (math.log(weight_min) * share).exp().clamp(weight_min, 1.0)
    smallest = change.min()
    if change.max() == smallest:
        return torch.full_like(change, (weight_min + weight_max) / 2)
    if largest == smallest:  # as a quantile may be: what lies above it is beyond it
        share = (change > smallest).to(change)
    else:
        share = ((change - smallest) / (largest - smallest)).clamp(max=1.0)
    return weight_max - share * (weight_max - weight_min)


@dataclass(frozen=True, kw_only=True)
class SteerConfig(OverConfig):
    """Coefficients and choices of `objectives.steer`, and the whole config of its base."""

    function = staticmethod(steer)
    choices: ClassVar[tuple[str, ...]] = ("metric", "mapping", "skip_silenced", "microbatch")

    weight_min: Any  # weight of the token that would move the entropy most, in (0, 1]
    weight_max: Any  # linear: weight of the one that would move it least
    floor: Any  # the largest change counts as at least this much; 0 is off
    quantile: Any  # of the changes, in place of the largest one; 1 is the largest
    metric: str  # paper | own | exact
    mapping: str  # exponential | linear
    skip_silenced: bool  # tokens without a gradient in the base do not count
    microbatch: int | None  # responses that share a largest change; null: the whole minibatch

    def __post_init__(self) -> None:
        super().__post_init__()
        check_coefficient("objective.weight_min", self.weight_min, above=0, at_most=1)
        check_coefficient("objective.weight_max", self.weight_max, at_least=1)
        check_coefficient("objective.floor", self.floor, at_least=0)
        check_coefficient("objective.quantile", self.quantile, above=0, at_most=1)
        check_choice("objective.metric", self.metric, METRICS)
        check_choice("objective.mapping", self.mapping, MAPPINGS)
        if self.microbatch is not None:
            check_range("objective.microbatch", self.microbatch, at_least=1, hint=RESPONSES)
            if not isinstance(self.microbatch, int):  # from a panel, whose values are not typed
                raise ValueError(
                    f"objective.microbatch must be whole, got {self.microbatch}. {RESPONSES}"
                )

    @property
    def needs_minibatch(self) -> bool:
        """The largest change is that of the whole minibatch, or of responses that follow in it."""
        return True
