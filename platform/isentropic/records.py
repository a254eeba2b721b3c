"""The records that travel through a step: prompts, requests, rollouts, samples, microbatches.

Shapes: T tokens of a sequence (prompt and turns), N response tokens (those the policy chose), S sequences.
Arrays are numpy on the host; the learner alone turns them into tensors on its device.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
FinishReason = Literal["stop", "length", "turns"]
Source = Literal["new", "queue", "replay"]

POLICY = "policy"  # Rollout.origin of what the policy itself wrote; teachers are "teacher:<name>"


class RolloutKey(NamedTuple):
    """Names one rollout of a run. Sorting by it is the canonical order: it does not depend on who finished first."""

    split: str  # "train", or "eval/<set>"
    draw: (
        int  # index in the data order; the prompt of draw d is the same in every run with this seed
    )
    wave: int  # 0 is the first wave
    sample: int  # index inside (draw, wave)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One problem, as the task gives it."""

    prompt_id: str
    messages: tuple[dict[str, str], ...]  # chat messages: role, content
    answer: str
    media: tuple[str, ...] = ()  # references (paths), never pixels
    metadata: str = ""  # what else the task's check needs: what is graded travels with the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call on an engine: one turn of one rollout."""

    key: RolloutKey
    turn: int
    token_ids: Ints  # [T] all tokens before this turn; one for each token of an image
    seed: int  # 62 bits, from `seeds.rollout_seed`
    temperature: float
    top_p: float = 1.0
    top_k: int = -1  # -1: off
    max_tokens: int
    media: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine answers to one Request."""

    key: RolloutKey
    turn: int
    token_ids: Ints  # [N] the end-of-sequence token included, where there is one
    logprob: Floats  # [N] nats, as sampled: at the request's temperature
    finish_reason: FinishReason
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One finished episode. `reward` is the task's and is never overwritten; shaping writes `shaped_reward`."""

    key: RolloutKey
    prompt: Prompt
    token_ids: Ints  # [T] prompt, then turns with the environment's text between them
    turns: tuple[tuple[int, int], ...]  # spans [start, end) of token_ids that the policy wrote
    rollout_logprob: Floats  # [N] as the engine sampled them; NaN where no engine did (teachers)
    temperature: float
    seed: int
    finish_reason: FinishReason
    step: int  # the step it was drawn for
    policy_version: int  # optimizer steps behind the weights that wrote it
    source_step: int = 0  # those weights are the ones after this step
    origin: str = POLICY
    reward: float = float("nan")  # NaN: not graded yet
    shaped_reward: float = float("nan")

    @property
    def response_mask(self) -> NDArray[np.bool_]:
        """[T] True where the policy chose the token."""
        mask = np.zeros(len(self.token_ids), dtype=bool)
        for start, end in self.turns:
            mask[start:end] = True
        return mask

    @property
    def num_response_tokens(self) -> int:
        """N, the number of tokens that carry loss."""
        return sum(end - start for start, end in self.turns)

    @property
    def is_teacher(self) -> bool:
        return self.origin != POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one draw: the first wave's, then those of later waves."""

    draw: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    def wave(self, wave: int) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts if rollout.key.wave == wave)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Statistics of one rollout's response tokens under one set of weights, at the training temperature."""

    logprob: Floats  # [N] nats
    entropy: Floats  # [N] nats, exact, over the full vocabulary
    sensitivity: Floats  # [N] S of CE-GPPO (specs/ce_gppo.md 5.2): dH = -eta * weight * S
    sum_p2: Floats  # [N] sum over the vocabulary of p^2
    ref_logprob: Floats | None = None  # [N] under the frozen reference model, where asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A rollout with all that its update needs. Replayed samples keep what they were inserted with."""

    rollout: Rollout
    old: TokenScores  # under the weights its update began with
    advantage: Floats  # [N] reward units
    token_weight: Floats  # [N] correction of the engine's mismatch; 1 where none
    source: Source = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Packed sequences, without padding: what one forward pass sees."""

    token_ids: Ints  # [T] all sequences end to end
    position_ids: Ints  # [T] position inside its own sequence
    cu_seqlens: Ints  # [S + 1] boundaries of the sequences in token_ids
    predict: Ints  # [N] where in T the hidden state that predicts each response token stands
    target: Ints  # [N] the response token itself
    sequence_id: Ints  # [N] which of the S sequences a response token belongs to
    rows: Ints  # [S] index of each sequence in the batch that was packed; -1 for a filler
    fields: dict[str, NDArray] = field(
        default_factory=dict
    )  # [N] each: advantage, old_logprob, loss_weight, ...
    media: tuple[
        tuple[str, ...], ...
    ] = ()  # [S] references of each sequence's images; empty: no image in any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """The updates of one step, for one learner rank."""

    step: int
    updates: tuple[
        tuple[MicroBatch, ...], ...
    ]  # [K][microbatches]; every rank has equally many in each update
    coefficients: dict[str, float | None]  # of the objective, schedules resolved for this step
    term_coefficients: dict[str, float] = field(default_factory=dict)  # of the added loss terms
    seeds: tuple[int, ...] = ()  # [K] for objectives that draw at random


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """One optimizer step, as one learner rank saw it."""

    logprob: (
        Floats  # [N] under the weights of this update, in the order of the rank's packed tokens
    )
    entropy: Floats  # [N] same
    grad_norm: float  # before clipping, over all parameters and ranks
    skipped: bool  # the gradient was not finite: no step was made
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a learner rank answers to a StepBatch."""

    updates: tuple[UpdateResult, ...]
    policy_version: int  # after the updates
    mfu: float | None = (
        None  # this rank's share of its device's bfloat16 peak during the updates; GPUs alone
    )
