"""The books of several runs side by side: who moved the entropy, summed per run, per setting."""

from collections.abc import Mapping, Sequence

from isentropic.metrics.classes import LABELS
from isentropic.metrics.report.charts.books import CLASS_NOTE, MEASURED, PARTS
from isentropic.metrics.report.charts.figures import (
    ZERO,
    Figure,
    colour,
    error_bars,
    layout,
    number,
    text,
)
from isentropic.metrics.report.charts.story import by_step
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, Setting, mean_of

IMPULSE = {f"ledger/impulse/{key}": label for key, label in LABELS.items()} | {
    "ledger/impulse/low": "clipped low",
    "ledger/impulse/high": "clipped high",
}
DRIFT = {f"drift/{key}": label for key, label in LABELS.items()} | {"drift/total": "sum"}


def compare_books(settings: Sequence[Setting]) -> list[Figure]:
    """Draws bars of the classes' whole effects, and of the parts that add up to the measured change.

    Without a ledger, or without a step that all measured, it is the drift by class.
    """
    steps = common_steps(settings)
    if not steps:
        drift = _grouped(settings, "Entropy drift by class", DRIFT, None)
        note = "First-order entropy change per unit learning rate, if every token's logits moved "
        note += f"freely: mean over the run. {CLASS_NOTE} {errors_note(settings)}"
        return [_named(drift, note, unit="nats / learning rate")] if drift else []
    sums = f"Summed over the {len(steps)} steps that every run measured. {errors_note(settings)}"
    whole = _grouped(settings, "Who moved the entropy: whole effects", IMPULSE, steps)
    exact = _grouped(
        settings, "Who moved the entropy: the books", PARTS | {MEASURED: "measured"}, steps
    )
    figures = []
    if whole:
        figures.append(
            _named(whole, f"Each class with what it does through momentum. {sums} {CLASS_NOTE}")
        )
    if exact:
        figures.append(
            _named(exact, f"This step's tokens, momentum and the rest add up to measured. {sums}")
        )
    return figures


def common_steps(settings: Sequence[Setting]) -> list[int]:
    """Returns the steps that every run with a ledger measured; [] if a setting has no such run."""
    each = [
        [set(by_step(run, MEASURED)) for run in setting.runs if run.has(MEASURED)]
        for setting in settings
    ]
    if not each or not all(each):
        return []
    return sorted(set.intersection(*(steps for runs in each for steps in runs)))


def total(setting: Setting, key: str, steps: Sequence[int] | None) -> Mean:
    """Averages a metric's sum over `steps`, or its mean over the run, over the setting's runs."""
    return mean_of(
        [value for run in setting.runs if (value := _total(run, key, steps)) is not None]
    )


def errors_note(settings: Sequence[Setting]) -> str:
    """Says what the error bars are."""
    if any(len(setting.runs) > 1 for setting in settings):
        return "Bars: standard error over the seeds of a setting."
    return "One run each: no error."


def _total(run: RunData, key: str, steps: Sequence[int] | None) -> float | None:
    values = list(by_step(run, key, steps).values())
    if not values:
        return None
    return sum(values) if steps is not None else sum(values) / len(values)


def _grouped(
    settings: Sequence[Setting],
    title: str,
    parts: Mapping[str, str],
    steps: Sequence[int] | None,
) -> Figure | None:
    shown = {
        key: label
        for key, label in parts.items()
        if any(abs(total(setting, key, steps).value) > 0 for setting in settings)
    }
    if not shown:
        return None
    traces = []
    for index, setting in enumerate(settings):
        means = [total(setting, key, steps) for key in shown]
        traces.append(
            {
                "type": "bar",
                "name": text(setting.label),
                "x": list(shown.values()),
                "y": [number(mean.value) for mean in means],
                "error_y": error_bars([mean.error for mean in means], "@fg"),
                "customdata": [mean.count for mean in means],
                "hovertemplate": "%{y} (%{customdata} runs)",
                "marker": {"color": colour(index)},
            }
        )
    return Figure(title=title, traces=traces, layout={}, wide=True, keys=tuple(shown))


def _named(figure: Figure, note: str, unit: str = "nats per token") -> Figure:
    axes = layout(
        x="", y=unit, barmode="group", xaxis={"type": "category"}, yaxis=ZERO, showlegend=True
    )
    axes["xaxis"]["unifiedhovertitle"] = {"text": "%{x}"}
    return Figure(
        title=figure.title,
        traces=figure.traces,
        layout=axes,
        note=note,
        wide=True,
        keys=figure.keys,
    )
