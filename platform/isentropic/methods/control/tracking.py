"""How well a controller holds the entropy: the same report for every one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from isentropic.methods.control.controller import Aim
from isentropic.records import Sample

NEAR = 0.1  # of a single target: within this share of it counts as inside


class Tracking:
    """Sums over the run so far. Its state is a few numbers, equal after a resume."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(("steps", "gap", "inside", "saturated", "switches"), 0.0)
        self._mode: float | None = None

    def add(self, entropy: float, aim: Aim | None, samples: Sequence[Sample]) -> dict[str, float]:
        """Takes a step; gives the report, under control/. Nothing without a controller.

        Args:
            entropy: the step's entropy/mean, nats per token.
            aim: what the controller wanted; a step without a known target or entropy counts only
                its switches.
            samples: what is trained on.
        """
        if aim is None:
            return {}
        sums = self._sums
        sums["switches"] += self._mode is not None and aim.mode != self._mode
        self._mode = aim.mode
        target = _middle(aim)
        if math.isfinite(target) and math.isfinite(entropy):
            sums["steps"] += 1
            sums["gap"] += abs(entropy - target)
            sums["inside"] += _inside(entropy, aim)
            sums["saturated"] += aim.saturated
        taught = sum(bool(sample.advantage.any()) for sample in samples)
        steps = sums["steps"]
        means = {
            f"control/{name}": sums[part] / steps if steps else math.nan
            for name, part in (
                ("gap_abs_mean", "gap"),
                ("inside_frac", "inside"),
                ("saturated_frac", "saturated"),
            )
        }
        return means | {
            "control/target": target,
            "control/mode": aim.mode,
            "control/switches": sums["switches"],
            "control/effective_batch": float(taught),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "mode": self._mode}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; those of runs before this report have no state of it."""
        if state:
            self._sums = {name: float(value) for name, value in state["sums"].items()}
            self._mode = state["mode"]


def _middle(aim: Aim) -> float:
    """Middle of the band, or its only edge; NaN without any."""
    edges = [edge for edge in (aim.low, aim.high) if edge is not None]
    return sum(edges) / len(edges) if edges else math.nan


def _inside(entropy: float, aim: Aim) -> bool:
    low, high = aim.low, aim.high
    if low is not None and low == high:
        return abs(entropy - low) <= NEAR * low
    return (low is None or entropy >= low) and (high is None or entropy <= high)
