"""Draws the rollouts of one step: waves of requests, turns of an episode, grades as they finish."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isentropic.config import RolloutConfig
from isentropic.controller.protocols import Grader, RolloutPool
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
from isentropic.tasks.order import index_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrom:
    """Under what a wave is drawn."""

    step: int  # drawn for this one
    source_step: int  # from the weights after this one
    policy_version: int


@dataclass(slots=True)
class Clock:
    """Seconds and tokens of the draws of one step."""

    rollout_s: float = 0.0
    reward_s: float = 0.0  # waited for grades after the last rollout was there
    tokens: int = 0


@dataclass(slots=True)
class Episode:
    """A rollout on its way."""

    key: RolloutKey
    prompt: Prompt
    wave: Wave
    max_tokens: int  # of a turn
    tokens: list[Ints]  # the prompt, then turns and the text between them, by turns
    turns: list[tuple[int, int]] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    finish_reason: FinishReason = "stop"

    @property
    def length(self) -> int:
        return sum(len(part) for part in self.tokens)


class Sampler:
    """Turns waves into graded groups. Holds no state of the run: the same draws give the same rollouts."""

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
        self._task, self._chat, self._pool, self._grader = task, chat, pool, grader
        self._config, self._seed, self._window = config, seed, window

    async def draw_step(
        self, sampling: Sampling, first_draw: int, origin: DrawnFrom, clock: Clock
    ) -> tuple[tuple[Group, ...], int]:
        """All waves of one step. Returns the groups in the order of their draws, and the next draw."""
        groups: dict[int, Group] = {}
        next_draw = first_draw
        while (wave := sampling.next_wave(tuple(groups.values()))) is not None:
            new = range(next_draw, next_draw + wave.new_prompts)
            next_draw = new.stop
            for draw in new:
                groups[draw] = Group(draw=draw, prompt=self.prompt("train", draw), rollouts=())
            await self._draw_wave(groups, (*new, *wave.draws), wave, origin, clock)
        return tuple(groups.values()), next_draw

    async def draw_evaluation(
        self, split: str, prompts: int, wave: Wave, origin: DrawnFrom, max_tokens: int | None = None
    ) -> list[Group]:
        """`wave.group_size` samples for each of `prompts` held-out prompts, from the first on, round and round."""
        size = self._task.size("eval")
        groups = {
            index: Group(draw=index, prompt=self._task.prompt("eval", index % size), rollouts=())
            for index in range(prompts)
        }
        await self._draw_wave(
            groups, tuple(groups), wave, origin, Clock(), split=split, max_tokens=max_tokens
        )
        return list(groups.values())

    def prompt(self, split: str, draw: int) -> Prompt:
        """The prompt of a draw: each once an epoch, in an order that only the seed decides."""
        return self._task.prompt(split, index_of(draw, self._task.size(split), self._seed))

    async def _draw_wave(
        self,
        groups: dict[int, Group],
        draws: Sequence[int],
        wave: Wave,
        origin: DrawnFrom,
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
                        self._finish(episode, origin) for episode in done if episode is not None
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
            for task in grading:  # done already, unless the draw was broken off
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
        """Adds a turn; asks for another where the environment answers, else hands the episode back as finished."""
        start = episode.length
        episode.tokens.append(completion.token_ids)
        episode.turns.append((start, start + len(completion.token_ids)))
        episode.logprobs.append(completion.logprob)
        episode.finish_reason = completion.finish_reason
        if self._task.max_turns == 1 or completion.finish_reason == "length":
            return episode
        turns = self._chat.decode([part for part in episode.tokens[1::2]])
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

    def _finish(self, episode: Episode, origin: DrawnFrom) -> Rollout:
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
            step=origin.step,
            source_step=origin.source_step,
            policy_version=origin.policy_version,
        )

    async def _grade(self, rollouts: list[Rollout]) -> list[Rollout]:
        rewards = await self._grader.grade(rollouts)
        return [
            replace(rollout, reward=reward)
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]


def _join(groups: dict[int, Group], rollouts: Iterable[Rollout]) -> None:
    """Adds rollouts to their groups in canonical order, whoever finished first."""
    for rollout in sorted(rollouts, key=lambda rollout: rollout.key):
        group = groups[rollout.key.draw]
        groups[rollout.key.draw] = replace(group, rollouts=(*group.rollouts, rollout))
