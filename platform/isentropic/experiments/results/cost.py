"""What a part still costs: runs to train, and about how long, said before it starts."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isentropic.experiments.results.plan import Planned, to_do
from isentropic.experiments.sweep.ledger import OVER, SweepLedger
from isentropic.experiments.sweep.plan import Trial

# Seconds per step where no run has been measured yet, by task, and the machine they were taken on.
RECORDED = {"arithmetic": 2.0}
RECORDED_ON = "two quiet CPU cores, without books"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The runs of a part that are left, and the time that they take one after the other."""

    runs: int
    left: int
    seconds: float  # of all that is left; NaN: not known
    basis: str  # where the figure comes from

    def __str__(self) -> str:
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        if not self.left:
            return f"{runs}, all done"
        known = math.isfinite(self.seconds)
        about = f"about {self.seconds / 60:.0f} min" if known else "minutes not known yet"
        return f"{runs}, {self.left} to do, {about} ({self.basis})"


def cost_of(runs: Sequence[Planned], ledger: SweepLedger | None, parallel: int = 1) -> Cost:
    """Estimate from the seconds per step of finished runs on the same task, else a recorded figure.

    Args:
        parallel: runs at once. A measured figure is of runs that shared the machine as they did.
    """
    left = to_do(runs, ledger)
    measured = measured_seconds(runs, ledger)
    if measured:
        mean = sum(measured) / len(measured)
        basis = f"{mean:.1f} s per step over {len(measured)} runs here"
        return Cost(
            runs=len(runs), left=len(left), seconds=_total(left, mean) / parallel, basis=basis
        )
    task = runs[0].trial.config.task.name
    if task in RECORDED:
        basis = f"{RECORDED[task]:.1f} s per step, recorded on {RECORDED_ON}"
        seconds = _total(left, RECORDED[task])
    else:
        basis, seconds = "measured on the first of them", math.nan
    return Cost(runs=len(runs), left=len(left), seconds=seconds, basis=basis)


def measured_seconds(runs: Sequence[Planned], ledger: SweepLedger | None) -> list[float]:
    """Return the seconds per step of the runs that one attempt has finished."""
    if ledger is None:
        return []
    rows = [(run.trial, ledger.rows.get(run.trial.digest, {})) for run in runs]
    return [
        _own_seconds(row) / trial.config.run.steps
        for trial, row in rows
        if row.get("state") in OVER and len(ledger.attempts(trial.digest)) == 1
    ]


def _own_seconds(row: Mapping[str, Any]) -> float:
    # The first run of a lane starts the engine for all others: that time is not theirs.
    return row["seconds"] - (row.get("overhead_s", 0.0) if row.get("started_actors") else 0.0)


def machine() -> str:
    """Return what this machine is, for people: CPUs that may be used, and how busy they are."""
    return f"{len(os.sched_getaffinity(0))} CPUs under load {os.getloadavg()[0]:.1f}"


def _total(trials: Sequence[Trial], per_step: float) -> float:
    return sum(trial.config.run.steps for trial in trials) * per_step
