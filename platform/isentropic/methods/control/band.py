"""The target curve of a controller: the interval that the entropy should be in, step by step."""

from dataclasses import dataclass
from typing import Any

from isentropic.objectives.loss.schedule import STEPS, check_coefficient, resolve


@dataclass(frozen=True, kw_only=True)
class Band:
    """Edges in nats per token: numbers or schedules over the steps; None is no edge."""

    low: Any
    high: Any

    def check(self, key: str) -> None:
        """Raises ValueError for bad edges; `key` is the name of the section that has them."""
        for name, edge in (("low", self.low), ("high", self.high)):
            check_coefficient(f"{key}.{name}", edge, optional=True, at_least=0)
        # Two ramps can cross only between their corners, where one of them is bent.
        for step in sorted({1, *_corners(self.low), *_corners(self.high)}):
            low, high = self.at(step)
            if low is not None and high is not None and low > high:
                raise ValueError(
                    f"{key}.low is {low:g} and {key}.high is {high:g} at step {step}: low must not "
                    "be above high. Equal edges are a single target."
                )

    def at(self, step: int) -> tuple[float | None, float | None]:
        """The edges at `step`, from 1."""
        return resolve(self.low, step), resolve(self.high, step)

    def side(self, step: int, entropy: float) -> int:
        """+1 above the band, -1 below it, 0 inside, on an edge, or if the entropy is not known."""
        low, high = self.at(step)
        above = high is not None and entropy > high
        below = low is not None and entropy < low
        return int(above) - int(below)


def _corners(edge: Any) -> list[int]:
    return [edge[name] for name in STEPS if name in edge] if isinstance(edge, dict) else []
