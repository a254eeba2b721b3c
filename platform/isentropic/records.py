"""The records that travel through a step: prompts, requests, rollouts, samples, microbatches.

Shapes: T tokens of a sequence (prompt and turns), N response tokens (those the policy chose), S
sequences. Arrays are numpy on the host; only the learner turns them into tensors on its device.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
# "unfinished": cut at the end of a segment; it goes on in the next phase.
FinishReason = Literal["stop", "length", "turns", "unfinished"]
Source = Literal["new", "queue", "replay"]

ROUNDING = 1e-6  # a reward may fall short of the full one by so much of it, and is right

# Rollout.origin of what the policy itself wrote; of a teacher it is "teacher:<name>".
POLICY = "policy"


class RolloutKey(NamedTuple):
    """Names one rollout of a run.

    Sorting by it is the canonical order: it does not depend on which rollout finished first.
    """

    split: str  # "train", or "eval/<set>"
    draw: int  # index in the data order; draw d has the same prompt in every run with this seed
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
    reward_right: float = 1.0  # what the task pays for a right response; for less it is not right


def is_right(reward: float, prompt: Prompt) -> bool:
    """Return True if a response of this reward is right, as the prompt's task has it.

    The one definition for avg@k and pass@k, the NLL term, teachers, hard prompts and group metrics.
    Partial credit is not right, and neither is a response without a reward (NaN).
    """
    return reward >= prompt.reward_right - ROUNDING * abs(prompt.reward_right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call on an engine: one turn of one rollout."""

    key: RolloutKey
    turn: int
    token_ids: Ints  # [T] all tokens before this turn, image tokens included
    seed: int  # 62 bits, from `seeds.rollout_seed`
    temperature: float
    top_p: float = 1.0
    top_k: int = -1  # -1: off
    max_tokens: int
    media: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An engine's answer to one Request."""

    key: RolloutKey
    turn: int
    token_ids: Ints  # [N] with the end-of-sequence token, if there is one
    logprob: Floats  # [N] nats, as sampled: at the request's temperature
    finish_reason: FinishReason
    policy_version: int


class Segment(NamedTuple):
    """What one request wrote of a rollout, with `rollout.segment_tokens`: all under one version."""

    start: int  # its first token, counted in the rollout's response tokens
    step: int  # whose phase wrote it
    source_step: int  # under the weights after this step
    policy_version: int  # of these weights
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One episode.

    `reward` is the task's and is never overwritten; shaping writes `shaped_reward`.
    """

    key: RolloutKey
    prompt: Prompt
    token_ids: Ints  # [T] prompt, then turns with the environment's text between them
    turns: tuple[tuple[int, int], ...]  # spans [start, end) of token_ids that the policy wrote
    rollout_logprob: Floats  # [N] nats, as the engine sampled; NaN if none did (teachers)
    temperature: float
    seed: int
    finish_reason: FinishReason
    step: int  # the step it was drawn for; while it is carried, the last that wrote on it
    policy_version: int  # optimizer steps behind the weights that wrote it; its end, if several did
    source_step: int = 0  # those weights are the ones after this step
    origin: str = POLICY
    reward: float = float("nan")  # NaN: not graded yet
    # What the reward was made of, by name; most tasks name no parts. Replayed ones have lost them.
    reward_parts: dict[str, float] = field(default_factory=dict)
    shaped_reward: float = float("nan")
    texts: tuple[str, ...] = ()  # the turns in words, once they were decoded to be graded
    segments: tuple[Segment, ...] = ()  # none: one version wrote it all

    @property
    def response_mask(self) -> NDArray[np.bool_]:
        """[T] bool: the policy chose the token."""
        mask = np.zeros(len(self.token_ids), dtype=bool)
        for start, end in self.turns:
            mask[start:end] = True
        return mask

    @property
    def num_response_tokens(self) -> int:
        """N, the number of tokens that carry loss."""
        return sum(end - start for start, end in self.turns)

    @property
    def writers(self) -> list[tuple[int, int]]:
        """Who wrote the response: (tokens, the step after which the weights stood), in order."""
        if not self.segments:
            return [(self.num_response_tokens, self.source_step)]
        ends = [*(segment.start for segment in self.segments[1:]), self.num_response_tokens]
        return [
            (end - segment.start, segment.source_step)
            for segment, end in zip(self.segments, ends, strict=True)
        ]

    @property
    def source_steps(self) -> Ints:
        """[N] the same per response token: its weights stood after this step."""
        tokens, steps = zip(*self.writers, strict=True)
        return np.repeat(np.array(steps, dtype=np.int64), tokens)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason != "unfinished"

    @property
    def is_right(self) -> bool:
        """Whether the task paid what it pays for a right response."""
        return is_right(self.reward, self.prompt)

    @property
    def is_teacher(self) -> bool:
        return self.origin != POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one draw: the first wave's, then those of later waves."""

    draw: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def is_finished(self) -> bool:
        """Whether all of its rollouts are written to their end."""
        return bool(self.rollouts) and all(rollout.is_finished for rollout in self.rollouts)

    @property
    def begun_in(self) -> int:
        """The step in whose phase it was begun, of one in segments."""
        return min(rollout.segments[0].step for rollout in self.rollouts)

    def wave(self, wave: int) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts if rollout.key.wave == wave)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Statistics of one rollout's response tokens under one set of weights.

    All are at the training temperature.
    """

    logprob: Floats  # [N] nats
    entropy: Floats  # [N] nats, exact, over the full vocabulary
    # [N] S = p_y (log p_y + H) - sum_a p_a^2 (log p_a + H): a push of the token moves the entropy H
    # by -eta * push * S (docs/metrics.md).
    sensitivity: Floats
    sum_p2: Floats  # [N] sum over the vocabulary of p^2
    ref_logprob: Floats | None = None  # [N] under the frozen reference model, if requested
    # [N] sum_a s_a^2, s_a = p_a (log p_a + H): a weight of w on H itself moves it by eta * w * sum_s2.
    # None where nobody computed it, NaN in samples that an earlier version stored.
    sum_s2: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A rollout with all that its update needs; a replayed one keeps what it was stored with."""

    rollout: Rollout
    old: TokenScores  # under the weights its update began with
    advantage: Floats  # [N] reward units
    token_weight: Floats  # [N] correction of the engine's mismatch; 1: no correction
    source: Source = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Packed sequences, without padding: what one forward pass sees."""

    token_ids: Ints  # [T] all sequences end to end
    position_ids: Ints  # [T] position inside its own sequence
    cu_seqlens: Ints  # [S + 1] boundaries of the sequences in token_ids
    predict: Ints  # [N] position in T of the hidden state that predicts each response token
    target: Ints  # [N] the response token itself
    sequence_id: Ints  # [N] which of the S sequences a response token belongs to
    # [S] place of each sequence in what was packed (an update: its minibatch); -1: a filler.
    rows: Ints
    # Each [N]: advantage, old_logprob, loss_weight, ...
    fields: dict[str, NDArray] = field(default_factory=dict)
    # [S] references of each sequence's images; empty: no sequence has an image.
    media: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """The updates of one step, for one learner rank."""

    step: int
    # [K][microbatches]. Every rank has equally many in each update: FSDP's collectives would wait
    # forever for a rank that has one less.
    updates: tuple[tuple[MicroBatch, ...], ...]
    coefficients: dict[str, float | None]  # of the objective, schedules resolved for this step
    term_coefficients: dict[str, float] = field(default_factory=dict)  # of the added loss terms
    seeds: tuple[int, ...] = ()  # [K] for objectives that draw at random
    contexts: tuple[MicroBatch, ...] = ()  # where the books measure the entropy; none: no books
    # Whose momentum is followed: ways to sort the tokens -> names of the classes. Each microbatch's
    # field "class/<way>" [N] says which class a token is of, as an index.
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBooks:
    """What one optimizer step did to the entropy over the step's contexts; sums are those of all ranks.

    See `learner.books.update` for the formulas. All changes are in nats per context token.
    """

    entropy_before: float
    entropy_after: float
    first: float  # <grad H before, step>
    trapezoid: float  # <(grad H before + grad H after) / 2, step>, the step taken from the weights
    now: float  # part of the trapezoid, from the optimizer's state: this update's gradient
    momentum: float  # same: the gradients of earlier updates
    decay: float  # same: weight decay
    scale: float  # s: what the clip of the gradient left of it; 0 if no step was made
    impulse: float  # a token's whole effect through momentum, over its effect now
    logprob_slope: Floats  # [N] j, in the order of the rank's packed tokens
    entropy_slope: Floats  # [N] i, same
    # By "<way>/<class>", and "before": part of the trapezoid that the momentum of the class makes,
    # this update's gradient included. Only if owners are followed.
    owned: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterUse:
    """What the routers of a mixture of experts did in an update, over its response tokens.

    L layers with experts, E experts in each; sums are those of all ranks.
    """

    load: Floats  # [L, E] how often each expert was chosen
    entropy: Floats  # [L] nats, sum over tokens of the entropy of the router's distribution
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """One optimizer step, as one learner rank saw it."""

    # [N] under the weights of this update, in the order of the rank's packed tokens.
    logprob: Floats
    entropy: Floats  # [N] same
    grad_norm: float  # before clipping, over all parameters and ranks
    skipped: bool  # the gradient was not finite: no step was made
    learning_rate: float
    seconds: float
    books: UpdateBooks | None = None
    routers: RouterUse | None = None  # of all ranks; None if they are not watched


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A learner rank's answer to a StepBatch."""

    updates: tuple[UpdateResult, ...]
    policy_version: int  # after the updates
    # This rank's share of its device's bfloat16 peak during the updates; only on GPUs.
    mfu: float | None = None


@dataclass(slots=True)
class Usage:
    """How full one engine was, over the steps that it made since it was last asked."""

    steps: int = 0
    cache_use: float = 0.0  # sum over steps of the share of the key-value cache in use
    cache_use_max: float = 0.0
    waiting: int = 0  # sum over steps of the requests that waited for room in the cache or batch
    waiting_max: int = 0
    preemptions: int = 0  # requests that lost their cache and were computed again
