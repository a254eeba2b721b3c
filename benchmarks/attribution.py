"""How well the entropy ledger's books balance on recorded runs, and what they cost.

    python benchmarks/attribution.py runs/a runs/b runs/c           books of runs with every=1 contexts=1
    python benchmarks/attribution.py runs/a --recompute 21-40       books by jobs/attribute.py, whatever the run kept
    python benchmarks/attribution.py --cost runs/a [--without runs/b]

The books: R^2 of the measured changes per step and update by first order and trapezoid, the relative errors
of now + momentum + decay against the trapezoid and of the tokens' sum against `now`, and what is promised per step.
The cost: what a measured step takes longer than the others of the same run (time/update_s, time/accounting_s), and
which share of the run that is at its accounting.ledger.every; with a second run of the same steps without a ledger
also the ratio of both runs' times.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.attribution.quality import quality  # noqa: E402
from isentropic.experiments.commands.attribute import main as attribute  # noqa: E402
from isentropic.metrics.sinks.jsonl import read_lines  # noqa: E402

NAME = "benchmark"  # of the attribution that --recompute makes
# Key of `quality` -> what is promised of it per step: at least, or at most.
PROMISED = {
    "trapezoid": (">=", 0.99),
    "first": (">=", 0.9),
    "identity": ("<=", 1e-6),
    "tokens": ("<=", 1e-2),
}
PARTS = ("time/update_s", "time/accounting_s")  # where the ledger's work is
DEFAULT_EVERY = 25


def measured(path: Path) -> list[dict]:
    return [row for row in read_lines(path)[0] if "ledger/measured" in row]


def books(folder: Path, steps: str | None) -> dict[str, list[dict]]:
    """The rows of one run, per step and per update; `steps`: made anew for these."""
    made = folder
    if steps is not None:
        if code := attribute([f"run={folder}", f"steps={steps}", f"name={NAME}"]):
            sys.exit(code)
        made = folder / "attribution" / NAME
    found = {
        "step": measured(made / ("metrics.jsonl" if steps is None else "steps.jsonl")),
        "update": measured(made / "updates.jsonl"),
    }
    if not found["step"]:
        sys.exit(
            f"{folder} kept no books: train with accounting.ledger.every=1, or --recompute 1-60"
        )
    return found


def print_books(folders: list[Path], steps: str | None) -> bool:
    """Prints a column per run; whether all that is promised per step holds."""
    runs = {folder.name: books(folder, steps) for folder in folders}
    holds = True
    print(f"{'':<24}" + "".join(f"{name[:18]:>20}" for name in runs))
    for unit in ("step", "update"):
        print(f"{unit + 's':<24}" + "".join(f"{len(rows[unit]):>20}" for rows in runs.values()))
        found = [quality(rows[unit]) for rows in runs.values()]
        for key, (sign, limit) in PROMISED.items():
            numbers = [values[key] for values in found]
            kept = all(number >= limit if sign == ">=" else number <= limit for number in numbers)
            holds &= kept or unit != "step"
            verdict = f"   {sign} {limit:g}: {'held' if kept else 'NOT held'}"
            form = "{:>20.5f}" if sign == ">=" else "{:>20.1e}"
            print(
                f"{key + ' per ' + unit:<24}"
                + "".join(form.format(number) for number in numbers)
                + (verdict if unit == "step" else "")
            )
    return holds


def print_cost(folder: Path, without: Path | None) -> None:
    lines = [row for row in read_lines(folder / "metrics.jsonl")[0] if row["step"] > 0]
    having = [row for row in lines if "ledger/measured" in row]
    # The first step compiles and warms caches: it says nothing about the ledger.
    rest = [row for row in lines[1:] if "ledger/measured" not in row]
    if not having or not rest:
        sys.exit(f"{folder} has no steps with and without books to compare: use an `every` above 1")

    def work(rows: list[dict]) -> float:
        return statistics.fmean(sum(row[part] for part in PARTS) for row in rows)

    extra = work(having) - work(rest)
    step = statistics.fmean(row["time/step_s"] for row in rest)
    print(
        f"updates and accounting: {work(rest):.2f} s per step, {work(having):.2f} s if measured "
        f"({len(having)} steps), of {step:.2f} s per step in all"
    )
    print(f"share of this run: {extra * len(having) / sum(r['time/step_s'] for r in lines):.2%}")
    print(f"share at every={DEFAULT_EVERY}: {extra / DEFAULT_EVERY / step:.2%}")
    if without is not None:
        other = [row for row in read_lines(without / "metrics.jsonl")[0] if row["step"] > 0]
        shared = min(len(lines), len(other))
        times = [sum(row["time/step_s"] for row in rows[:shared]) for rows in (lines, other)]
        print(
            f"{shared} steps: {times[0]:.1f} s with, {times[1]:.1f} s without, ratio "
            f"{times[0] / times[1]:.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run folders with books")
    parser.add_argument("--recompute", metavar="STEPS", help="make the books anew, such as 21-40")
    parser.add_argument("--cost", type=Path, help="run folder with a ledger on some steps")
    parser.add_argument("--without", type=Path, help="run folder of the same steps, no ledger")
    arguments = parser.parse_args()
    if not arguments.runs and arguments.cost is None:
        parser.error("give run folders, or --cost")
    if arguments.cost is not None:
        print_cost(arguments.cost, arguments.without)
    return 0 if not arguments.runs or print_books(arguments.runs, arguments.recompute) else 1


if __name__ == "__main__":
    sys.exit(main())
