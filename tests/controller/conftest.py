"""Fakes behind the controller's protocols: a policy that is one softmax over eight tokens."""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from isentropic.durable import file_entry
from isentropic.records import (
    Completion,
    Prompt,
    StepResult,
    TokenScores,
    UpdateBooks,
    UpdateResult,
    Usage,
)

HANGS = 300  # seconds; a run takes two on a quiet machine
VOCABULARY = 8
END = 7  # ends a response
UNSTABLE = ("time/", "throughput/", "mismatch/", "sync/")  # metrics that timing may change


class FakeTask:
    """Answer: as many ones as possible. Twenty prompts to train on, four held out."""

    isolated, max_turns = False, 1

    def size(self, split):
        return {"train": 20, "eval": 4}[split]

    def prompt(self, split, index):
        return Prompt(
            prompt_id=f"{split}-{index}",
            messages=({"role": "user", "content": str(index)},),
            answer="1",
        )

    def grade(self, prompt, turns):
        return float(turns[0].count("1") >= 2)

    def reply(self, prompt, turns):
        return None


class FakeChat:
    """Token i is the digit i."""

    eos_token_id = END
    vocab_size = VOCABULARY

    class tokenizer:
        @staticmethod
        def encode(text, add_special_tokens):
            return [int(digit) for digit in text]

    def prompt_ids(self, prompt):
        index = int(prompt.messages[0]["content"])
        return np.array([index // 10, index % 10 % VOCABULARY, 0], dtype=np.int64)

    def decode(self, turns):
        return ["".join(str(token) for token in turn if token != END) for turn in turns]

    def turn_texts(self, rollout):
        return self.decode([rollout.token_ids[start:end] for start, end in rollout.turns])


class FakeGrader:
    def __init__(self):
        self.task, self.chat = FakeTask(), FakeChat()

    async def grade(self, rollouts):
        await asyncio.sleep(0)
        return [
            self.task.grade(rollout.prompt, self.chat.turn_texts(rollout)) for rollout in rollouts
        ]


@dataclass
class FakeWeights:
    policy_version: int
    logits: np.ndarray


@dataclass
class FakePool:
    """Samples from the loaded softmax by each request's own seed; answers in another order."""

    order_seed: int = 0
    num_actors: int = 1
    weights: FakeWeights | None = None
    loads: list[int] = field(default_factory=list)
    drawn: list = field(default_factory=list)  # (key, policy_version)
    fail_at: int | None = None  # requests until it breaks

    async def generate(self, requests):
        requests = list(requests)
        random.Random(self.order_seed).shuffle(requests)
        for start in range(0, len(requests), 5):
            await asyncio.sleep(0)
            chunk = [self._complete(request) for request in requests[start : start + 5]]
            if self.fail_at is not None and len(self.drawn) >= self.fail_at:
                raise RuntimeError("engine 0 is gone")
            yield chunk

    def _complete(self, request):
        self.drawn.append((request.key, self.weights.policy_version))
        logprob = (
            log_softmax(self.weights.logits / request.temperature) if request.temperature else None
        )
        if request.top_p < 1:
            logprob = truncated(logprob, request.top_p)
        rng, tokens = np.random.default_rng(request.seed), []
        while len(tokens) < request.max_tokens and (not tokens or tokens[-1] != END):
            tokens.append(int(rng.choice(VOCABULARY, p=np.exp(logprob) / np.exp(logprob).sum())))
        return Completion(
            key=request.key,
            turn=request.turn,
            token_ids=np.array(tokens, dtype=np.int64),
            logprob=logprob[tokens].astype(np.float32),
            finish_reason="stop" if tokens[-1] == END else "length",
            policy_version=self.weights.policy_version,
        )

    async def load_weights(self, weights):
        await asyncio.sleep(0)
        self.weights = weights
        self.loads.append(weights.policy_version)
        return {"gather_s": 0.25, "send_s": 0.125, "load_s": 0.5, "check_s": 0.0625}

    async def sleep(self): ...

    async def take_usage(self):
        return [Usage(steps=2, cache_use=0.5, cache_use_max=0.375)]


class FakeLearner:
    """One rank; plain policy gradient on the logits, in float64."""

    num_batches = 1

    def __init__(self, lr=0.5):
        self.logits, self.version, self.lr, self.scored = np.zeros(VOCABULARY), 0, lr, 0

    async def score(self, batches, *, reference):
        return [[self._scores(microbatch) for microbatch in rank] for rank in batches]

    def _scores(self, microbatch):
        self.scored += len(microbatch.target)
        logprob = log_softmax(self.logits)
        p = np.exp(logprob)
        entropy = -(p * logprob).sum()
        weighted = p * (logprob + entropy)
        sensitivity = weighted - (p * weighted).sum()
        rows = len(microbatch.target)
        return TokenScores(
            logprob=logprob[microbatch.target].astype(np.float32),
            entropy=np.full(rows, entropy, dtype=np.float32),
            sensitivity=sensitivity[microbatch.target].astype(np.float32),
            sum_p2=np.full(rows, (p * p).sum(), dtype=np.float32),
            sum_s2=np.full(rows, (weighted * weighted).sum(), dtype=np.float32),
        )

    async def update(self, batches):
        results = []
        for microbatches in batches[0].updates:
            scores = [self._scores(microbatch) for microbatch in microbatches]
            gradient = np.zeros(VOCABULARY)
            for microbatch in microbatches:
                weight = microbatch.fields["advantage"] * microbatch.fields["loss_weight"]
                np.add.at(gradient, microbatch.target, weight)
                gradient -= weight.sum() * np.exp(log_softmax(self.logits))
            before = self.logits
            self.logits = self.logits + self.lr * gradient
            self.version += 1
            targets = np.concatenate([microbatch.target for microbatch in microbatches])
            books = fake_books(before, self.logits, targets) if batches[0].contexts else None
            results.append(
                UpdateResult(
                    logprob=np.concatenate([score.logprob for score in scores]),
                    entropy=np.concatenate([score.entropy for score in scores]),
                    grad_norm=float(np.linalg.norm(gradient)),
                    skipped=False,
                    learning_rate=self.lr,
                    seconds=0.0,
                    books=books,
                )
            )
        return [StepResult(updates=tuple(results), policy_version=self.version)]

    async def publish(self):
        return FakeWeights(self.version, self.logits.copy())

    async def begin_save(self, folder: Path):
        self._saving = (folder, {"logits": self.logits, "version": self.version})

    async def end_save(self):
        folder, state = self._saving
        np.savez(folder / "logits.npz", **state)
        return {"logits.npz": file_entry(folder / "logits.npz")}

    async def load(self, folder: Path):
        with np.load(folder / "logits.npz") as saved:
            self.logits, self.version = saved["logits"], int(saved["version"])


def entropy_slope(logits):
    """d H / d logits = -p (log p + H)."""
    logprob = log_softmax(logits)
    p = np.exp(logprob)
    return -p * (logprob - (p * logprob).sum())


def fake_books(before, after, targets):
    """Books of a step of plain gradient descent on free logits: no momentum, no decay, D = 1."""
    mean = (entropy_slope(before) + entropy_slope(after)) / 2
    step, p = after - before, np.exp(log_softmax(before))
    entropies = [-(np.exp(one) * one).sum() for one in map(log_softmax, (before, after))]
    return UpdateBooks(
        entropy_before=float(entropies[0]),
        entropy_after=float(entropies[1]),
        first=float(entropy_slope(before) @ step),
        trapezoid=float(mean @ step),
        now=float(mean @ step),
        momentum=0.0,
        decay=0.0,
        scale=1.0,
        impulse=1.0,
        logprob_slope=(mean[targets] - mean @ p).astype(np.float32),
        entropy_slope=np.full(len(targets), mean @ entropy_slope(before), dtype=np.float32),
    )


def truncated(logprob, top_p):
    """The likeliest tokens up to probability top_p, renormalised, as an engine does it."""
    order = np.argsort(-logprob, kind="stable")
    p = np.exp(logprob[order])
    kept = order[np.cumsum(p) - p < top_p]
    out = np.full_like(logprob, -np.inf)
    out[kept] = log_softmax(logprob[kept])
    return out


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.fixture
def fakes():
    """The fakes' classes, for tests that put a run together."""
    return {
        "pool": FakePool,
        "learner": FakeLearner,
        "task": FakeTask,
        "chat": FakeChat,
        "grader": FakeGrader,
        "weights": FakeWeights,
    }


CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL = [
    "experiment=ce_gppo_tiny",
    "run.steps=6",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_response_tokens=6",
    "learner.num_ranks=1",
    "learner.updates_per_rollout=2",
    "evaluation.every=3",
    "evaluation.prompts=2",
    "evaluation.samples=2",
    "checkpoint.every=2",
    "accounting.recheck_share=0.5",
]


@pytest.fixture(scope="session")
def make_config():
    """The typed config of the demo cut small, with overrides."""
    from hydra import compose, initialize_config_dir

    from isentropic.experiments.settings.load import load

    def make(*overrides):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return load(compose("config", overrides=[*SMALL, *overrides]))

    return make


class Lines:
    """Takes every line that the reporter hands out."""

    def __init__(self):
        self.lines, self.updates, self.alarms = {}, {}, []

    def log(self, step, metrics):
        self.lines[step] = metrics

    def log_updates(self, step, rows):
        self.updates[step] = rows

    def log_alarm(self, record):
        self.alarms.append(record)


@dataclass
class FakeRun:
    """A run on fakes, in a folder: whole, or one of its parts."""

    config: object
    folder: Path
    pool: FakePool = field(default_factory=FakePool)
    learner: FakeLearner = field(default_factory=FakeLearner)
    lines: Lines = field(default_factory=Lines)
    grader: FakeGrader = field(default_factory=FakeGrader)

    @property
    def stable(self):
        """The lines by step without the keys that timing changes; NaN compares equal."""
        return {
            step: {key: repr(value) for key, value in line.items() if not key.startswith(UNSTABLE)}
            for step, line in self.lines.lines.items()
        }

    def run(self, resume=False):
        from isentropic.controller.storage.checkpoints import latest

        start = latest(self.folder / "checkpoints", print) if resume else None
        asyncio.run(asyncio.wait_for(self.controller().run(start), HANGS))
        return self

    def controller(self, **arguments):
        from isentropic.controller.loop import Controller
        from isentropic.controller.reporting import Reporter

        (self.folder / "checkpoints").mkdir(exist_ok=True)
        method = self.method()
        return Controller(
            config=self.config,
            learner=self.learner,
            trainer=self.trainer(method),
            feed=self.feed(method.candidates),
            reporter=Reporter(self.config, self.lines),
            folder=self.folder,
            metadata={},
            **arguments,
        )

    def trainer(self, method=None):
        from isentropic.controller.trainer import Trainer

        return Trainer(self.config, self.learner, method or self.method())

    def method(self):
        from isentropic.controller.method import Method

        method = Method(self.config)
        method.bind(chat=FakeChat(), task=FakeTask(), model_path="")
        return method

    def feed(self, candidates=lambda groups: []):
        from isentropic.controller.feed import Feed

        (self.folder / "rollouts").mkdir(exist_ok=True)
        return Feed(
            config=self.config,
            pool=self.pool,
            sampler=self.sampler(),
            chat=FakeChat(),
            make_sampling=lambda step: self.config.sampling,
            candidates=candidates,
            ledger=self.folder / "rollouts",
            eval_size=FakeTask().size("eval"),
        )

    def sampler(self, grader=None):
        from isentropic.controller.sampler import Sampler

        return Sampler(
            task=FakeTask(),
            chat=FakeChat(),
            pool=self.pool,
            grader=grader or self.grader,
            config=self.config.rollout,
            seed=self.config.seed,
            window=20,
        )

    async def draw(self, step):
        """The batch of a step, drawn from the learner's weights as they are, without a feed."""
        from isentropic.controller.sampler import DrawnFrom
        from isentropic.controller.step import Clock
        from isentropic.controller.storage.ledger import Batch

        weights = await self.learner.publish()
        await self.pool.load_weights(weights)
        source = {"source_step": step - 1, "policy_version": weights.policy_version}
        groups, next_draw = await self.sampler().draw_step(
            self.config.sampling,
            (step - 1) * self.config.rollout.prompts_per_step,
            DrawnFrom(step=step, **source),
            Clock(),
        )
        return Batch(step=step, groups=groups, next_draw=next_draw, reward_errors=0, **source)


@pytest.fixture
def fake_run(make_config, tmp_path):
    """FakeRun(config overrides): a run on fakes, in a folder of its own."""

    def make(*overrides, folder="run", **parts):
        (tmp_path / folder).mkdir(exist_ok=True)
        return FakeRun(config=make_config(*overrides), folder=tmp_path / folder, **parts)

    return make
