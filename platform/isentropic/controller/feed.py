"""The engines' side of the run: which weights they hold when, what they draw under them, in a fixed schedule.

With staleness n, step b is drawn from the weights after step max(0, b - 1 - n), whatever the timing: an overlapped
run can be replayed and resumed bit for bit, like a strictly on-policy one (n = 0).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from isentropic.config import Config
from isentropic.controller.protocols import Grader, RolloutPool, Weights
from isentropic.controller.sampler import Clock, DrawnFrom, Sampler
from isentropic.controller.storage.ledger import Batch, read_batch, write_batch
from isentropic.durable import when_there_is_room
from isentropic.methods.slots import Sampling, Wave
from isentropic.records import Group, Rollout
from isentropic.tasks.chat import Chat

PROBE_TOKENS = 16
PROBE_PROMPTS = 2  # for each engine


@dataclass(slots=True)
class Delivery:
    """A drawn batch with what it cost."""

    batch: Batch
    clock: Clock
    sync_s: float = 0.0


@dataclass(slots=True)
class Evaluation:
    """Held-out groups drawn from the weights after `step`."""

    step: int
    groups: list[Group]
    seconds: float
    start: list[Group] = field(
        default_factory=list
    )  # at step 0: one sample a prompt at the training temperature


class Feed:
    """Loads published weights, draws, writes the ledger. One task at a time uses the engines."""

    def __init__(
        self,
        *,
        config: Config,
        pool: RolloutPool,
        sampler: Sampler,
        chat: Chat,
        grader: Grader,
        make_sampling: Callable[[int], Sampling],
        ledger: Path,
        eval_size: int,
    ) -> None:
        self._config, self._pool, self._sampler, self._chat, self._grader = (
            config,
            pool,
            sampler,
            chat,
            grader,
        )
        self._make_sampling, self._ledger = make_sampling, ledger
        self._eval_prompts = min(config.evaluation.prompts, eval_size)
        self._staleness, self._last = config.rollout.max_staleness, config.run.steps
        self._weights: dict[int, asyncio.Future[Weights]] = {}
        self._deliveries: dict[int, asyncio.Future[Delivery]] = {}
        self._evaluations: dict[int, asyncio.Future[Evaluation]] = {}
        self._probes: dict[int, asyncio.Future[list[Rollout]]] = {}
        self._idle = asyncio.Event()  # nothing is being drawn
        self._sync_s = 0.0
        self._version = 0
        self.candidates: Callable[[Sequence[Group]], list[Rollout]] = (
            lambda groups: []
        )  # teachers, for the ledger

    def publish(self, step: int, weights: Weights) -> None:
        """The weights after `step` exist; the engines load them when the schedule says so."""
        self._future(self._weights, step).set_result(weights)

    async def batch(self, step: int) -> Delivery:
        """The step's batch, in the ledger."""
        return await self._future(self._deliveries, step)

    async def evaluation(self, step: int) -> Evaluation:
        return await self._future(self._evaluations, step)

    def probe(self, source: int) -> asyncio.Future[list[Rollout]]:
        """A few rollouts sampled right after the engines took the weights after step `source`; [] if they never do."""
        return self._future(self._probes, source)

    async def settled(self) -> None:
        """Returns when what is being drawn is in the ledger, and nothing more can be drawn without new weights."""
        await self._idle.wait()

    def forget(self, step: int) -> None:
        """The step is trained and reported: its rollouts may go."""
        for table in (self._deliveries, self._evaluations, self._probes):
            table.pop(step - 1 if table is self._probes else step, None)

    def evaluates(self, step: int) -> bool:
        """Line 0 always has at least the entropy of the start."""
        every = self._config.evaluation.every
        return step == 0 or (every > 0 and (step % every == 0 or step == self._last))

    async def run(self, done: int, next_draw: int) -> None:
        """Feeds the steps after `done`; `next_draw` is the data position of the first one not in the ledger's past."""
        ready = min(done + self._staleness, self._last) if done else 0
        for step in range(done + 1, ready + 1):
            next_draw = await self._deliver_again(step)
        for source in range(done, self._last + 1):
            first = source + 1 + self._staleness if source else 1
            steps = range(max(first, ready + 1), min(source + 1 + self._staleness, self._last) + 1)
            evaluates = self.evaluates(source) and (source > done or source == 0)
            loaded = False
            if evaluates:
                await self._load(source)
                loaded = True
                await self._evaluate(source)
            for step in steps:
                if (batch := read_batch(self._ledger, step)) is None:
                    if not loaded:
                        await self._load(source)
                        loaded = True
                    batch, clock = await self._draw(step, source, next_draw)
                    self._deliver(step, Delivery(batch, clock, self._sync_s))
                    self._sync_s = 0.0
                else:
                    self._deliver(step, Delivery(batch, Clock()))
                next_draw = batch.next_draw
            if not loaded:
                self.probe(source).set_result([])
            self._weights.pop(source, None)
        self._idle.set()

    async def _deliver_again(self, step: int) -> int:
        batch = read_batch(self._ledger, step)
        if batch is None:
            raise ValueError(
                f"the ledger has no step {step} in {self._ledger}, though the checkpoint was made after it was drawn. "
                "Restore the file, or resume from an earlier checkpoint."
            )
        self._deliver(step, Delivery(batch, Clock()))
        return batch.next_draw

    def _deliver(self, step: int, delivery: Delivery) -> None:
        self._future(self._deliveries, step).set_result(delivery)

    async def _load(self, source: int) -> None:
        """The engines take the weights after step `source`, then sample the probe under them."""
        self._idle.set()
        weights = await self._future(self._weights, source)
        self._idle.clear()
        start = time.perf_counter()
        if self._config.cluster.placement == "shared":
            await self._pool.wake()
        await self._pool.load_weights(weights)
        self._sync_s += time.perf_counter() - start
        self._version = weights.policy_version
        # Untruncated: with top-p or top-k the engine's logprobs are of another distribution than the learner's.
        wave = Wave(group_size=1, temperature=self._config.rollout.temperature)
        origin = DrawnFrom(step=source, source_step=source, policy_version=self._version)
        groups = await self._sampler.draw_evaluation(
            f"probe/{source}", PROBE_PROMPTS * self._pool.num_actors, wave, origin, PROBE_TOKENS
        )
        self.probe(source).set_result([rollout for group in groups for rollout in group.rollouts])

    async def _draw(self, step: int, source: int, next_draw: int) -> tuple[Batch, Clock]:
        clock, errors = Clock(), sum(self._grader.counts().values())
        origin = DrawnFrom(step=step, source_step=source, policy_version=self._version)
        groups, after = await self._sampler.draw_step(
            self._make_sampling(step), next_draw, origin, clock
        )
        if self._config.cluster.placement == "shared":
            await self._pool.sleep()
        batch = Batch(
            step=step,
            groups=groups,
            next_draw=after,
            source_step=source,
            policy_version=self._version,
            reward_errors=sum(self._grader.counts().values()) - errors,
            teachers=tuple(self.candidates(groups)),
        )
        texts = self._texts([*batch.rollouts, *batch.teachers])
        await asyncio.to_thread(
            when_there_is_room, partial(write_batch, self._ledger, batch, texts)
        )
        return batch, clock

    async def _evaluate(self, source: int) -> None:
        config = self._config.evaluation
        origin = DrawnFrom(step=source, source_step=source, policy_version=self._version)
        start = time.perf_counter()
        wave = Wave(group_size=config.samples, temperature=config.temperature, top_p=config.top_p)
        groups, beginning = [], []
        if config.every > 0:
            groups = await self._sampler.draw_evaluation("eval", self._eval_prompts, wave, origin)
        if source == 0:
            beginning = await self._sampler.draw_evaluation(
                "start", self._eval_prompts, self._training_wave(1), origin
            )
        seconds = time.perf_counter() - start
        self._future(self._evaluations, source).set_result(
            Evaluation(source, groups, seconds, beginning)
        )

    def _training_wave(self, group_size: int) -> Wave:
        rollout = self._config.rollout
        return Wave(
            group_size=group_size,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
        )

    def _texts(self, rollouts: list[Rollout]) -> dict:
        return {rollout.key: self._chat.turn_texts(rollout) for rollout in rollouts}

    @staticmethod
    def _future(table: dict, step: int) -> asyncio.Future:
        if step not in table:
            table[step] = asyncio.get_running_loop().create_future()
        return table[step]
