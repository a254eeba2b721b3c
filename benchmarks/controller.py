"""What the driver costs: the one Python process between the engines and the learner.

    python benchmarks/controller.py [--engines 1 8 64 256] [--samples 512] [--segment 2000] [--small]

Real are drawing and its dispatch to engines, decoding, grading, ledger, packing, the method, the
accounting and the checkpoint. Simulated are the engines, which answer in packed arrays with tokens
of log-normal number, at a set rate, and the learner's ranks, which answer at once. So whatever time
is not the engines' is the driver's. Each row is a process of its own. Per sample:

    loop      CPU time of the thread of the event loop, without what the simulation takes of it
    in all    CPU time of the whole process, threads included, without it too
    waits     wall time in which engines and ranks both wait for the driver
    lag       how late the event loop wakes a task that sleeps: 99th percentile, and most
    idle      share of the engines' slots without work while they draw

Fewer engines than 64 write as fast as 64 together: all rows up to there have the same load, and
differ only in the number of engines. --segment n says what is left of the idle share if rollouts
are cut after n tokens: by the lengths alone, and drawn that way in a second table.
"""

import argparse
import asyncio
import functools
import heapq
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, ParamSpec, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

import numpy as np  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from isentropic.actors.dispatch import Dispatch  # noqa: E402
from isentropic.actors.rollout_actor import Packed  # noqa: E402
from isentropic.config import Config  # noqa: E402
from isentropic.controller.drawing.flight import Rules  # noqa: E402
from isentropic.controller.feed import Feed  # noqa: E402
from isentropic.controller.loop import Controller  # noqa: E402
from isentropic.controller.method import Method  # noqa: E402
from isentropic.controller.reporting import Reporter  # noqa: E402
from isentropic.controller.sampler import Sampler  # noqa: E402
from isentropic.controller.trainer import Trainer  # noqa: E402
from isentropic.experiments.dry.phases import go_through, whole  # noqa: E402
from isentropic.experiments.settings.load import load  # noqa: E402
from isentropic.metrics.sinks.jsonl import JsonlSink  # noqa: E402
from isentropic.models.tiny import CHAT_TEMPLATE, END  # noqa: E402
from isentropic.records import (  # noqa: E402
    MicroBatch,
    Prompt,
    Request,
    StepBatch,
    StepResult,
    TokenScores,
    UpdateResult,
    Usage,
)
from isentropic.seeds import hash_seed  # noqa: E402
from isentropic.tasks.chat import Chat  # noqa: E402
from isentropic.tasks.grading.rewards import RewardWorkers  # noqa: E402

P, T = ParamSpec("P"), TypeVar("T")
FULL = 64  # engines that the load of smaller rows is that of
MEAN, SPREAD, LONGEST = 6000, 0.7, 16384  # tokens of an answer: mean and spread of a log-normal
WINDOW = 32768
TICK_S = 0.05  # what the lag of the event loop is measured with
GROUP = 8
VOCABULARY = 8000
SIMULATED: list[float] = []  # CPU seconds of the loop's thread that the driver would not need
# What engines and ranks say of a token: the same, or the probe after a sync would stop the run.
LOGPROB = -np.random.default_rng(0).exponential(0.3, size=VOCABULARY).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one row is measured at."""

    engines: int
    samples: int  # per step
    steps: int  # measured, after one to warm up
    rate: float  # tokens per second of one engine
    longest: int  # tokens of an answer; their mean shrinks with it
    segment: int = 0  # tokens; 0: whole answers

    @property
    def slot_rate(self) -> float:
        """Tokens per second of one sample that is being written."""
        return self.rate * max(FULL, self.engines) / self.samples


def answer_tokens(split: str, draw: int, sample: int, longest: int) -> int:
    """The tokens of one answer: the same in every run."""
    rng = np.random.default_rng(hash_seed("length", split, draw, sample))
    mean = MEAN * longest / LONGEST
    return int(np.clip(rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD), 1, longest))


def make_config(shape: Shape, folder: Path) -> Config:
    overrides = [
        "experiment=ce_gppo_tiny",
        f"run.dir={folder}",
        f"run.steps={shape.steps + 1}",
        f"rollout.num_actors={shape.engines}",
        f"rollout.prompts_per_step={shape.samples // GROUP}",
        f"rollout.group_size={GROUP}",
        f"rollout.max_response_tokens={shape.longest}",
        f"rollout.max_num_seqs={max(GROUP, shape.samples // shape.engines)}",
        f"model.max_length={WINDOW}",
        f"learner.microbatch_tokens={WINDOW}",
        "learner.updates_per_rollout=4",
        "evaluation.every=0",
        "evaluation.prompts=2",
        "checkpoint.every=0",
        "accounting.ledger.every=0",
        *([f"rollout.segment_tokens={shape.segment}"] if shape.segment else []),
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return load(compose("config", overrides=overrides))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE, as of today's models, trained on this repository's pages."""
    pages = [str(path) for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, *(f"<|{role}|>" for role in ("user", "assistant"))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(pages, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, chat_template=CHAT_TEMPLATE
    )


class LengthTask:
    """Pays for every other text, by its length: grading is nobody's cost."""

    isolated, max_turns = False, 1

    def size(self, split: str) -> int:
        return 2**20

    def prompt(self, split: str, index: int) -> Prompt:
        text = f"question {index}"
        return Prompt(
            prompt_id=f"{split}-{index}", messages=({"role": "user", "content": text},), answer=""
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        return float(len(turns[0]) % 2)

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> None:
        return None


def simulated(work: Callable[P, T]) -> Callable[P, T]:
    """Keeps the CPU time of what is simulated, in the event loop's thread, in SIMULATED."""

    @functools.wraps(work)
    def timed(*args: P.args, **kwargs: P.kwargs) -> T:
        start = time.thread_time()
        try:
            return work(*args, **kwargs)
        finally:
            SIMULATED.append(time.thread_time() - start)

    return timed


class Engine:
    """One engine as `Dispatch` sees it: slots for its share of a step's samples, equally fast.

    More requests than that wait for a slot, as those do that are in flight besides a step's own.
    """

    def __init__(self, index: int, shape: Shape, vocabulary: int) -> None:
        self.index, self.name, self.outstanding = index, f"engine {index}", 0
        self.reviving = False
        self.waiting: set[asyncio.Event] = set()
        self.actor = SimpleNamespace(
            generate=SimpleNamespace(remote=self._generate),
            cancel=SimpleNamespace(remote=lambda call: None),
        )
        self._longest = shape.longest
        self._slot_rate = shape.slot_rate
        self._slots = max(GROUP, shape.samples // shape.engines)
        rng = np.random.default_rng(index)
        self._tokens = rng.integers(10, vocabulary, size=2 * shape.longest, dtype=np.int32)

    async def ready(self) -> None: ...

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def _generate(
        self, call: int, policy_version: int, requests: list[Request]
    ) -> AsyncIterator[asyncio.Future[Packed]]:
        """Answers each request when its slot would have written it; late ones come together."""
        start, left = time.perf_counter(), []
        free = [0] * self._slots  # after so many tokens
        for index, request in enumerate(requests):
            key = request.key
            # What an earlier segment wrote stands behind the prompt: an end token and one more.
            written = len(request.token_ids) - 2 - int(np.argmax(request.token_ids == 0))
            rest = answer_tokens(key.split, key.draw, key.sample, self._longest) - written
            tokens = min(rest, request.max_tokens)
            end = heapq.heappop(free) + tokens
            heapq.heappush(free, end)
            left.append((end, tokens, rest <= request.max_tokens, index))
        left.sort()
        while left:
            await asyncio.sleep(start + left[0][0] / self._slot_rate - time.perf_counter())
            tokens = (time.perf_counter() - start) * self._slot_rate
            ready = [one for one in left if one[0] <= tokens]
            left = left[len(ready) :]
            if ready:
                answer = asyncio.get_running_loop().create_future()
                answer.set_result(self._packed(ready, policy_version))
                yield answer

    @simulated
    def _packed(self, ready: Sequence[tuple[int, int, bool, int]], policy_version: int) -> Packed:
        _, lengths, stopped, index = map(np.array, zip(*ready, strict=True))
        starts = [int(place) * 37 % self._longest for place in index]
        spans = [slice(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        return Packed(
            index=index.astype(np.int32),
            length=lengths.astype(np.int32),
            stopped=stopped,
            token_ids=np.concatenate([self._tokens[span] for span in spans]),
            logprob=LOGPROB[np.concatenate([self._tokens[span] for span in spans])],
            policy_version=policy_version,
        )


class Draw(NamedTuple):
    """One call of `generate`."""

    split: str
    begin: float
    end: float  # of the last answer
    tokens: int


class Pool:
    """All engines behind the real dispatch; keeps when they drew, and how many tokens."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        self.num_actors = shape.engines
        self.handles = [Engine(index, shape, vocabulary) for index in range(shape.engines)]
        self.draws: list[Draw] = []

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[list]:
        dispatch = Dispatch(
            self.handles,
            requests,
            policy_version=0,
            room=len(requests),
            timeout_s=3600.0,
            revive=lambda handle: asyncio.sleep(0),
        )
        begin, tokens = time.perf_counter(), 0
        end = begin
        try:
            async for completions in dispatch.run():
                tokens += sum(len(completion.token_ids) for completion in completions)
                end = time.perf_counter()
                yield completions
        finally:
            await dispatch.stop()
            split = requests[0].key.split
            self.draws.append(Draw(split, begin, end, tokens))

    async def load_weights(self, weights: object) -> dict[str, float]:
        return {}

    async def sleep(self) -> None: ...

    async def take_usage(self) -> list[Usage]:
        return []


class Learner:
    """Ranks that answer at once: logprobs as the engines have them, other numbers at random."""

    num_batches = 8

    def __init__(self) -> None:
        self._small = np.random.default_rng(0).uniform(0.0, 0.5, 4 * WINDOW).astype(np.float32)
        self._version = 0

    async def score(
        self, batches: Sequence[Sequence[MicroBatch]], *, reference: bool
    ) -> list[list[TokenScores]]:
        return [[self._scores(batch) for batch in rank] for rank in batches]

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        self._version += len(batches[0].updates)
        return [
            StepResult(
                updates=tuple(map(self._update, batch.updates)), policy_version=self._version
            )
            for batch in batches
        ]

    async def publish(self) -> SimpleNamespace:
        return SimpleNamespace(policy_version=self._version)

    async def begin_save(self, folder: Path) -> None: ...

    async def end_save(self) -> dict:
        return {}

    @simulated
    def _scores(self, batch: MicroBatch) -> TokenScores:
        small = self._small[: len(batch.target)]
        return TokenScores(
            logprob=LOGPROB[batch.target],
            entropy=small,
            sensitivity=small,
            sum_p2=small,
            sum_s2=small,
        )

    @simulated
    def _update(self, batches: Sequence[MicroBatch]) -> UpdateResult:
        logprob = np.concatenate([LOGPROB[batch.target] for batch in batches])
        small = np.resize(self._small, len(logprob))
        return UpdateResult(
            logprob=logprob + (small - 0.25),
            entropy=small,
            grad_norm=1.0,
            skipped=False,
            learning_rate=1e-6,
            seconds=0.0,
        )


class Meter:
    """A log that reads the clocks whenever a step has ended."""

    def __init__(self) -> None:
        self._loop_clock = time.pthread_getcpuclockid(threading.get_ident())
        self.marks: list[tuple[float, float, float]] = []  # wall, CPU of the loop, CPU in all
        self.late: list[float] = []

    def log(self, step: int, metrics: dict) -> None:
        if step == 1:  # what came before is the warm-up
            self.late.clear()
        clocks = (time.clock_gettime(self._loop_clock), time.process_time())
        self.marks.append((time.perf_counter(), *(clock - sum(SIMULATED) for clock in clocks)))

    def log_alarm(self, record: dict) -> None: ...

    async def tick(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.late.append(time.perf_counter() - start - TICK_S)


async def measure(shape: Shape, folder: Path) -> dict[str, float]:
    """One row: a warm-up step, then `shape.steps` measured ones."""
    config, tokenizer, task = make_config(shape, folder), make_tokenizer(), LengthTask()
    chat, pool, learner = Chat(tokenizer), Pool(shape, len(tokenizer)), Learner()
    grader, method, meter = RewardWorkers(task, chat, config.rewards), Method(config), Meter()
    for name in ("rollouts", "checkpoints"):
        (folder / name).mkdir()
    sink = JsonlSink(folder)
    sampler = Sampler(
        task=task,
        chat=chat,
        pool=pool,
        grader=grader,
        config=config.rollout,
        seed=config.seed,
        window=WINDOW,
    )
    feed = Feed(
        config=config,
        pool=pool,
        sampler=sampler,
        chat=chat,
        make_sampling=lambda step: config.sampling,
        candidates=method.candidates,
        ledger=folder / "rollouts",
        eval_size=task.size("eval"),
    )
    controller = Controller(
        config=config,
        learner=learner,
        trainer=Trainer(config, learner, method),
        feed=feed,
        reporter=Reporter(config, sink, [meter]),
        folder=folder,
        metadata={},
    )
    ticking = asyncio.create_task(meter.tick())
    await controller.run()
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    sink.close()
    return summary(shape, meter, pool)


def summary(shape: Shape, meter: Meter, pool: Pool) -> dict[str, float]:
    """The figures of a row, from the clocks at the end of the warm-up and of the last step."""
    wall, loop, all_ = (
        end - begin for begin, end in zip(meter.marks[1], meter.marks[-1], strict=True)
    )
    steps = [draw for draw in pool.draws if draw.split == "train"]
    between = [draw for draw in pool.draws if steps[0].end < draw.end < steps[-1].end]
    waited = steps[-1].begin - steps[0].end - sum(draw.end - draw.begin for draw in between)
    drawn = steps[1:]
    tokens = sum(draw.tokens for draw in drawn)
    room = sum(draw.end - draw.begin for draw in drawn) * shape.samples * shape.slot_rate
    samples = shape.samples * shape.steps
    return {
        "engines": shape.engines,
        "tokens": tokens / samples,
        "wall_s": wall,
        "all_ms": 1e3 * all_ / samples,
        "loop_ms": 1e3 * loop / samples,
        "loop_us": 1e6 * loop / tokens,
        "all_us": 1e6 * all_ / tokens,
        "wait_ms": 1e3 * waited / samples,
        "lag_p99_ms": 1e3 * float(np.quantile(meter.late, 0.99)),
        "lag_max_ms": 1e3 * max(meter.late),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "idle": 1 - tokens / room,
    }


def idle_share(lengths: Iterable[int], *, samples: int, segment: int, steps: int) -> float:
    """Share of the slots without work, from the lengths of the answers alone.

    There is a slot for each of a step's samples. Without segments (0) drawing lasts as long as the
    step's longest answer. With segments it goes on, one after the other, until a step's number of
    prompts is whole, and twice as many are in flight: the defaults of `rollout.segment_tokens`.
    """
    prompts = samples // GROUP
    rules = whole(per_step=prompts)
    if segment:
        rules = Rules(per_step=prompts, in_flight=2 * prompts, max_lag=4, delay=3)
    found = go_through(
        lengths, rules, group_size=GROUP, segment=segment or None, slots=samples, steps=steps
    )
    return found.idle(samples)


COLUMNS = {
    "engines": ("engines", "{:.0f}"),
    "loop, ms": ("loop_ms", "{:.2f}"),
    "us/token": ("loop_us", "{:.3f}"),
    "in all, ms": ("all_ms", "{:.2f}"),
    "us/token ": ("all_us", "{:.3f}"),
    "waits, ms": ("wait_ms", "{:.2f}"),
    "lag 99 %, ms": ("lag_p99_ms", "{:.1f}"),
    "lag most, ms": ("lag_max_ms", "{:.1f}"),
    "peak, MiB": ("peak_mib", "{:.0f}"),
    "idle": ("idle", "{:.0%}"),
}


def print_table(rows: Sequence[dict[str, float]]) -> None:
    print("  ".join(f"{name.strip():>12}" for name in COLUMNS))
    for row in rows:
        print("  ".join(f"{form.format(row[key]):>12}" for key, form in COLUMNS.values()))


def in_a_process(shape: Shape) -> dict[str, float]:
    """Runs one row in a process of its own: the peak of its memory is its own too."""
    command = [sys.executable, __file__, "--row", json.dumps(asdict(shape))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--samples", type=int, default=512, help="per step")
    parser.add_argument("--steps", type=int, default=2, help="measured, after one to warm up")
    parser.add_argument("--rate", type=float, default=5000.0, help="tokens per second of an engine")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of an answer")
    parser.add_argument("--segment", type=int, default=0, help="tokens; 0: whole answers only")
    parser.add_argument("--small", action="store_true", help="a look at it, in half a minute")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(measure(Shape(**json.loads(given.row)), Path(folder)))))
        return
    if given.small:
        given.engines, given.samples, given.longest = [1, 8], 64, 1024
    common = {name: getattr(given, name) for name in ("samples", "steps", "rate", "longest")}
    for segment in dict.fromkeys((0, given.segment)):
        lengths = (
            answer_tokens("train", draw, sample, given.longest)
            for draw in count()
            for sample in range(GROUP)
        )
        idle = idle_share(lengths, samples=given.samples, segment=segment, steps=50)
        what = f"answers cut after {segment} tokens" if segment else "whole answers"
        print(f"{what}: {idle:.0%} of the slots idle by the lengths alone")
        rows = [
            in_a_process(Shape(engines=engines, segment=segment, **common))
            for engines in given.engines
        ]
        print(f"{given.samples} samples per step of {rows[0]['tokens']:.0f} tokens; per sample:")
        print_table(rows)


if __name__ == "__main__":
    main()
