"""Draws the rollouts of one step: waves of requests, turns of an episode, grades as they finish."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from isentropic.config import RolloutConfig
from isentropic.controller.drawing.episode import DrawnFrom, Episode, Episodes
from isentropic.controller.drawing.flight import Flight, Groups, Rules
from isentropic.controller.protocols import Grader, RolloutPool
from isentropic.controller.step import Clock
from isentropic.methods.slots import Sampling, Wave
from isentropic.records import Group, Prompt, Request, Rollout, RolloutKey
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.outcome import Unchecked, parts_of
from isentropic.tasks.order import index_of


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
        self._pool = pool
        self._grader = grader
        self._config = config
        self._seed = seed
        self._chat = chat
        self._episodes = Episodes(task=task, chat=chat, seed=seed, window=window)

    async def draw_step(
        self, sampling: Sampling, first_draw: int, drawn_from: DrawnFrom, clock: Clock
    ) -> tuple[tuple[Group, ...], int]:
        """Draws all waves of one step: its groups, in the order of draws, and the next draw."""
        groups: Groups = {}
        next_draw = first_draw
        while (wave := sampling.next_wave(tuple(groups.values()))) is not None:
            new = range(next_draw, next_draw + wave.new_prompts)
            next_draw = new.stop
            for draw in new:
                groups[draw] = Group(draw=draw, prompt=self.prompt("train", draw), rollouts=())
            await self._draw_wave(groups, (*new, *wave.draws), wave, drawn_from, clock)
        return tuple(groups.values()), next_draw

    async def draw_phase(
        self, sampling: Sampling, flight: Flight, drawn_from: DrawnFrom, clock: Clock
    ) -> tuple[tuple[Group, ...], Flight]:
        """Draws one phase: the groups that the step trains on, and what it leaves in flight.

        Rollouts are written a segment at a time; `drawing.flight` has the rules.
        """
        rules = Rules.of(self._config)
        wave = sampling.next_wave(())
        groups = {group.draw: group for group in flight.groups}
        begun = rules.begins(flight)
        for draw in begun:
            groups[draw] = Group(draw=draw, prompt=self.prompt("train", draw), rollouts=())
        due = rules.due(groups, drawn_from.step, begun.stop)
        with _Grading(self._grader, self._chat) as grading:
            limit = self._config.max_response_tokens
            ended = self._episodes.end_full(flight.rollouts, limit)
            grading.add(ended)
            _put(groups, ended)
            writing = [draw for draw, group in groups.items() if not group.is_finished]
            while writing:
                episodes = self._segments([groups[draw] for draw in writing], wave)
                _put(groups, await self._write(episodes, drawn_from, clock, grading))
                writing = rules.write_on(groups, due)
            _put(groups, await grading.graded(clock))
        taken = rules.take(groups, due, drawn_from.step)
        left = groups.keys() - {group.draw for group in taken}
        carried = tuple(groups[draw] for draw in sorted(left))
        return taken, Flight(groups=carried, next_draw=begun.stop)

    async def draw_evaluation(
        self,
        split: str,
        prompts: int,
        wave: Wave,
        drawn_from: DrawnFrom,
        max_tokens: int | None = None,
        clock: Clock | None = None,
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
            groups,
            tuple(groups),
            wave,
            drawn_from,
            clock or Clock(),
            split=split,
            max_tokens=max_tokens,
        )
        return list(groups.values())

    def prompt(self, split: str, draw: int) -> Prompt:
        """The prompt of a draw: each once per epoch, in an order that only the seed decides."""
        return self._task.prompt(split, index_of(draw, self._task.size(split), self._seed))

    async def _draw_wave(
        self,
        groups: Groups,
        draws: Sequence[int],
        wave: Wave,
        drawn_from: DrawnFrom,
        clock: Clock,
        split: str = "train",
        max_tokens: int | None = None,
    ) -> None:
        episodes = self._begin(
            groups, draws, wave, split, max_tokens or self._config.max_response_tokens
        )
        with _Grading(self._grader, self._chat) as grading:
            await self._write(episodes, drawn_from, clock, grading)
            _put(groups, await grading.graded(clock))

    async def _write(
        self,
        episodes: Mapping[RolloutKey, Episode],
        drawn_from: DrawnFrom,
        clock: Clock,
        grading: "_Grading",
    ) -> list[Rollout]:
        """Writes episodes until each is finished, or has used up its budget; grades as they end."""
        requests = [self._episodes.request(episode) for episode in episodes.values()]
        written: list[Rollout] = []
        start = time.perf_counter()
        while requests:
            further: list[Request] = []
            async for completions in self._pool.generate(requests):
                clock.tokens += sum(len(completion.token_ids) for completion in completions)
                done = []
                for completion in completions:
                    episode = episodes[completion.key]
                    request = self._episodes.advance(episode, completion, drawn_from)
                    if request is None:
                        done.append(self._episodes.rollout(episode, drawn_from))
                    else:
                        further.append(request)
                written += done
                grading.add([rollout for rollout in done if rollout.is_finished])
            requests = further
        clock.rollout_s += time.perf_counter() - start
        return written

    def _begin(
        self,
        groups: Groups,
        draws: Iterable[int],
        wave: Wave,
        split: str,
        max_tokens: int,
    ) -> dict[RolloutKey, Episode]:
        """New episodes of each draw, as the next wave of its group."""
        episodes: dict[RolloutKey, Episode] = {}
        for draw in draws:
            group = groups[draw]
            index = 1 + max((rollout.key.wave for rollout in group.rollouts), default=-1)
            keys = [RolloutKey(split, draw, index, sample) for sample in range(wave.group_size)]
            episodes |= self._episodes.begin(keys, group.prompt, wave, max_tokens)
        return episodes

    def _segments(self, groups: Iterable[Group], wave: Wave) -> dict[RolloutKey, Episode]:
        """The episodes of all rollouts that are not finished, with the budget of a segment."""
        limit = self._config.max_response_tokens
        episodes: dict[RolloutKey, Episode] = {}
        for group in groups:
            if not group.rollouts:
                episodes |= self._begin({group.draw: group}, [group.draw], wave, "train", limit)
            for rollout in group.rollouts:
                if not rollout.is_finished:
                    episodes[rollout.key] = self._episodes.go_on(rollout, wave, limit)
        for episode in episodes.values():
            episode.budget = self._config.segment_tokens
        return episodes


class _Grading:
    """The grading of rollouts while others are still being drawn."""

    def __init__(self, grader: Grader, chat: Chat) -> None:
        self._grader = grader
        self._chat = chat
        self._tasks: list[asyncio.Task[list[Rollout]]] = []
        self._errors = 0

    def __enter__(self) -> "_Grading":
        return self

    def __exit__(self, *error: object) -> None:
        # They are done unless the draw was broken off: then nobody would wait for them.
        for task in self._tasks:
            task.cancel()

    def add(self, rollouts: list[Rollout]) -> None:
        if rollouts:
            self._tasks.append(asyncio.create_task(self._grade(rollouts)))

    async def graded(self, clock: Clock) -> list[Rollout]:
        """All that was added, with rewards."""
        start = time.perf_counter()
        graded = await asyncio.gather(*self._tasks)
        clock.reward_s += time.perf_counter() - start
        clock.reward_errors += self._errors
        return [rollout for rollouts in graded for rollout in rollouts]

    async def _grade(self, rollouts: list[Rollout]) -> list[Rollout]:
        # In a thread: the event loop, which hands engines their next prompts, would stand still.
        rollouts = await asyncio.to_thread(self._in_words, rollouts)
        rewards = await self._grader.grade(rollouts)
        self._errors += sum(isinstance(reward, Unchecked) for reward in rewards)
        return [
            replace(rollout, reward=float(reward), reward_parts=dict(parts_of(reward)))
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]

    def _in_words(self, rollouts: Iterable[Rollout]) -> list[Rollout]:
        """Decodes the turns, once for all who read them: the check, the ledger, encoders."""
        return [
            replace(rollout, texts=tuple(self._chat.turn_texts(rollout))) for rollout in rollouts
        ]


def _put(groups: Groups, rollouts: Iterable[Rollout]) -> None:
    """Puts rollouts into their groups, in canonical order, whichever finished first.

    One that a group has already, unfinished, is replaced.
    """
    by_draw: dict[int, dict[RolloutKey, Rollout]] = {}
    for rollout in rollouts:
        by_draw.setdefault(rollout.key.draw, {})[rollout.key] = rollout
    for draw, new in by_draw.items():
        members = {each.key: each for each in groups[draw].rollouts} | new
        ordered = tuple(members[key] for key in sorted(members))
        groups[draw] = replace(groups[draw], rollouts=ordered)
