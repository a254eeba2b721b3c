"""Trains the runs of parts on shared actors. What is over stays; a killed one goes on."""

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from isentropic.experiments.program import DONE, RESUMABLE
from isentropic.experiments.results.cost import cost_of
from isentropic.experiments.results.plan import Planned, to_do
from isentropic.experiments.sweep.ledger import SweepLedger
from isentropic.experiments.sweep.plan import Trial


def train_runs(
    runs: Sequence[Planned],
    folder: Path,
    ledger: SweepLedger,
    *,
    parallel: int | None,
    say: Callable[[str], None],
) -> int:
    """Train what is not over yet; return the exit code: 0 done, 1 a run failed, 75 stopped.

    If nothing is known of how long these runs take, the first is trained by itself, and the
    estimate of the others is said before they start.
    """
    left = to_do(runs, ledger)
    if not left:
        return DONE
    first = [] if math.isfinite(cost_of(runs, ledger).seconds) else left[:1]
    if first and len(left) > 1:
        code = _train(first, folder, ledger, parallel)
        if code == RESUMABLE:
            return code
        say(str(cost_of(runs, ledger, parallel or 1)))
        return max(code, _train(to_do(runs, ledger), folder, ledger, parallel))
    return _train(left, folder, ledger, parallel)


def _train(trials: Sequence[Trial], folder: Path, ledger: SweepLedger, parallel: int | None) -> int:
    # Ray and torch: after everything was checked
    from isentropic.actors.ray_runtime import check_address
    from isentropic.experiments.sweep.queue import Sweep, ordered
    from isentropic.experiments.sweep.table import SweepTable

    if not trials:
        return DONE
    check_address(trials[0].config.cluster)
    os.environ.setdefault("WANDB_SILENT", "true")
    rows = [(trial.name, trial.config.run.steps) for trial in trials]
    with SweepTable(folder.name, rows) as table:
        return asyncio.run(Sweep(folder, ordered(trials), ledger, table).run(parallel))
