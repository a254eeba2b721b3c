"""The tables of the page: headline, settings, alarms; for several runs outcomes and differences."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from isentropic.config import flat
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, Setting, paired, short
from isentropic.metrics.sinks.terminal import duration

SHOWN_KEYS = (
    "seed", "model.name", "model.path", "task.name", "rollout.prompts_per_step", "rollout.group_size",
    "rollout.temperature", "rollout.max_response_tokens", "rollout.max_staleness", "learner.updates_per_rollout",
    "learner.lr", "learner.num_ranks", "rollout.num_actors", "evaluation.samples",
)  # fmt: skip
# Settings that differences are shown against: all pairs of a large sweep would fill the page.
BASES = 12
SHORT = 48  # characters of a cell that is kept on one line
SLOTS = (
    "sampling", "shaping", "filter", "advantage", "reweight", "token_weight", "objective", "terms", "reduction",
    "reuse",
)  # fmt: skip
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


def headline(run: RunData) -> str:
    """A row of tiles: what a reader looks for first."""
    tiles = []
    for label, key in (("reward", "reward/mean"), ("entropy", "entropy/mean")):
        curve = run.curve(key)
        if curve:
            best = max(curve, key=lambda point: point[2])
            small = (
                f"best {best[2]:.3g} at step {best[1]}"
                if label == "reward"
                else "nats a token, first to last"
            )
            tiles.append((label, _change(curve[0][2], curve[-1][2]), small))
    k = run.setting("evaluation.samples") or "k"
    for label, key in ((f"avg@{k}", "eval/avg_at_k"), (f"pass@{k}", "eval/pass_at_k")):
        curve = run.curve(key, start=True)
        if curve:
            best = max(curve, key=lambda point: point[2])
            tiles.append(
                (label, _change(curve[0][2], curve[-1][2]), f"best {best[2]:.3g} at step {best[1]}")
            )
    planned = run.setting("run.steps")
    seconds = sum(run.values("time/step_s"))
    tiles.append(
        (
            "steps",
            f"{run.last_step}" + (f" of {planned}" if planned else ""),
            f"{duration(seconds)} in steps",
        )
    )
    rules = sorted({str(alarm.get("rule", "")).replace("_", " ") for alarm in run.raised})
    tiles.append(("alarms", str(len(run.raised)), ", ".join(rules) or "none raised"))
    return "<div class='tiles'>" + "".join(_tile(*tile) for tile in tiles) + "</div>"


def alarms_table(runs: Sequence[RunData]) -> str:
    rows = [
        ([run.name] if len(runs) > 1 else [])
        + [alarm.get("step"), alarm.get("state"), alarm.get("message")]
        for run in runs
        for alarm in run.alarms
    ]
    return (
        table((["run"] if len(runs) > 1 else []) + ["step", "state", "what"], rows) if rows else ""
    )


def settings_table(run: RunData) -> str:
    """What defines the method, slot by slot, then the sizes."""
    config = flat(run.config)
    rows = [[key, short(config[key])] for key in SHOWN_KEYS if config.get(key) is not None]
    for slot in SLOTS:
        own = {
            key.removeprefix(f"{slot}."): value
            for key, value in config.items()
            if key.startswith(f"{slot}.")
        }
        name = own.pop("name", None)
        if name is not None or own:
            rest = ", ".join(f"{key}={short(value)}" for key, value in own.items())
            rows.append([slot, f"{name}" + (f" ({rest})" if rest else "")])
    return table(["key", "value"], rows) if rows else ""


def outcomes_table(settings: Sequence[Setting]) -> str:
    """Last and best for every setting, mean and standard error over its runs."""
    shown = [
        column for column in OUTCOMES if any(s.mean(column[0], column[1]).count for s in settings)
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


def paired_tables(settings: Sequence[Setting]) -> str:
    """For each setting as the base, the differences of the others by seed; the first is open."""
    shown = [column for column in OUTCOMES if column[1] != "best" and column[0] != "eval/pass_at_k"]
    parts = []
    for index, base in enumerate(settings[:BASES]):
        rows = []
        for other in settings:
            means = [paired(other, base, key, kind) for key, kind, _ in shown]
            if other is not base and any(mean.count for mean in means):
                rows.append(
                    [
                        other.label,
                        max(mean.count for mean in means),
                        *(difference(mean) for mean in means),
                    ]
                )
        if rows:
            inner = table(["setting", "pairs", *(label for _, _, label in shown)], rows)
            title = f"against {html.escape(base.label)}"
            parts.append(
                f"<details{' open' if index == 0 else ''}><summary>{title}</summary>"
                f"{inner}</details>"
            )
    return "".join(parts)


def differences_table(settings: Sequence[Setting]) -> str:
    """Only the config keys that differ, a column a setting."""
    keys = list(settings[0].values) if settings else []
    rows = [[key, *(short(setting.values[key]) for setting in settings)] for key in keys]
    return table(["key", *(setting.label for setting in settings)], rows) if rows else ""


def runs_table(runs: Sequence[RunData], links: dict[str, str]) -> str:
    """All runs with their state; `links` from a run's name to its own report."""
    rows = [
        [run.name, run.setting("seed"), run.status, run.last_step, len(run.raised)] for run in runs
    ]
    body = table(["run", "seed", "state", "step", "alarms"], rows)
    for name, href in links.items():
        cell = html.escape(name)
        body = body.replace(
            f">{cell}<", f"><a href='{html.escape(href, quote=True)}'>{cell}</a><", 1
        )
    return body


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Cells are escaped."""
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        "</div>"
    )


def _cell(value: Any) -> str:
    words = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td{' class=s' if len(words) <= SHORT else ''}>{html.escape(words)}</td>"


def _tile(label: str, value: str, small: str) -> str:
    return (
        f"<div class='tile'><span>{label}</span><b>{value}</b>"
        f"<small>{html.escape(small)}</small></div>"
    )


def _change(first: float, last: float) -> str:
    return f"{first:.3g} → {last:.3g}"


def mean_and_error(mean: Mean) -> str:
    """'0.62 ± 0.01'."""
    if not mean.count:
        return "-"
    return f"{mean.value:.3g}" + (f" ± {mean.error:.1g}" if math.isfinite(mean.error) else "")


def difference(mean: Mean) -> str:
    """With the standard errors it is away from 0, where there are any."""
    if not mean.count:
        return "-"
    if not math.isfinite(mean.error):
        return f"{mean.value:+.4g}"
    size = (
        f" ({abs(mean.value) / mean.error:.1f} s.e.)" if mean.error > 1e-9 * abs(mean.value) else ""
    )
    return f"{mean.value:+.4g} ± {mean.error:.2g}{size}"
