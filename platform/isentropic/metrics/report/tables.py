"""The tables of the page: headline numbers, settings, alarms; last and best, and differences."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isentropic.config import flat
from isentropic.metrics.law import Forecast, Law
from isentropic.metrics.report.blocks import (
    Block,
    Cell,
    Details,
    Table,
    Tile,
    Tiles,
    Warnings,
    table,
)
from isentropic.metrics.report.charts.law import HELD_OUT, SCORES, TRAINING, Result, gap, judge
from isentropic.metrics.report.reading import is_number, read_rows, words
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, Setting, paired, short
from isentropic.metrics.sinks.terminal import duration

SHOWN_KEYS = (
    "seed",
    "model.name",
    "model.path",
    "task.name",
    "rollout.prompts_per_step",
    "rollout.group_size",
    "rollout.temperature",
    "rollout.max_response_tokens",
    "rollout.max_staleness",
    "learner.updates_per_rollout",
    "learner.lr",
    "learner.num_ranks",
    "rollout.num_actors",
    "evaluation.samples",
)
# Settings that differences are shown against: all pairs of a large sweep would be most of its page.
BASES = 12
GOOD = 0.5  # share of the variance from which on a law is said to fit
SLOTS = (
    "sampling",
    "shaping",
    "filter",
    "advantage",
    "reweight",
    "token_weight",
    "objective",
    "steering",
    "terms",
    "reduction",
    "reuse",
)
OUTCOMES = (
    ("entropy/mean", "last", "entropy, last"),
    ("entropy/mean", "average", "entropy, mean of the run"),
    ("reward/mean", "last", "reward, last"),
    ("reward/mean", "best", "reward, best"),
    ("eval/avg_at_k", "last", "avg@k, last"),
    ("eval/avg_at_k", "best", "avg@k, best"),
    ("eval/pass_at_k", "last", "pass@k, last"),
    ("eval/pass_at_k", "best", "pass@k, best"),
)


def headline(run: RunData) -> Tiles:
    """Makes a row of tiles: what a reader looks for first."""
    k = words(run.setting("evaluation.samples") or "k")
    tiles = [
        _change(run, "reward", "reward/mean"),
        _change(run, "entropy", "entropy/mean", small="nats per token"),
        _change(run, f"avg@{k}", "eval/avg_at_k", start=True),
        _change(run, f"pass@{k}", "eval/pass_at_k", start=True),
        _steps(run),
        _alarms(run),
    ]
    return Tiles(tiles=[tile for tile in tiles if tile])


def _change(
    run: RunData, label: str, key: str, *, small: str = "", start: bool = False
) -> Tile | None:
    """Shows a metric's first and last value, and `small` or its best; None if the run lacks it."""
    curve = run.curve(key, start=start)
    if not curve:
        return None
    _, step, best = max(curve, key=lambda point: point[2])
    value = f"{curve[0][2]:.3g} → {curve[-1][2]:.3g}"
    return Tile(label=label, value=value, small=small or f"best {best:.3g} at step {step}")


def _steps(run: RunData) -> Tile:
    value = f"{run.last_step}" + (f" of {run.planned_steps}" if run.planned_steps else "")
    seconds = sum(run.values("time/step_s"))
    return Tile(label="steps", value=value, small=f"{duration(seconds)} in steps")


def _alarms(run: RunData) -> Tile:
    rules = sorted({alarm.get("rule", "").replace("_", " ") for alarm in run.raised})
    return Tile(label="alarms", value=str(len(run.raised)), small=", ".join(rules) or "none raised")


def alarms_table(runs: Sequence[RunData]) -> Table | None:
    """Lists the alarms of all runs, with the run's name if there are several; None without any."""
    names_run = len(runs) > 1
    rows = [
        [*([run.name] if names_run else []), *map(alarm.get, ("step", "state", "message"))]
        for run in runs
        for alarm in run.alarms
    ]
    head = [*(["run"] if names_run else []), "step", "state", "what"]
    return table(head, rows) if rows else None


def settings_table(run: RunData) -> Table | None:
    """Lists the sizes, then what defines the method, slot by slot; None without a config."""
    config = flat(run.config)
    rows = [[key, short(config[key])] for key in SHOWN_KEYS if config.get(key) is not None]
    for slot in SLOTS:
        values = {
            key.removeprefix(f"{slot}."): value
            for key, value in config.items()
            if key.startswith(f"{slot}.")
        }
        name = values.pop("name", None)
        if name is not None or values:
            rest = ", ".join(f"{key}={short(value)}" for key, value in values.items())
            rows.append([slot, words(name) + (f" ({rest})" if rest else "")])
    return table(["key", "value"], rows) if rows else None


def outcomes_table(settings: Sequence[Setting]) -> Table:
    """Shows last and best of every setting: mean and standard error over its runs."""
    shown = [
        (key, kind, label)
        for key, kind, label in OUTCOMES
        if any(setting.mean(key, kind).count for setting in settings)
    ]
    rows = []
    for setting in settings:
        ended = sum(run.status == "finished" for run in setting.runs)
        row: list[Any] = [
            setting.label,
            f"{ended} of {len(setting.runs)}",
            sum(len(run.raised) for run in setting.runs),
        ]
        rows.append(row + [mean_and_error(setting.mean(key, kind)) for key, kind, _ in shown])
    return table(["setting", "finished", "alarms", *(label for _, _, label in shown)], rows)


def paired_tables(settings: Sequence[Setting]) -> list[Block]:
    """Shows, for each setting as the base, the others' differences by seed; the first is open."""
    shown = [
        (key, kind, label)
        for key, kind, label in OUTCOMES
        if kind != "best" and key != "eval/pass_at_k"
    ]
    tables: list[Block] = []
    for index, base in enumerate(settings[:BASES]):
        rows = []
        for other in settings:
            means = [paired(other, base, key, kind) for key, kind, _ in shown]
            if other is not base and any(mean.count for mean in means):
                pairs = max(mean.count for mean in means)
                rows.append([other.label, pairs, *map(difference, means)])
        if rows:
            head = ["setting", "pairs", *(label for _, _, label in shown)]
            tables.append(
                Details(
                    summary=f"against {base.label}",
                    blocks=[table(head, rows)],
                    is_open=index == 0,
                )
            )
    return tables


def differences_table(settings: Sequence[Setting]) -> Table | None:
    """Lists the config keys that differ, one column per setting; None if none does."""
    keys = list(settings[0].values) if settings else []
    rows = [[key, *(short(setting.values[key]) for setting in settings)] for key in keys]
    return table(["key", *(setting.label for setting in settings)], rows) if rows else None


def law_table(settings: Sequence[Setting]) -> Table | None:
    """Shows the law of entropy and reward for each setting and both scores, or why there is none."""
    rows = []
    for setting in settings[:BASES]:
        for key in (HELD_OUT, TRAINING):
            result = judge(setting.runs, key)
            if result.count:
                rows.append([setting.label, SCORES[key], result.count, *_law_cells(result)])
    if len(settings) == 1:  # whose name would be in every row
        rows = [row[1:] for row in rows]
    head = ["setting", "score", "points", "says", "a", "b", "ceiling b - a", "R\u00b2, RMSE"]
    head = head[len(settings) == 1 :]
    return table([*head, "forecast RMSE: law, log step, last"], rows) if rows else None


def _law_cells(result: Result) -> list[str]:
    law = result.law
    if isinstance(law, str):
        return [f"no fit: {law}", "-", "-", "-", "-", _forecast(result.forecast)]
    says = "fits" if law.r2 >= GOOD else f"fits badly: leaves {1 - law.r2:.0%} of the variance"
    if isinstance(late := result.without_early, Law):
        says += f" (a {late.a:.3g} without the first points)"
    low, high = law.a_interval
    bottom, top = law.ceiling_interval
    return [
        says,
        f"{law.a:.3g} \u00b1 {law.a_error:.1g} [{low:.3g}, {high:.3g}]",
        f"{law.b:.3g} \u00b1 {law.b_error:.1g}",
        f"{law.ceiling:.3g} \u00b1 {law.ceiling_error:.1g} [{bottom:.3g}, {top:.3g}]",
        f"{law.r2:.3f}, {law.rmse:.2g}",
        _forecast(result.forecast),
    ]


def _forecast(found: Forecast | str) -> str:
    if isinstance(found, str):
        return found
    best = "the law is best" if found.law <= min(found.logarithm, found.last) else "a rival is best"
    return f"{found.law:.2g}, {found.logarithm:.2g}, {found.last:.2g}: {best}"


def gap_table(settings: Sequence[Setting]) -> Table | None:
    """Shows each setting's score beyond the first one's law at equal entropy; None for one."""
    rows = []
    for setting in settings[1 : BASES + 1]:
        for key in (HELD_OUT, TRAINING):
            found = gap(setting, settings[0], key)
            cells = [found, "-"] if isinstance(found, str) else [difference(found[0]), found[1]]
            rows.append([setting.label, SCORES[key], *cells])
    head = ("setting", "score", f"gap to the law of {settings[0].label}" if settings else "")
    return table((*head, "points inside its range"), rows) if rows else None


def runs_table(runs: Sequence[RunData], reports: Sequence[str]) -> Table:
    """Lists all runs with their state; `reports` are the links to their own reports, or ""."""
    rows = [
        [
            Cell(text=run.name, href=href),
            run.setting("seed"),
            run.status,
            run.last_step,
            len(run.raised),
        ]
        for run, href in zip(runs, reports, strict=True)
    ]
    return table(["run", "seed", "state", "step", "alarms"], rows)


def mean_and_error(mean: Mean) -> str:
    """Formats a mean as '0.62 ± 0.01'."""
    if not mean.count:
        return "-"
    return f"{mean.value:.3g}" + (f" ± {mean.error:.1g}" if math.isfinite(mean.error) else "")


def difference(mean: Mean) -> str:
    """Formats a mean difference, with the number of standard errors that it is away from 0."""
    if not mean.count:
        return "-"
    if not math.isfinite(mean.error):
        return f"{mean.value:+.2g} (one run each: no error)"
    size = (
        f" ({abs(mean.value) / mean.error:.1f} s.e.)" if mean.error > 1e-9 * abs(mean.value) else ""
    )
    return f"{mean.value:+.4g} ± {mean.error:.2g}{size}"


def search_table(folder: Path) -> Block | None:
    """Shows the runs of a search in the order they were made; None if the folder has no search."""
    try:
        rows, _ = read_rows(folder / "sweep.jsonl")
    except ValueError as error:
        return Warnings(notes=[str(error)])
    last = {words(row["run"]): row for row in rows if isinstance(row, dict) and "run" in row}
    if not any("value" in row for row in last.values()):
        return None
    given = {name: [words(part) for part in _parts(row)] for name, row in last.items()}
    common = set.intersection(*map(set, given.values()))
    shown = [
        [
            number,
            " ".join(part for part in given[name] if part not in common),
            short(row["value"]) if is_number(row.get("value")) else "",
            words(row.get("state", ""))
            + (f" at step {words(row['step'])}" if "step" in row else ""),
        ]
        for number, (name, row) in enumerate(last.items(), start=1)
    ]
    return table(["", "point", "value", "state"], shown)


def _parts(row: dict[str, Any]) -> list[Any]:
    parts = row.get("overrides")
    return parts if isinstance(parts, list) else []
