"""Who moved the entropy in recorded steps: trains them again and keeps full books.

Writes, in a folder of its own: step_*.parquet, one row per trained token and update; updates.jsonl
and steps.jsonl, the books in the keys that a run has (docs/metrics.md); summary.json, what was asked
for and how well the books balance.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isentropic.controller.storage.attribution import write_attribution
from isentropic.durable import write_text_durably
from isentropic.experiments.attribution.display import Display
from isentropic.experiments.attribution.measure import Asked, Measured, Meter
from isentropic.experiments.attribution.quality import quality
from isentropic.experiments.attribution.walk import Stretch
from isentropic.experiments.branch.learner import replay_learner
from isentropic.experiments.run.lock import is_only_locked
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.metrics.sinks.jsonl import plain
from isentropic.objectives.loss.needs import needs_reference

SUMMARY, STEPS, UPDATES = "summary.json", "steps.jsonl", "updates.jsonl"


async def attribute(
    run: RecordedRun,
    prepared: Prepared,
    stretches: Sequence[Stretch],
    steps: Sequence[int],
    asked: Asked,
    out: Path,
    *,
    run_ranks: bool,
    display: Display,
) -> dict[str, Any]:
    """Trains the stretches again, measures `steps`, writes and shows what came out; the summary.

    run_ranks: as many learner ranks as the run had, which gives its bits; else one.
    """
    config = run.config
    rows: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    compared = differing = 0
    reference = needs_reference(config.objective, config.terms)
    async with replay_learner(
        config, prepared.model, exact=run_ranks, reference=reference
    ) as learner:
        meter = Meter(run, asked, learner, prepared)
        with display.bar(sum(len(stretch.steps) for stretch in stretches)):
            for stretch in stretches:
                await meter.begin(stretch.start)
                for number in stretch.steps:
                    books = number in steps
                    display.begin(number, measured=books)
                    outcome = await meter.step(number, books=books)
                    compared += outcome.differing is not None
                    differing += bool(outcome.differing) or not outcome.repeated
                    row = step_row(number, outcome, stretch, asked) if books else None
                    display.end(number, outcome, row)
                    if row is not None:
                        rows.append(row)
                        updates += [{"step": number} | each for each in outcome.rows]
                        _write(out, number, row, outcome)
    measured = [row for row in rows if "ledger/measured" in row]
    found = {"steps": quality(measured), "updates": quality(updates)}
    display.tables(measured, asked.by, exact=asked.exact)
    display.quality(found)
    return finish(
        out,
        {"compared": compared, "differing": differing, "quality": found, "sum": total(measured)},
    )


def step_row(number: int, outcome: Measured, stretch: Stretch, asked: Asked) -> dict[str, Any]:
    """Adds up the books of the updates of a step.

    `exact/since`: the step after which the momentum's owners are followed; what the optimizer held
    then is ledger/exact/before.
    """
    row: dict[str, Any] = {"step": number} | total(outcome.rows)
    return row | {"exact/since": stretch.start} if asked.exact else row


def total(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Adds up the books of rows; a class that a row lacks did nothing in it."""
    sums: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith(("ledger/", "ledger_s/")):
                sums[key] = sums.get(key, 0.0) + value
    return sums


def begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder; one with the same settings is made again, its numbers are the same.

    Raises ValueError if the folder has something else.
    """
    text = json.dumps({"settings": settings}, indent=1) + "\n"
    if out.exists() and not is_only_locked(out):
        if _settings(out) != json.loads(text)["settings"]:
            raise ValueError(
                f"{out} has another attribution, or other files. Choose another name: name=<name>."
            )
        for path in (*out.glob("step_*.parquet"), out / STEPS, out / UPDATES):
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_text_durably(out / SUMMARY, text)


def finish(out: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the results to the summary, and returns all of it."""
    summary = {"settings": _settings(out)} | plain(dict(results))
    write_text_durably(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return {"settings": summary["settings"]} | dict(results)


def _settings(out: Path) -> Any:
    """Returns the settings of the attribution in a folder; None if there is none."""
    try:
        return json.loads((out / SUMMARY).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(out: Path, number: int, row: Mapping[str, Any], outcome: Measured) -> None:
    if outcome.tokens:
        write_attribution(out, number, outcome.tokens)
    for name, lines in (
        (STEPS, [row]),
        (UPDATES, [{"step": number} | each for each in outcome.rows]),
    ):
        with (out / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(plain(line), allow_nan=False) + "\n" for line in lines)
