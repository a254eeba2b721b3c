"""The reweight slot of methods that give every token its rollout's advantage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isentropic.records import Sample


@dataclass(frozen=True, kw_only=True)
class NoReweight:
    """Leaves every token its rollout's advantage."""

    name: str

    def build(self) -> "NoReweight":
        return self

    def weigh(
        self, samples: Sequence[Sample], entropy_mean: float
    ) -> tuple[list[Sample], dict[str, float]]:
        return list(samples), {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"a checkpoint holds state of another reweight slot: {sorted(state)}"
