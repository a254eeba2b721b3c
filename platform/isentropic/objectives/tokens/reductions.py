"""Loss weights: from per-token losses to the loss of a minibatch, only by response lengths.

They are known before any forward pass, so the gradient does not depend on packing, microbatch size
or ranks (`microbatch_mean` excepted, whose point is that it does).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isentropic.checks import check_choice


class Reduction(Protocol):
    """An entry of REDUCTIONS."""

    @staticmethod
    def weights(
        lengths: NDArray[np.int64],
        *,
        max_response_tokens: int,
        microbatch_of: NDArray[np.int64] | None = None,
        prompt_of: NDArray[np.int64] | None = None,
        chosen: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Give the loss weight that each token of sequence s carries.

        Args:
            lengths: [S] response tokens of every sequence of the minibatch, over all ranks.
            max_response_tokens: the limit on a response.
            microbatch_of: [S] which microbatch each sequence is packed into, counted over all
                ranks.
            prompt_of: [S] a number per prompt; those of its responses are equal.
            chosen: [S] the mean goes only over these, 0 elsewhere; None is all. The NLL on correct
                responses is weighed this way.

        Returns:
            [S] float64; 0 for a sequence without tokens, which counts nowhere.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TokenMean:
    """Every token of the minibatch weighs the same: 1 / (all tokens). CE-GPPO, DAPO."""

    name: str

    @staticmethod
    def weights(lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None):
        chosen = _chosen(lengths, chosen)
        return _over(chosen, np.sum(lengths, where=chosen))


@dataclass(frozen=True, kw_only=True)
class SequenceMean:
    """Every response weighs the same: 1 / (responses * length). GRPO as printed, GSPO."""

    name: str

    @staticmethod
    def weights(lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None):
        chosen = _chosen(lengths, chosen)
        return _over(chosen, chosen.sum() * np.asarray(lengths))


@dataclass(frozen=True, kw_only=True)
class SequenceSum:
    """The loss of a response is the sum over its tokens: 1 / responses. RLOO (arXiv:2402.14740)."""

    name: str

    @staticmethod
    def weights(lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None):
        chosen = _chosen(lengths, chosen)
        return _over(chosen, chosen.sum())


@dataclass(frozen=True, kw_only=True)
class FixedLength:
    """Sums over a constant: 1 / (responses * max_response_tokens). Dr. GRPO."""

    name: str

    @staticmethod
    def weights(lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None):
        chosen = _chosen(lengths, chosen)
        return _over(chosen, chosen.sum() * max_response_tokens)


@dataclass(frozen=True, kw_only=True)
class MicrobatchMean:
    """CE-GPPO's released code: the token mean of each microbatch, times its share of the responses.

    (responses in the microbatch / responses) / (tokens in the microbatch): depends on the packing
    by design.
    """

    name: str

    @staticmethod
    def weights(lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None):
        if microbatch_of is None:
            raise ValueError(
                "reduction microbatch_mean needs to know the packing: give microbatch_of."
            )
        lengths, chosen, present = (
            np.asarray(lengths),
            _chosen(lengths, chosen),
            _chosen(lengths, None),
        )
        count = microbatch_of.max(initial=-1) + 1
        responses = np.bincount(microbatch_of[present], minlength=count)
        tokens = np.bincount(microbatch_of, weights=lengths * chosen, minlength=count)
        return _over(chosen, present.sum() * tokens[microbatch_of]) * responses[microbatch_of]


@dataclass(frozen=True, kw_only=True)
class PerPrompt:
    """Every prompt weighs the same, its responses share by another reduction (arXiv:2604.26326, Eq. 5).

        1 / prompts * (weight of the token by `within`, over its own prompt's responses)

    Eq. 5 of Entrocraft divides by the responses that are left of a prompt. One without any, or with
    none that is chosen, is not in the mean.
    """

    name: str
    within: str  # how a prompt's own tokens share: a reduction that asks for lengths only

    def __post_init__(self) -> None:
        check_choice("reduction.within", self.within, WITHIN)

    def weights(
        self, lengths, *, max_response_tokens, microbatch_of=None, prompt_of=None, chosen=None
    ):
        if prompt_of is None:
            raise ValueError("reduction per_prompt needs to know the prompts: give prompt_of.")
        lengths, chosen = np.asarray(lengths), _chosen(lengths, chosen)
        inner, weights = REDUCTIONS[self.within], np.zeros(len(lengths))
        prompts = np.unique(prompt_of[chosen])
        for prompt in prompts:
            own = prompt_of == prompt
            weights[own] = inner.weights(
                lengths[own], max_response_tokens=max_response_tokens, chosen=chosen[own]
            )
        return weights / max(1, len(prompts))


WITHIN = ("token_mean", "sequence_mean", "sequence_sum", "fixed_length")

REDUCTIONS: dict[str, type[Reduction]] = {
    "token_mean": TokenMean,
    "sequence_mean": SequenceMean,
    "sequence_sum": SequenceSum,
    "fixed_length": FixedLength,
    "microbatch_mean": MicrobatchMean,
    "per_prompt": PerPrompt,
}


def _chosen(lengths, chosen):
    present = np.asarray(lengths) > 0
    return present if chosen is None else present & chosen


def _over(chosen, denominator):
    """[S] 1 / denominator for the chosen sequences, 0 elsewhere."""
    denominator = np.broadcast_to(np.asarray(denominator, dtype=np.float64), chosen.shape)
    return np.divide(1.0, denominator, out=np.zeros(chosen.shape), where=chosen)
