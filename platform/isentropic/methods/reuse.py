"""The reuse slot of methods that train every step on its own batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.records import Sample


@dataclass(frozen=True, kw_only=True)
class NoReuse:
    """Trains on the new batch only."""

    name: str
    fates: ClassVar[tuple[str, ...]] = ()
    overflowed: ClassVar[tuple[Sample, ...]] = ()

    def build(self) -> "NoReuse":
        return self

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        return list(new)

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        pass

    def replay(self, step: int) -> list[Sample]:
        return []

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        return per_batch

    def metrics(self, step: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"a checkpoint holds state of another reuse slot: {sorted(state)}"
