"""The engines' side of the run: which weights they hold when, and what they draw under them.

`rollout.max_staleness` fixes the schedule, whatever the timing: an overlapped run can be replayed
and resumed bit for bit. Below, w2 are the weights after step 2 and w0 those of the start.

    staleness   step:  1   2   3   4   5    the engines load w2
        0              w0  w1  w2  w3  w4   once published; then they draw step 3, and nobody trains
        1              w0  w0  w1  w2  w3   once step 3 is drawn too; they draw 4 while 3 trains
        2              w0  w0  w0  w1  w2   once step 4 is drawn too; they draw 5 while 3, 4 train

With staleness n the weights after step s draw step s + 1 + n, and w0 all steps up to 1 + n:

    n = 0   engines   draw 1 (w0) |         | draw 2 (w1) |         | draw 3 (w2)
            learner               | train 1 |             | train 2 |
    n = 1   engines   draw 1 (w0) | draw 2 (w0) | draw 3 (w1) | draw 4 (w2)
            learner               | train 1     | train 2     | train 3

Weights that nothing is drawn with (the ledger has the steps already, or the run ends) are loaded
only to evaluate them.

The evaluation of weights and the step drawn from them go to the engines together: what the longest
answers of one leave free is the other's. Each answer depends on weights and seed only. With n > 0 the
loop trains the next step meanwhile, which is drawn already.

With `rollout.segment_tokens` each step takes over what the one before left in flight, which is then
on disk (`storage/carried.py`); the schedule of the weights is the same. A step in the ledger that
takes over something else is set aside.

On shared GPUs (n = 0) both sides take turns: the engines draw a step when the loop is done with the
one before, its report and checkpoint too. In between they only evaluate, when the loop waits for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from isentropic.config import Config
from isentropic.controller.drawing.flight import Flight
from isentropic.controller.protocols import RolloutPool, Weights
from isentropic.controller.sampler import DrawnFrom, Sampler
from isentropic.controller.step import Clock, Delivery, Evaluation
from isentropic.controller.storage.aside import ASIDE, set_steps_aside
from isentropic.controller.storage.carried import CARRIED, follows, read_flight, write_flight
from isentropic.controller.storage.ledger import (
    FOLDERS,
    Batch,
    LedgerError,
    read_batch,
    write_batch,
)
from isentropic.durable import when_there_is_room
from isentropic.methods.slots import Sampling, Wave
from isentropic.records import Group, Rollout, RolloutKey
from isentropic.tasks.chat import Chat

T = TypeVar("T")
log = logging.getLogger(__name__)

PROBE_TOKENS = 16
PROBE_PROMPTS = 2  # per engine


def steps_drawn_from(source: int, *, staleness: int, last: int) -> range:
    """The steps, up to `last`, that are drawn from the weights after step `source`."""
    newest = source + 1 + staleness
    oldest = newest if source else 1
    return range(oldest, min(newest, last) + 1)


def last_step_drawn(done: int, *, staleness: int, last: int) -> int:
    """The last step that is drawn from weights before those after step `done`; 0 at the start."""
    return min(done + staleness, last) if done else 0


class Feed:
    """Loads published weights, draws, writes the ledger."""

    def __init__(
        self,
        *,
        config: Config,
        pool: RolloutPool,
        sampler: Sampler,
        chat: Chat,
        make_sampling: Callable[[int], Sampling],
        candidates: Callable[[Sequence[Group]], list[Rollout]],
        ledger: Path,
        eval_size: int,
    ) -> None:
        """
        Args:
            make_sampling: step -> its sampling plan.
            candidates: the teacher rollouts that may join the step's groups; the ledger keeps them.
            ledger: folder of the ledger's files.
            eval_size: held-out prompts that the task has.
        """
        self._config = config
        self._pool = pool
        self._sampler = sampler
        self._chat = chat
        self._make_sampling = make_sampling
        self._candidates = candidates
        self._ledger = ledger
        self._carried = ledger.parent / CARRIED
        self._in_segments = config.rollout.segment_tokens is not None
        self._flight = Flight()  # what the last step that was drawn left
        self._eval_prompts = min(config.evaluation.prompts, eval_size)
        self._staleness = config.rollout.max_staleness
        self._shared = config.cluster.placement == "shared"
        self._last = config.run.steps
        self._weights: dict[int, asyncio.Future[Weights]] = {}
        self._deliveries: dict[int, asyncio.Future[Delivery]] = {}
        self._evaluations: dict[int, asyncio.Future[Evaluation]] = {}
        self._probes: dict[int, asyncio.Future[list[Rollout]]] = {}
        self._finished: dict[int, asyncio.Future[None]] = {}
        self._past = -1  # the last weights that all is drawn from
        self._loaded: int | None = None  # the engines have the weights after this step
        self._version = 0  # of these weights
        self._sync_s = 0.0  # since the last delivery
        self._sync: dict[str, float] = {}  # of its phases
        self._idle = asyncio.Event()  # set while nothing is being drawn

    def publish(self, step: int, weights: Weights) -> None:
        """Hands over the weights after `step`; the engines load them when the schedule says so."""
        if step > self._past:  # else the ledger had all that they draw
            _future(self._weights, step).set_result(weights)

    async def batch(self, step: int) -> Delivery:
        """Returns when the step's batch is in the ledger."""
        return await _asked(self._deliveries, step)

    async def evaluation(self, step: int) -> Evaluation:
        """Returns when the weights after `step` are evaluated; never if `evaluates` says no."""
        return await _asked(self._evaluations, step)

    def evaluation_so_far(self, step: int) -> Evaluation | None:
        """What `evaluation` gives, or None if the answers are not there."""
        found = _future(self._evaluations, step)
        return found.result() if found.done() else None

    async def probe(self, source: int) -> list[Rollout]:
        """A few rollouts, the first that the engines sample with the weights after step `source`.

        [] if they never load these.
        """
        return await _asked(self._probes, source)

    def probe_so_far(self, source: int) -> list[Rollout]:
        """What `probe` gives, or [] if the engines are not that far."""
        probe = _future(self._probes, source)
        return probe.result() if probe.done() else []

    async def next_draw(self, step: int) -> int:
        """Where a run that resumes after `step` goes on in the data order.

        That is behind the last step that the weights before it have drawn.
        """
        drawn = last_step_drawn(step, staleness=self._staleness, last=self._last)
        return (await self.batch(drawn)).batch.next_draw

    async def settled(self) -> None:
        """Returns when nothing is being drawn, and nothing more can be without new weights."""
        await self._idle.wait()

    @property
    def flight(self) -> Flight:
        """What the last step that was drawn left in flight; nothing without segments."""
        return self._flight

    def finish(self, step: int) -> None:
        """Drops the rollouts of a step that is trained, reported and saved; 0 is the start.

        Engines on the learner's GPUs draw the next step after this.
        """
        if self._shared and step > self._past:
            _future(self._finished, step).set_result(None)
        self._deliveries.pop(step, None)
        self._evaluations.pop(step, None)
        for source in [source for source in self._probes if source < step]:
            del self._probes[source]

    def evaluates(self, step: int) -> bool:
        """Whether the weights after `step` are evaluated; w0 always, for the entropy of line 0."""
        every = self._config.evaluation.every
        return step == 0 or (every > 0 and (step % every == 0 or step == self._last))

    async def run(self, done: int, next_draw: int) -> None:
        """Feeds the steps after `done`.

        Args:
            done: the last step trained, 0 at the start.
            next_draw: position in the data order behind what weights before those of `done` draw.
        """
        drawn = last_step_drawn(done, staleness=self._staleness, last=self._last)
        self._flight = self._left_by(done)
        for step in range(done + 1, drawn + 1):
            self._deliver(self._read(step))
        for source in range(done, self._last + 1):
            # The evaluation after `done` itself was reported before its checkpoint was made.
            if self.evaluates(source) and (source > done or source == 0):
                evaluate = partial(self._evaluate, source)
                draw = partial(self._draw_from, source, next_draw)
                if not self._shared:
                    *_, next_draw = await self._with_weights(source, evaluate, draw)
                else:
                    await self._with_weights(source, evaluate)
                    next_draw = await draw()
            else:
                next_draw = await self._draw_from(source, next_draw)
            if self._loaded != source:
                _future(self._probes, source).set_result([])
            self._weights.pop(source, None)
            self._finished.pop(source, None)
            self._past = source
        self._idle.set()

    async def _draw_from(self, source: int, next_draw: int) -> int:
        """Delivers the steps that are drawn from the weights after `source`; the next draw."""
        for step in steps_drawn_from(source, staleness=self._staleness, last=self._last):
            delivery = await self._read_or_draw(step, source, next_draw)
            self._deliver(delivery)
            next_draw = delivery.batch.next_draw
        return next_draw

    def _read(self, step: int) -> Delivery:
        """A step that must be in the ledger. Raises ValueError if it is not, or is another's."""
        delivery = self._find(step)
        if delivery is None:
            raise self._lacks(step)
        if not self._follows(delivery):
            raise LedgerError(
                f"step {step} in {self._ledger} does not follow from what step {step - 1} left in "
                f"flight ({self._carried}): one of them was drawn again, to other bits. The weights "
                f"that drew step {step} are gone, so restore the files of before, or resume from an "
                "earlier checkpoint."
            )
        return delivery

    def _find(self, step: int) -> Delivery | None:
        """The step from the ledger, with what it left in flight; None if either is missing."""
        vocab_size = self._chat.vocab_size
        flight = None
        if self._in_segments:
            flight = read_flight(self._carried, step, vocab_size=vocab_size)
            if flight is None:
                return None
        batch = read_batch(self._ledger, step, vocab_size=vocab_size)
        return None if batch is None else Delivery(batch, flight=flight)

    def _follows(self, delivery: Delivery) -> bool:
        """Whether a step begins with what the one before it left in flight."""
        left = delivery.flight
        return left is None or follows(self._flight, delivery.batch, left)

    def _set_aside(self, step: int) -> None:
        """Moves a step that does not follow, and all behind it, which follow from it."""
        run = self._ledger.parent
        steps = set_steps_aside(run, trained=step - 1, drawn=step - 1)
        log.warning(
            "step %d was drawn again, and left other prompts in flight than the first time: what the "
            "ledger has behind it (steps %d to %d) would train on some prompts twice and on others "
            "never. It is set aside under %s, and drawn again.",
            step - 1, steps[0], steps[-1], run / ASIDE,
        )  # fmt: skip

    def _left_by(self, step: int) -> Flight:
        """What a drawn step left in flight; nothing at the start, and without segments."""
        if step == 0 or not self._in_segments:
            return Flight()
        flight = read_flight(self._carried, step, vocab_size=self._chat.vocab_size)
        if flight is None:
            raise self._lacks(step)
        return flight

    def _lacks(self, step: int) -> ValueError:
        also = f", or none in {self._carried}" if self._in_segments else ""
        return ValueError(
            f"the ledger has no step {step} in {self._ledger}{also}, though the checkpoint was made "
            "after it was drawn. Restore the file, or resume from an earlier checkpoint."
        )

    async def _read_or_draw(self, step: int, source: int, next_draw: int) -> Delivery:
        """The step from the ledger, or drawn from the weights after step `source`."""
        delivery = self._find(step)
        if delivery is not None:
            if self._follows(delivery):
                return delivery
            self._set_aside(step)
        if self._shared:
            await self._learner_is_done(source)
        draw = partial(self._draw, step, source, next_draw)
        *_, delivery = await self._with_weights(source, draw)
        await self._probe_beside(source)
        delivery.sync_s, self._sync_s = self._sync_s, 0.0
        delivery.sync, self._sync = self._sync, {}
        delivery.usage = await self._pool.take_usage()
        return delivery

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.flight is not None:
            self._flight = delivery.flight
        _future(self._deliveries, delivery.batch.step).set_result(delivery)

    async def _learner_is_done(self, step: int) -> None:
        """Waits until the loop is done with a step. The engines may have given up their weights."""
        await self._given(_future(self._finished, step))
        self._loaded = None

    async def _with_weights(
        self, source: int, *work: Callable[[], Coroutine[Any, Any, Any]]
    ) -> list[Any]:
        """Does all work at once with the weights after step `source`, and probes new ones.

        On policy the probe is one more piece of work: alone, its few prompts would keep the engines
        from the others for as long as it takes to write them. Off policy the learner may wait for
        it, so it comes first.
        """
        if self._loaded != source:
            await self._load(source)
            probe = partial(self._probe, source)
            if self._staleness:
                await probe()
            else:
                work = (probe, *work)
        return await _at_once(*(begin() for begin in work))

    async def _load(self, source: int) -> None:
        """Gives the engines the weights after step `source`."""
        weights = await self._given(_future(self._weights, source))
        start = time.perf_counter()
        phases = await self._pool.load_weights(weights)
        self._sync_s += time.perf_counter() - start
        for name, seconds in phases.items():
            self._sync[name] = self._sync.get(name, 0.0) + seconds
        self._loaded, self._version = source, weights.policy_version

    async def _given(self, future: asyncio.Future[T]) -> T:
        """Waits for what the loop gives; nothing is being drawn meanwhile."""
        if not future.done():
            self._idle.set()
            await future
            self._idle.clear()
        return future.result()

    async def _probe_beside(self, source: int) -> None:
        """Waits for the probe that is drawn beside this work, before the loop gets the work.

        The loop checks what there is of the probe, and on shared GPUs puts the engines to sleep then.
        """
        if not self._staleness:
            await self.probe(source)

    async def _probe(self, source: int) -> None:
        """Draws the probe of the weights after step `source`; engines may have had them before."""
        # Untruncated: with top-p or top-k the engine's logprobs are of another distribution than
        # the learner's, and the two could not be compared.
        wave = Wave(group_size=1, temperature=self._config.rollout.temperature)
        groups = await self._sampler.draw_evaluation(
            f"probe/{source}",
            PROBE_PROMPTS * self._pool.num_actors,
            wave,
            self._drawn_from(source, source),
            PROBE_TOKENS,
        )
        if _future(self._probes, source).done():
            del self._probes[source]
        probe = [rollout for group in groups for rollout in group.rollouts]
        _future(self._probes, source).set_result(probe)

    async def _draw(self, step: int, source: int, next_draw: int) -> Delivery:
        """Draws the step and writes it to the ledger, what it leaves in flight first."""
        clock = Clock()
        sampling, drawn_from = self._make_sampling(step), self._drawn_from(step, source)
        flight = None
        if self._in_segments:
            groups, flight = await self._sampler.draw_phase(
                sampling, self._flight, drawn_from, clock
            )
            next_draw = flight.next_draw
        else:
            groups, next_draw = await self._sampler.draw_step(
                sampling, next_draw, drawn_from, clock
            )
        batch = Batch(
            step=step,
            groups=groups,
            next_draw=next_draw,
            source_step=source,
            policy_version=self._version,
            reward_errors=clock.reward_errors,
            teachers=tuple(self._candidates(groups)),
        )
        if flight is not None:
            self._carried.mkdir(exist_ok=True)
            await _on_disk(partial(write_flight, self._carried, flight, batch))
        await _on_disk(lambda: write_batch(self._ledger, batch, self._texts(batch)))
        return Delivery(batch, clock, flight=flight)

    def _texts(self, batch: Batch) -> dict[RolloutKey, Sequence[str]]:
        """The turns of a batch, for people to read."""
        return {
            rollout.key: self._chat.turn_texts(rollout)
            for rollout in [*batch.rollouts, *batch.teachers]
        }

    async def _evaluate(self, source: int) -> None:
        config, rollout = self._config.evaluation, self._config.rollout
        begin = time.perf_counter()
        groups, start = [], []
        if config.every > 0:
            wave = Wave(
                group_size=config.samples, temperature=config.temperature, top_p=config.top_p
            )
            groups = await self._draw_held_out("eval", source, wave)
        if source == 0:
            wave = Wave(
                group_size=1,
                temperature=rollout.temperature,
                top_p=rollout.top_p,
                top_k=rollout.top_k,
            )
            start = await self._draw_held_out("start", source, wave)
        seconds = time.perf_counter() - begin
        await self._probe_beside(source)
        _future(self._evaluations, source).set_result(Evaluation(source, groups, seconds, start))

    async def _draw_held_out(self, split: str, source: int, wave: Wave) -> list[Group]:
        """Draws held-out prompts, and writes the answers as the ledger has those of a step."""
        clock = Clock()
        groups = await self._sampler.draw_evaluation(
            split, self._eval_prompts, wave, self._drawn_from(source, source), clock=clock
        )
        batch = Batch(
            step=source,
            groups=tuple(groups),
            next_draw=self._eval_prompts,
            source_step=source,
            policy_version=self._version,
            reward_errors=clock.reward_errors,
        )
        folder = self._ledger.parent / FOLDERS[split]
        folder.mkdir(parents=True, exist_ok=True)
        await _on_disk(lambda: write_batch(folder, batch, self._texts(batch)))
        return groups

    def _drawn_from(self, step: int, source: int) -> DrawnFrom:
        return DrawnFrom(step=step, source_step=source, policy_version=self._version)


async def _at_once(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Does all at once. If one fails, the others are broken off, and the error is the one's."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _on_disk(write: Callable[[], Path]) -> None:
    """Writes in a thread of its own; waits for room on a full disk."""
    await asyncio.to_thread(when_there_is_room, write)


async def _asked(table: dict[int, asyncio.Future[T]], step: int) -> T:
    """Awaits the entry of a step. A caller that is cancelled does not cancel it for the others."""
    return await asyncio.shield(_future(table, step))


def _future(table: dict[int, asyncio.Future[T]], step: int) -> asyncio.Future[T]:
    """The entry of a step, whoever asks for it first: those who wait or the one who sets it."""
    if step not in table:
        table[step] = asyncio.get_running_loop().create_future()
    return table[step]
