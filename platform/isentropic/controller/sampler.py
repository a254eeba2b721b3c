"""Draws the rollouts of one step: waves of requests, turns of an episode, grades as they finish."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isentropic.config import RolloutConfig
from isentropic.controller.protocols import Grader, RolloutPool
from isentropic.controller.step import Clock
from isentropic.methods.slots import Sampling, Wave
from isentropic.records import (
    Completion,
    FinishReason,
    Group,
    Ints,
    Prompt,
    Request,
    Rollout,
    RolloutKey,
)
from isentropic.seeds import rollout_seed
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.outcome import parts_of
from isentropic.tasks.order import index_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrom:
    """What the rollouts of a wave are drawn for, and under which weights."""

    step: int  # the step that they are drawn for
    source_step: int  # the weights are those after this step
    policy_version: int


@dataclass(slots=True)
class Episode:
    """A rollout that is being written, turn by turn."""

    key: RolloutKey
    prompt: Prompt
    wave: Wave
    max_tokens: int  # per turn
    tokens: list[Ints]  # the prompt, a turn, the environment's reply, a turn, ...
    turns: list[tuple[int, int]] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    finish_reason: FinishReason = "stop"

    @property
    def length(self) -> int:
        return sum(len(part) for part in self.tokens)


class Sampler:
    """Turns waves into graded groups. It has no state: the same draws give the same rollouts."""

    def __init__(
        self,
        *,
        task: Task,
        chat: Chat,
        pool: RolloutPool,
        grader: Grader,
        config: RolloutConfig,
        seed: int,
        window: int,
    ) -> None:
        """window: tokens that a whole episode may have, prompt and replies included."""
        self._task = task
        self._chat = chat
        self._pool = pool
        self._grader = grader
        self._config = config
        self._seed = seed
        self._window = window

    async def draw_step(
        self, sampling: Sampling, first_draw: int, drawn_from: DrawnFrom, clock: Clock
    ) -> tuple[tuple[Group, ...], int]:
        """Draws all waves of one step: its groups, in the order of draws, and the next draw."""
        groups: dict[int, Group] = {}
        next_draw = first_draw
        while (wave := sampling.next_wave(tuple(groups.values()))) is not None:
            new = range(next_draw, next_draw + wave.new_prompts)
            next_draw = new.stop
            for draw in new:
                groups[draw] = Group(draw=draw, prompt=self.prompt("train", draw), rollouts=())
            await self._draw_wave(groups, (*new, *wave.draws), wave, drawn_from, clock)
        return tuple(groups.values()), next_draw

    async def draw_evaluation(
        self,
        split: str,
        prompts: int,
        wave: Wave,
        drawn_from: DrawnFrom,
        max_tokens: int | None = None,
    ) -> list[Group]:
        """Draws `wave.group_size` samples for each of `prompts` held-out prompts.

        They are taken from the first on; if there are fewer than `prompts`, again from the first.
        """
        size = self._task.size("eval")
        groups = {
            index: Group(draw=index, prompt=self._task.prompt("eval", index % size), rollouts=())
            for index in range(prompts)
        }
        await self._draw_wave(
            groups, tuple(groups), wave, drawn_from, Clock(), split=split, max_tokens=max_tokens
        )
        return list(groups.values())

    def prompt(self, split: str, draw: int) -> Prompt:
        """The prompt of a draw: each once per epoch, in an order that only the seed decides."""
        return self._task.prompt(split, index_of(draw, self._task.size(split), self._seed))

    async def _draw_wave(
        self,
        groups: dict[int, Group],
        draws: Sequence[int],
        wave: Wave,
        drawn_from: DrawnFrom,
        clock: Clock,
        split: str = "train",
        max_tokens: int | None = None,
    ) -> None:
        episodes = self._episodes(
            groups, draws, wave, split, max_tokens or self._config.max_response_tokens
        )
        requests = [self._request(episode) for episode in episodes.values()]
        grading: list[asyncio.Task[list[Rollout]]] = []
        start = time.perf_counter()
        try:
            while requests:
                further: list[Request] = []
                async for completions in self._pool.generate(requests):
                    clock.tokens += sum(len(completion.token_ids) for completion in completions)
                    done = [
                        self._advance(episodes[completion.key], completion, further)
                        for completion in completions
                    ]
                    finished = [
                        self._finish(episode, drawn_from) for episode in done if episode is not None
                    ]
                    if finished:
                        grading.append(asyncio.create_task(self._grade(finished)))
                requests = further
            clock.rollout_s += time.perf_counter() - start
            start = time.perf_counter()
            graded = [
                rollout for rollouts in await asyncio.gather(*grading) for rollout in rollouts
            ]
        finally:
            # They are done unless the draw was broken off: then nobody would wait for them.
            for task in grading:
                task.cancel()
        clock.reward_s += time.perf_counter() - start
        _join(groups, graded)

    def _episodes(
        self,
        groups: dict[int, Group],
        draws: Iterable[int],
        wave: Wave,
        split: str,
        max_tokens: int,
    ) -> dict[RolloutKey, Episode]:
        episodes = {}
        for draw in draws:
            group = groups[draw]
            index = 1 + max((rollout.key.wave for rollout in group.rollouts), default=-1)
            tokens = self._chat.prompt_ids(group.prompt)
            for sample in range(wave.group_size):
                key = RolloutKey(split, draw, index, sample)
                episodes[key] = Episode(key, group.prompt, wave, max_tokens, [tokens])
        return episodes

    def _request(self, episode: Episode) -> Request:
        key, turn, wave = episode.key, len(episode.turns), episode.wave
        room = self._window - episode.length
        return Request(
            key=key,
            turn=turn,
            token_ids=np.concatenate(episode.tokens),
            seed=rollout_seed(self._seed, key.split, key.draw, key.sample, key.wave, turn),
            temperature=wave.temperature,
            top_p=wave.top_p,
            top_k=wave.top_k,
            max_tokens=min(episode.max_tokens, room),
            media=episode.prompt.media,
        )

    def _advance(
        self, episode: Episode, completion: Completion, further: list[Request]
    ) -> Episode | None:
        """Adds a turn to an episode; the episode if it is finished.

        If the environment replies instead, the request of the next turn goes to `further`.
        """
        start = episode.length
        episode.tokens.append(completion.token_ids)
        episode.turns.append((start, start + len(completion.token_ids)))
        episode.logprobs.append(completion.logprob)
        episode.finish_reason = completion.finish_reason
        if self._task.max_turns == 1 or completion.finish_reason == "length":
            return episode
        turns = self._chat.decode(episode.tokens[1::2])
        reply = self._task.reply(episode.prompt, turns)
        if reply is None:
            return episode
        between = self._chat.reply_ids(episode.prompt, reply, completion.finish_reason)
        if (
            len(episode.turns) == self._task.max_turns
            or episode.length + len(between) >= self._window
        ):
            episode.finish_reason = "turns"
            return episode
        episode.tokens.append(between)
        further.append(self._request(episode))
        return None

    def _finish(self, episode: Episode, drawn_from: DrawnFrom) -> Rollout:
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
        )

    async def _grade(self, rollouts: list[Rollout]) -> list[Rollout]:
        # In a thread: the event loop, which hands engines their next prompts, would stand still.
        rollouts = await asyncio.to_thread(self._in_words, rollouts)
        rewards = await self._grader.grade(rollouts)
        return [
            replace(rollout, reward=float(reward), reward_parts=dict(parts_of(reward)))
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]

    def _in_words(self, rollouts: Iterable[Rollout]) -> list[Rollout]:
        """Decodes the turns, once for all who read them: the check, the ledger, encoders."""
        return [
            replace(rollout, texts=tuple(self._chat.turn_texts(rollout))) for rollout in rollouts
        ]


def _join(groups: dict[int, Group], rollouts: Iterable[Rollout]) -> None:
    """Adds rollouts to their groups in canonical order, whichever finished first."""
    for rollout in sorted(rollouts, key=lambda rollout: rollout.key):
        group = groups[rollout.key.draw]
        groups[rollout.key.draw] = replace(group, rollouts=(*group.rollouts, rollout))
