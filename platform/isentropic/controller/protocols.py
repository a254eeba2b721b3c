"""What the controller needs of the others: `actors/` has it over Ray, tests have short fakes.

Every call has a deadline inside its implementation; on expiry it raises `WaitError`, which names
who was waited for, for what, and how long.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from isentropic.durable import FileEntry
from isentropic.records import (
    Completion,
    MicroBatch,
    Request,
    Rollout,
    StepBatch,
    StepResult,
    TokenScores,
    Usage,
)


class WaitError(RuntimeError):
    """A remote call did not answer in time."""


class NotStarted(WaitError):
    """Ray, the engines or the ranks did not come up in time: nothing was done, nothing is lost.

    The machine or the cluster was too busy; the same command may work later (exit code 75).
    """


class LearnerLost(RuntimeError):
    """A rank died, hung or lost its peers. No rank can go on; new ones can, from a checkpoint."""


class Weights(Protocol):
    """Published weights. The controller carries them from the learner to the pool, unopened."""

    policy_version: int


class RolloutPool(Protocol):
    """All engines together."""

    num_actors: int

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[list[Completion]]:
        """Yields completions as they finish: one per request, in no promised order."""
        ...

    async def load_weights(self, weights: Weights) -> dict[str, float]:
        """All engines finish their requests, then take `weights`; returns when the last has.

        Returns seconds by phase: `gather_s`, `send_s`, `load_s` and `check_s`, which may overlap.
        """
        ...

    async def sleep(self) -> None:
        """Engines give up their GPU memory until the next load; on a CPU nothing happens."""
        ...

    async def take_usage(self) -> list[Usage]:
        """How full each engine was since the last call; empty for one that does not answer."""
        ...


class LearnerGroup(Protocol):
    """All learner ranks together.

    Lists are by batch: entry b goes to, and comes from, the rank or ranks that work on it together.

    Any call raises `LearnerLost` if a rank is gone.
    """

    num_batches: int  # worked on at a time: the ranks, or with context parallelism their groups

    async def score(
        self, batches: Sequence[Sequence[MicroBatch]], *, reference: bool
    ) -> list[list[TokenScores]]:
        """Token statistics under the current weights, one TokenScores ([N]) per microbatch."""
        ...

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        """Makes the optimizer steps of one step."""
        ...

    async def publish(self) -> Weights:
        """The current weights, ready to be loaded by the engines."""
        ...

    async def begin_save(self, folder: Path) -> None:
        """Copies model, optimizer, scheduler and RNG.

        The copy is written under `folder` while other calls come.
        """
        ...

    async def end_save(self) -> dict[str, FileEntry]:
        """Returns when what `begin_save` copied is durable. Raises OSError if there is no room.

        Returns the files that were written, by name under that folder, hashed by who wrote them.
        """
        ...

    async def load(self, folder: Path) -> None:
        """Goes back to what was saved under `folder`."""
        ...


class Grader(Protocol):
    """Scores responses, outside the trusted process if the task demands it."""

    async def grade(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One task reward per rollout, in order.

        If a check hangs, crashes or gives no finite number, it is `rewards.reward_on_error`, as an
        `outcome.Unchecked`.
        """
        ...
