"""The records of the loop: what is drawn for a step, what its updates saw, what the report reads.

They lie below the rest of controller/, as `records.py` lies below the whole package.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isentropic.controller.drawing.flight import Flight
from isentropic.controller.storage.ledger import Batch
from isentropic.methods.fates import Fate
from isentropic.records import (
    Floats,
    Group,
    Rollout,
    RolloutKey,
    RouterUse,
    Sample,
    TokenScores,
    UpdateBooks,
    Usage,
)


class Stopwatch:
    """Measures the seconds of named phases of one step, and of the whole step."""

    def __init__(self, begins: Callable[[str], None] = lambda phase: None) -> None:
        """
        Args:
            begins: called with the name of each phase that begins.
        """
        self._begins = begins
        self.seconds: dict[str, float] = {}  # by phase; a phase entered twice adds up
        self.total = 0.0  # until `stop`
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._begins(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leaves out of `total` what belongs to another step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def stop(self) -> None:
        """Sets `total` to the seconds since the stopwatch was made."""
        self.total = time.perf_counter() - self._start


@dataclass(slots=True)
class Clock:
    """Seconds and tokens of the draws of one step."""

    rollout_s: float = 0.0
    reward_s: float = 0.0  # waited for grades after the last rollout was there
    tokens: int = 0
    reward_errors: int = 0  # checks that hung, crashed or gave no finite number


@dataclass(slots=True)
class Delivery:
    """A drawn batch with what it cost. A batch that was read from the ledger cost nothing."""

    batch: Batch
    clock: Clock = field(default_factory=Clock)
    sync_s: float = 0.0
    sync: dict[str, float] = field(default_factory=dict)  # seconds of its phases
    usage: list[Usage] = field(default_factory=list)  # of each engine, while it was drawn
    flight: Flight | None = None  # what is left for the next step; None without segments


@dataclass(slots=True)
class Evaluation:
    """Held-out groups drawn from the weights after `step`."""

    step: int
    groups: list[Group]
    seconds: float
    # Only at step 0: one sample per prompt at the training temperature.
    start: list[Group] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One optimizer step, its tokens in the order of `samples`."""

    samples: tuple[Sample, ...]
    weights: dict[str, list[float]]  # by name, of every token of each sample
    coefficients: dict[str, float | None]  # of the objective, as this update had them
    term_coefficients: dict[str, float]
    seed: int
    policy_version: int  # of the weights it started from
    logprob: Floats  # [N] under the weights of this update
    entropy: Floats  # [N] same
    grad_norm: float
    skipped: bool
    learning_rate: float
    seconds: float
    mfu: float | None  # mean over the ranks; only on GPUs
    books: UpdateBooks | None = None  # its slopes in the order of `samples`; None if not measured
    routers: RouterUse | None = None  # of a mixture of experts, if they are watched


@dataclass(slots=True, kw_only=True)
class Step:
    """All that one step did, filled in from its old-policy pass on; the report is made from it."""

    step: int
    policy_version: int  # before its updates
    delivery: Delivery
    teachers: list[Rollout]  # those that may join its groups
    scores: dict[RolloutKey, TokenScores]  # old-policy pass over everything drawn
    # Sampled right after the syncs that this step saw.
    probe: list[Rollout] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)  # trained on, replay not included
    updates: list[Update] = field(default_factory=list)
    replayed: list[Update] = field(default_factory=list)
    fates: dict[RolloutKey, Fate] = field(default_factory=dict)
    # What `Reporter.begin` has begun: metrics of what was drawn; of each update, then of each
    # replayed one, what it did.
    drawn: Future[dict[str, Any]] | None = None
    accounts: list[Future[Any]] = field(default_factory=list)
    # Per measured update, the columns of attribution/step_*.parquet.
    attribution: list[dict[str, np.ndarray]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # of the method's stages
    # A share of `scores`, again after the updates.
    rechecked: dict[RolloutKey, TokenScores] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
