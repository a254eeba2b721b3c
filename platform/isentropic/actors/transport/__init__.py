"""How weights get from the learner's ranks to the engines: `weights.transport` chooses.

A transport publishes for the learner group and gives the pool something with `load_into`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an engine holds after a load, and the seconds that its phases took."""

    policy_version: int
    seconds: dict[str, float] = field(default_factory=dict)


class Place(Protocol):
    """An engine of the pool: `actors.engine_handle.EngineHandle`."""

    name: str
    actor: Any
    process: Any  # as it was last seen: with node_id and pid
    startup_s: float

    async def asked(self, ref: Any, what: str, timeout_s: float) -> Any:
        """Waits for `ref`; raises RayActorError, not RuntimeError, if the process is gone."""
        ...


class Published(Protocol):
    """Published weights, as the pool has them: implements `protocols.Weights`."""

    policy_version: int
    seconds: dict[str, float]  # of the sender's phases

    async def load_into(self, engines: Sequence[Place]) -> list[Loaded | BaseException]:
        """Loads all of `engines` at once; per engine what it says, or what went wrong with it.

        Raises LearnerLost if the weights are gone with the rank that published them.
        """
        ...

    def settled(self) -> None:
        """Says that all engines hold these weights: older ones may be dropped."""
        ...
