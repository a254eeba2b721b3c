"""The numbers of a part's settings: mean and standard error over seeds, with every seed's value."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isentropic.controller.storage.ledger import ledger_path
from isentropic.experiments.results.plan import Planned
from isentropic.experiments.statements.numbers import area, last_entropy
from isentropic.metrics.classes import CLASSES
from isentropic.metrics.law import Law
from isentropic.metrics.report.charts.law import HELD_OUT, judge
from isentropic.metrics.report.reading import read_json
from isentropic.metrics.report.run_data import RunData, read_run
from isentropic.metrics.report.settings import Setting, mean_of, summary

AVG, PASS = "eval/avg_at_k", "eval/pass_at_k"
TOKENS = "tokens.json"  # drawn at each step, where the ledger of rollouts is gone
DIGITS = 6  # significant: a file of numbers stays small
DIFFERENCES = ("avg_last", "avg_at_budget", "entropy_final", "entropy_mean")  # shown against a base


def read_settings(runs: Mapping[str, Sequence[Planned]]) -> list[Setting]:
    """Read the run folders of each setting, under the part's own labels and in its own order."""
    return [
        Setting(
            label=label,
            values={},
            runs=tuple(_labelled(read_run(run.folder, ended=True), label) for run in same),
        )
        for label, same in runs.items()
    ]


def _labelled(run: RunData, label: str) -> RunData:
    """Return the run under a part's label: in its folder it has none, because parts share it."""
    about = dict(run.config.get("run") or {}) | {"label": label}
    return replace(run, config=run.config | {"run": about})


def tokens_by_step(run: RunData) -> list[int]:
    """Return the response tokens drawn for each step, all waves and dropped groups too.

    They are counted in the ledger of rollouts: a resumed run's own figures leave a step out. What
    teachers wrote was not drawn. A run that was taken from its archive has them in a file.

    Raises:
        ValueError: the rollouts of a step are gone.
    """
    if (kept := read_json(run.folder / TOKENS)) is not None:
        return [int(count) for count in kept]
    return [_tokens_of(ledger_path(run.folder / "rollouts", line["step"])) for line in run.steps]


def _tokens_of(path: Path) -> int:
    if not path.is_file():
        raise ValueError(
            f"{path} is gone, so what the step drew is not known. Restore it; or make the part from its "
            "runs as they are kept: recorded=true."
        )
    table = pq.read_table(path, columns=["origin", "rollout_logprob"])
    drawn = table.filter(pc.equal(table["origin"], "policy"))
    return int(pc.sum(pc.list_value_length(drawn["rollout_logprob"])).as_py() or 0)


def drawn_by(settings: Sequence[Setting]) -> dict[str, list[int]]:
    """Return the tokens drawn for each step, by run."""
    return {run.name: tokens_by_step(run) for each in settings for run in each.runs}


def budget_of(tokens: Mapping[str, Sequence[int]]) -> int:
    """Return the tokens that every run has drawn: what methods are compared at. 0 if one drew none."""
    return min((sum(steps) for steps in tokens.values()), default=0)


def score_at(run: RunData, tokens: Sequence[int], budget: int) -> float:
    """Return the held-out avg@k at a budget of drawn tokens, on a line between two evaluations.

    Not the last score within it: a run that draws a few tokens more than another would stand there
    with the score of an evaluation earlier. A run that ended sooner keeps its last score; NaN
    without one within the budget.
    """
    spent = {0: 0} | dict(
        zip((line["step"] for line in run.steps), np.cumsum(tokens).tolist(), strict=True)
    )
    curve = [(spent[step], value) for _, step, value in run.curve(AVG, start=True) if step in spent]
    if not curve or curve[0][0] > budget:
        return math.nan
    return float(np.interp(budget, *zip(*curve, strict=True)))


def run_numbers(run: RunData, tokens: Sequence[int], budget: int) -> dict[str, float]:
    """Return the numbers of one run; NaN for what it does not have.

    Returns:
        avg_last, avg_best, pass_last, pass_best: of held-out prompts, the start among them.
        avg_at_budget: avg@k at the tokens that every run of the part has drawn.
        entropy_final: mean of the last tenth of the steps; entropy_mean: area under the curve per
            step; both in nats per token.
        tokens: response tokens drawn. seconds: of all steps, books and evaluations included.
    """
    found = {
        "avg_last": summary(run, AVG, "last"),
        "avg_best": summary(run, AVG, "best"),
        "pass_last": summary(run, PASS, "last"),
        "pass_best": summary(run, PASS, "best"),
        "avg_at_budget": score_at(run, tokens, budget) if budget else None,
        "entropy_final": last_entropy(run),
        "entropy_mean": area(run),
        "tokens": sum(tokens) or None,
        "seconds": sum(run.values("time/step_s")) or None,
    }
    return {key: math.nan if value is None else float(value) for key, value in found.items()}


def setting_numbers(
    settings: Sequence[Setting], base: str, tokens: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Return one object per setting: its numbers, books, law, and differences to the base by seed.

    A setting without runs has a row too: what is missing is seen.

    Args:
        tokens: what `drawn_by` gives of the settings.
    """
    budget = budget_of(tokens)
    values = {
        each.label: [run_numbers(run, tokens[run.name], budget) for run in each.runs]
        for each in settings
    }
    seeds = {each.label: [run.setting("seed") for run in each.runs] for each in settings}
    return [
        {
            "label": each.label,
            "seeds": seeds[each.label],
            "finished": sum(run.status == "finished" for run in each.runs),
            "numbers": {
                key: mean([run[key] for run in values[each.label]]) for key in _keys(values)
            },
            "books": books(each),
            "law": law(each),
            "against_base": _less(each.label, base, values, seeds),
            "own_base": own,
            "against_own": _less(each.label, own, values, seeds),
        }
        for each in settings
        for own in [own_base(each.label, [*values], base)]
    ]


def pooled_errors(settings: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the standard error that all paired differences of a table share.

    With three seeds the error of a single difference is itself a guess. This one is of what is left
    of all runs once each setting's and each seed's mean are taken off, as in a two-way analysis of
    variance; it takes the settings to scatter alike.

    Args:
        settings: rows of `setting_numbers`; those without a value for each seed are left out.

    Returns:
        By number: error, of a difference of two means over all seeds; seeds, how many; freedom, its
        degrees. A number that fewer than three settings have, or a single seed, has none.
    """
    seeds = max((row["seeds"] for row in settings), key=len, default=[])
    found = {}
    for key in DIFFERENCES if len(seeds) > 1 else ():
        rows = [row["numbers"][key]["values"] for row in settings if row["seeds"] == seeds]
        values = np.array(rows, dtype=float).reshape(-1, len(seeds))
        values = values[np.isfinite(values).all(1)]
        if len(values) < 3:
            continue
        left = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
        freedom = (len(values) - 1) * (len(seeds) - 1)
        variance = (left**2).sum() / freedom
        found[key] = {
            "error": math.sqrt(2 * variance / len(seeds)),
            "seeds": len(seeds),
            "freedom": freedom,
        }
    return found


def trend(
    settings: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    pooled: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return how numbers change along an order of settings: the slope per place, by least squares.

    All settings of the order count in it, where the difference of its ends knows two. {} if one of
    them is not there or not over.

    Args:
        settings: rows of `setting_numbers`, with the same seeds. labels: the order, first to last.
        pooled: what `pooled_errors` gives of the table.

    Returns:
        labels; slopes: by number, what `mean` gives of the slopes of the seeds; books: so for each of
        the ledger's classes that all these runs have; pooled: the error of `slopes` by the error
        that the table shares, as `pooled_errors` gives that of a difference.
    """
    rows = {row["label"]: row for row in settings}
    order = [rows[label] for label in labels if label in rows]
    seeds = [row["seeds"] for row in order]
    if len(order) < max(2, len(labels)) or not seeds[0] or seeds.count(seeds[0]) < len(seeds):
        return {}
    places = np.arange(len(order)) - (len(order) - 1) / 2
    spread = float((places**2).sum())

    def slopes(tables: Iterable[Sequence[float]]) -> dict[str, Any]:
        return mean((places @ np.array(list(tables), dtype=float) / spread).tolist())

    def has_books(row: Mapping[str, Any], name: str) -> bool:
        return name in row["books"] and len(row["books"][name]["values"]) == len(seeds[0])

    return {
        "labels": list(labels),
        "slopes": {
            key: slopes(row["numbers"][key]["values"] for row in order) for key in DIFFERENCES
        },
        "books": {
            name: slopes(row["books"][name]["values"] for row in order)
            for name in CLASSES
            if all(has_books(row, name) for row in order)
        },
        # A difference has the variance of two means; a slope that of one, over the spread.
        "pooled": {
            key: {**about, "error": about["error"] / math.sqrt(2 * spread)}
            for key, about in pooled.items()
        },
    }


def _keys(values: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    return list(next((runs[0] for runs in values.values() if runs), {}))


def own_base(label: str, labels: Sequence[str], base: str) -> str:
    """Return what "A x B" adds A to, B, if it is a setting of the part, and another one than its base."""
    _, times, own = label.rpartition(" x ")
    return own if times and own in labels and own != base else ""


def _less(
    label: str,
    base: str,
    values: Mapping[str, Sequence[Mapping[str, float]]],
    seeds: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return the differences of a setting to a base, by seed; none if that is none, or itself."""
    if base not in values or label == base:
        return {}
    of_base = dict(zip(seeds[base], values[base], strict=True))
    pairs = [
        (run, of_base[seed])
        for seed, run in zip(seeds[label], values[label], strict=True)
        if seed in of_base
    ]
    return {key: mean([run[key] - other[key] for run, other in pairs]) for key in DIFFERENCES}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard error and count of the finite values, and the values themselves."""
    finite = [value for value in values if math.isfinite(value)]
    found = mean_of(finite)
    return {
        "mean": found.value,
        "error": found.error,
        "count": found.count,
        "values": list(values),
    }


def books(setting: Setting) -> dict[str, Any]:
    """Return the ledger's classes: nats per measured step, mean over steps, then over runs.

    All updates of a step count, those of replayed samples too; a step that made none moved nothing.
    """
    return {
        name: mean([value for run in setting.runs if (value := _average(run, name)) is not None])
        for name in CLASSES
        if any(run.has(f"ledger/{name}") for run in setting.runs)
    }


def _average(run: RunData, name: str) -> float | None:
    values = run.values(f"ledger/{name}")
    every = run.setting("accounting.ledger.every")
    asked = [line["step"] for line in run.steps if line["step"] % every == 0] if every else values
    # A step without updates has no books: UEC-RL trains when its queue is full.
    return sum(values) / max(len(asked), len(values)) if values else None


def law(setting: Setting) -> dict[str, Any]:
    """Return R = -a exp(H) + b over all runs of the setting, or why there is none."""
    if not setting.runs:
        return {"why": "no run came to its end", "count": 0}
    found = judge(setting.runs, HELD_OUT)
    if not isinstance(found.law, Law):
        return {"why": found.law, "count": found.count}
    return {
        "a": found.law.a,
        "a_error": found.law.a_error,
        "b": found.law.b,
        "b_error": found.law.b_error,
        "r2": found.law.r2,
        "count": found.count,
    }


def rounded(value: Any) -> Any:
    """Return plain values as a result file has them: few digits, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
