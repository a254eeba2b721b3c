"""One rollout while it is written: which requests it makes, and the record that it leaves.

An episode is a prompt, a turn of the policy, the environment's reply, a turn, and so on. A turn is
one request, unless the episode has a budget of tokens (`rollout.segment_tokens`): then it is cut
when the budget is used up, and goes on later, with another request, which begins with all that was
written.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from isentropic.methods.slots import Wave
from isentropic.records import (
    Completion,
    FinishReason,
    Ints,
    Prompt,
    Request,
    Rollout,
    RolloutKey,
    Segment,
)
from isentropic.seeds import rollout_seed
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrom:
    """What the rollouts of a wave are drawn for, and under which weights."""

    step: int  # the step that they are drawn for
    source_step: int  # the weights are those after this step
    policy_version: int


@dataclass(slots=True, kw_only=True)
class Episode:
    """A rollout that is being written."""

    key: RolloutKey
    prompt: Prompt
    wave: Wave
    max_tokens: int  # per turn
    budget: int | None = None  # tokens that it may still write before it is cut; None: no limit
    tokens: list[Ints]  # the prompt, a turn, the environment's reply, a turn, ...
    turns: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of the turns that were answered
    logprobs: list[np.ndarray] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)  # only of one that may be cut
    is_open: bool = False  # the last turn was cut: it goes on
    seed: int = 0  # of the request that is being answered
    finish_reason: FinishReason = "unfinished"

    @property
    def length(self) -> int:
        return sum(len(part) for part in self.tokens)

    @property
    def written(self) -> int:
        """Tokens that the policy wrote."""
        return sum(end - start for start, end in self.turns)

    @property
    def in_turn(self) -> int:
        """Tokens of the turn that is being written."""
        return self.turns[-1][1] - self.turns[-1][0] if self.is_open else 0


class Episodes:
    """Begins, continues and ends episodes. It has no state."""

    def __init__(self, *, task: Task, chat: Chat, seed: int, window: int) -> None:
        """window: tokens that a whole episode may have, prompt and replies included."""
        self._task = task
        self._chat = chat
        self._seed = seed
        self._window = window

    def begin(
        self, keys: Iterable[RolloutKey], prompt: Prompt, wave: Wave, max_tokens: int
    ) -> dict[RolloutKey, Episode]:
        """New episodes of one prompt; `max_tokens` are those of a turn."""
        tokens = self._chat.prompt_ids(prompt)
        return {
            key: Episode(key=key, prompt=prompt, wave=wave, max_tokens=max_tokens, tokens=[tokens])
            for key in keys
        }

    def go_on(self, rollout: Rollout, wave: Wave, max_tokens: int) -> Episode:
        """The episode of a rollout that was cut."""
        places = [place for turn in rollout.turns for place in turn]
        parts = np.split(rollout.token_ids, places)
        # Nothing behind the last turn: it was cut in its middle. Else a reply stands there.
        is_open = len(parts[-1]) == 0
        return Episode(
            key=rollout.key,
            prompt=rollout.prompt,
            wave=wave,
            max_tokens=max_tokens,
            tokens=parts[:-1] if is_open else parts,
            turns=list(rollout.turns),
            logprobs=[rollout.rollout_logprob],
            segments=list(rollout.segments),
            is_open=is_open,
            texts=list(rollout.texts),
        )

    def end_full(self, rollouts: Iterable[Rollout], max_tokens: int) -> list[Rollout]:
        """Returns those that were cut and may not go on, ended where they were cut.

        There are some only if a resume has lowered a limit: of tokens, of turns, or the window.
        """
        ended = []
        for rollout in rollouts:
            if rollout.is_finished:
                continue
            start, end = rollout.turns[-1]
            is_open = end == len(rollout.token_ids)
            room = min(max_tokens - is_open * (end - start), self._window - len(rollout.token_ids))
            if is_open and room <= 0:
                ended.append(replace(rollout, finish_reason="length"))
            elif not is_open and (room <= 0 or len(rollout.turns) >= self._task.max_turns):
                # Without the reply, which nobody answers.
                tokens = rollout.token_ids[:end]
                ended.append(replace(rollout, token_ids=tokens, finish_reason="turns"))
        return ended

    def request(self, episode: Episode) -> Request:
        """Asks for the next turn, or for more of the one that was cut."""
        key, wave = episode.key, episode.wave
        turn = len(episode.turns) - episode.is_open
        before = episode.written - episode.in_turn
        segment = sum(each.start >= before for each in episode.segments)
        episode.seed = rollout_seed(
            self._seed, key.split, key.draw, key.sample, key.wave, turn, segment
        )
        room = self._room(episode)
        return Request(
            key=key,
            turn=turn,
            token_ids=np.concatenate(episode.tokens),
            seed=episode.seed,
            temperature=wave.temperature,
            top_p=wave.top_p,
            top_k=wave.top_k,
            max_tokens=room if episode.budget is None else min(room, episode.budget),
            media=episode.prompt.media,
        )

    def advance(
        self, episode: Episode, completion: Completion, drawn_from: DrawnFrom
    ) -> Request | None:
        """Adds what was written. The request that follows at once; None if the episode is done.

        Done are those that are finished and those whose budget is used up.
        """
        self._add(episode, completion, drawn_from)
        reason = completion.finish_reason
        if episode.budget is not None and reason == "length" and self._room(episode) > 0:
            return None  # cut
        episode.is_open = False
        episode.finish_reason = reason
        if self._task.max_turns == 1 or reason == "length":
            return None
        episode.texts += self._chat.decode(episode.tokens[1::2][len(episode.texts) :])
        reply = self._task.reply(episode.prompt, list(episode.texts))
        if reply is None:
            return None
        between = self._chat.reply_ids(episode.prompt, reply, reason)
        if (
            len(episode.turns) >= self._task.max_turns
            or episode.length + len(between) >= self._window
        ):
            episode.finish_reason = "turns"
            return None
        episode.tokens.append(between)
        episode.finish_reason = "unfinished"
        return None if episode.budget == 0 else self.request(episode)

    def rollout(self, episode: Episode, drawn_from: DrawnFrom) -> Rollout:
        """The record of what there is of an episode. Its reward is missing."""
        key = episode.key
        return Rollout(
            key=key,
            prompt=episode.prompt,
            token_ids=np.concatenate(episode.tokens),
            turns=tuple(episode.turns),
            rollout_logprob=np.concatenate(episode.logprobs),
            temperature=episode.wave.temperature,
            seed=rollout_seed(self._seed, key.split, key.draw, key.sample, key.wave, 0),
            finish_reason=episode.finish_reason,
            step=drawn_from.step,
            source_step=drawn_from.source_step,
            policy_version=drawn_from.policy_version,
            segments=tuple(episode.segments),
            # Of some turns only they are none: a reader would take them for all.
            texts=tuple(episode.texts if len(episode.texts) == len(episode.turns) else ()),
        )

    def _room(self, episode: Episode) -> int:
        """Tokens that may still be written in the turn."""
        return min(episode.max_tokens - episode.in_turn, self._window - episode.length)

    def _add(self, episode: Episode, completion: Completion, drawn_from: DrawnFrom) -> None:
        tokens = completion.token_ids
        if episode.budget is not None:
            episode.budget -= len(tokens)
            episode.segments.append(
                Segment(
                    start=episode.written,
                    step=drawn_from.step,
                    source_step=drawn_from.source_step,
                    policy_version=drawn_from.policy_version,
                    seed=episode.seed,
                )
            )
        start = episode.length
        if episode.is_open:
            start = episode.turns.pop()[0]
            tokens = np.concatenate([episode.tokens.pop(), tokens])
        episode.tokens.append(tokens)
        episode.turns.append((start, start + len(tokens)))
        episode.logprobs.append(completion.logprob)
        episode.is_open = True
