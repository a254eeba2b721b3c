"""What a sweep costs against the same runs one by one, each from nothing, and a run's cost beside its steps.

    python benchmarks/sweep.py                       # 12 demo runs: half an hour on two cores
    python benchmarks/sweep.py --runs 3 --steps 10

Both start with empty caches: each run by itself warm-starts its model and starts its actors, the sweep does so once.
One run is timed and counted `runs` times. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def timed(script: str, *arguments: str, folder: Path) -> float:
    """Seconds of a job whose caches and runs are `folder`'s own."""
    env = os.environ | {
        "ISENTROPIC_CACHE": str(folder / "cache"),
        "ISENTROPIC_RUNS": str(folder / "runs"),
    }
    command = [sys.executable, str(ROOT / "jobs" / script), "experiment=ce_gppo_tiny", *arguments]
    start = time.perf_counter()
    subprocess.run(command, env=env, cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*", help="of the sweep, such as parallel=2")
    given = parser.parse_args()
    steps, seeds = f"run.steps={given.steps}", ",".join(map(str, range(given.runs)))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_:
        alone = timed("train.py", steps, "run.name=one", folder=Path(one))
        sweep = timed(
            "sweep.py", steps, f"seed={seeds}", "name=all", *given.overrides, folder=Path(all_)
        )
        rows = [
            json.loads(line)
            for line in (Path(all_) / "runs" / "all" / "sweep.jsonl").read_text().splitlines()
        ]
    print(json.dumps(summary(given, alone, sweep, rows), indent=1))


def summary(
    given: argparse.Namespace, alone: float, sweep: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is printed, by the seconds of both ways and the rows of sweep.jsonl."""
    beside = [  # an attempt that failed has a row too, and is made again
        row["overhead_s"]
        for row in rows
        if row["state"] == "done" and row["started_actors"] is False
    ]
    return {
        "runs": given.runs,
        "steps": given.steps,
        "one run from nothing, s": round(alone, 1),
        "sweep from nothing, s": round(sweep, 1),
        "sweep / (runs x one run)": round(sweep / (given.runs * alone), 3),
        "beside its steps, on actors that were there, s": {
            "mean": sum(beside) / len(beside) if beside else None,  # every run had its own actors
            "most": max(beside, default=None),
        },
    }


if __name__ == "__main__":
    main()
