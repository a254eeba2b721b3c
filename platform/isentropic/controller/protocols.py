"""What the controller asks of the others. `actors/` implements these over Ray, tests with short fakes.

Every call has a deadline inside its implementation; on expiry it raises `WaitError`, which names who was
waited for, for what, and how long.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from isentropic.records import (
    Completion,
    MicroBatch,
    Request,
    Rollout,
    StepBatch,
    StepResult,
    TokenScores,
)


class WaitError(RuntimeError):
    """A remote call did not answer in time."""


class LearnerLost(RuntimeError):
    """A rank died, hung or lost its peers. No rank can go on; new ones can, from the last checkpoint."""


class Weights(Protocol):
    """Published weights, opaque to the controller: it only carries them from the learner to the pool."""

    policy_version: int


class RolloutPool(Protocol):
    """All engines together."""

    num_actors: int

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[list[Completion]]:
        """Yields completions as they finish, each request answered exactly once, in no promised order."""
        ...

    async def load_weights(self, weights: Weights) -> None:
        """All engines finish their requests, then hold `weights`; returns when the last one does."""
        ...

    async def sleep(self) -> None:
        """Engines give back their GPU memory (shared placement); nothing on a CPU."""
        ...

    async def wake(self) -> None: ...


class LearnerGroup(Protocol):
    """All learner ranks together. Lists are by rank: entry r goes to, or comes from, rank r.

    Any call raises `LearnerLost` where a rank is gone.
    """

    num_ranks: int

    async def score(
        self, batches: Sequence[Sequence[MicroBatch]], *, reference: bool
    ) -> list[list[TokenScores]]:
        """Token statistics under the current weights, a TokenScores a microbatch ([N] of the microbatch)."""
        ...

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]: ...

    async def publish(self) -> Weights:
        """The current weights, ready to be loaded by the engines."""
        ...

    async def begin_save(self, folder: Path) -> None:
        """Copies model, optimizer, scheduler and RNG, and writes the copy under `folder` while other calls come."""
        ...

    async def end_save(self) -> None:
        """Returns when what `begin_save` copied is durable. OSError: no room."""
        ...

    async def load(self, folder: Path) -> None: ...


class Grader(Protocol):
    """Scores responses, outside the trusted process where the task asks for it."""

    async def grade(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One task reward a rollout, in order. A hung, crashed or non-finite check counts as `reward_on_error`."""
        ...

    def counts(self) -> dict[str, int]:
        """Checks that timed out, crashed or gave no finite number, since the start."""
        ...
