"""Reward against entropy, and the law R = -a exp(H) + b (metrics/law.py) through it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isentropic.metrics.law import Forecast, Law, fit, forecast, gaps
from isentropic.metrics.report.charts.figures import (
    ZERO,
    Figure,
    by_step,
    colour,
    error_bars,
    layout,
    number,
    text,
    thin,
)
from isentropic.metrics.report.reading import is_number
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import Mean, Setting, mean_of

HELD_OUT, TRAINING = "eval/avg_at_k", "reward/mean"
SCORES = {HELD_OUT: "held-out avg@k", TRAINING: "training reward"}
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross", "pentagon")
SHOWN = 300  # points of a run
EARLY = 5  # first points, in which a reward often rises by learning the format
NOTE = (
    "R = \N{MINUS SIGN}a exp(H) + b (arXiv:2505.22617), H the mean token entropy in nats: for a held-out "
    "score over the steps since the evaluation before, for the training reward of the same step. "
    "The paper's law is about held-out scores; the training reward stands in where evaluations are "
    "few. A high R\N{SUPERSCRIPT TWO} says only that both curves are monotone: the forecast "
    "is fitted on the first 15 % of the points, 3 at least, of the first run and judged on its rest."
)


@dataclass(frozen=True, kw_only=True)
class Points:
    """Steps with a score and an entropy, in the order of the steps, run after run."""

    steps: list[int]
    entropy: list[float]
    score: list[float]
    lengths: list[int]  # points of each run

    def fitted(self, score_error: float) -> Law | str:
        """Fits the law to them."""
        return fit(self.entropy, self.score, score_error=score_error, lengths=self.lengths)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the law makes of the points of one run, or of several: a fit, or why there is none."""

    law: Law | str
    without_early: Law | str
    forecast: Forecast | str
    count: int


def points(run: RunData, key: str, *, after: int = 0) -> Points:
    """Pairs a score with its entropy; the start is left out: its entropy is of other prompts.

    after: first points that are left out too.
    """
    entropy = {step: value for _, step, value in run.curve("entropy/mean")}
    scores = [(step, value) for _, step, value in run.curve(key)]
    before = [0, *(step for step, _ in scores)] if key == HELD_OUT else None
    rows = []
    for index, (step, score) in enumerate(scores):
        first = before[index] + 1 if before else step
        stretch = [entropy[at] for at in range(first, step + 1) if at in entropy]
        if stretch:
            rows.append((step, sum(stretch) / len(stretch), score))
    rows = rows[after:]
    return Points(
        steps=[row[0] for row in rows],
        entropy=[row[1] for row in rows],
        score=[row[2] for row in rows],
        lengths=[len(rows)],
    )


def pooled(runs: Sequence[RunData], key: str, *, after: int = 0) -> Points:
    """Puts the points of several runs one after the other, without the first `after` of each."""
    each = [points(run, key, after=after) for run in runs]
    return Points(
        steps=[step for part in each for step in part.steps],
        entropy=[value for part in each for value in part.entropy],
        score=[value for part in each for value in part.score],
        lengths=[count for part in each for count in part.lengths if count],
    )


def judge(runs: Sequence[RunData], key: str) -> Result:
    """Fits the law to the points of the runs; the forecast is of the first run."""
    shown = pooled(runs, key)
    own = points(runs[0], key)
    error = score_error(runs[0], key, shown.score)
    return Result(
        law=shown.fitted(error),
        without_early=pooled(runs, key, after=EARLY).fitted(error),
        forecast=forecast(own.steps, own.entropy, own.score),
        count=len(shown.steps),
    )


def score_error(run: RunData, key: str, scores: Sequence[float]) -> float:
    """Returns the noise of one score, of the mean size; 0 if the config does not tell.

    Of a held-out score that of its samples alone: its prompts are the same in every step, so what is
    hard in them is in no difference of two scores. At most the binomial error over all samples.
    """
    if not scores:
        return 0.0
    if key == HELD_OUT:
        error = binomial_error(run, sum(scores) / len(scores)) or 0.0
        samples = run.setting("evaluation.samples")
        return error / math.sqrt(samples) if is_number(samples) and samples >= 1 else error
    sizes = [run.setting(f"rollout.{name}") for name in ("prompts_per_step", "group_size")]
    spread = run.values("reward/std")
    if not spread or not all(is_number(size) and size >= 1 for size in sizes):
        return 0.0
    return sum(spread) / len(spread) / math.sqrt(sizes[0] * sizes[1])


def binomial_error(run: RunData, share: float) -> float | None:
    """Returns the standard error of a held-out share over its prompts; None if it is not known.

    For pass@k it is the binomial one; for avg@k, whose samples share their prompt, at most that.
    """
    prompts = run.held_out_prompts
    if prompts is None or not 0 <= share <= 1:
        return None
    return math.sqrt(share * (1 - share) / prompts)


def scatter(run: RunData) -> Figure | None:
    """Draws reward and held-out score against entropy, coloured by step, with the fitted law."""
    traces: list[dict[str, Any]] = []
    for index, key in enumerate((TRAINING, HELD_OUT)):
        traces += _cloud(points(run, key), SCORES[key], SYMBOLS[index], run, key)
        law = judge([run], key).law
        if isinstance(law, Law):
            traces.append(_law_line(law, f"law, {SCORES[key]}", index))
    return _scatter(traces) if traces else None


def scatter_of(settings: Sequence[Setting]) -> list[Figure]:
    """Draws reward against entropy, a symbol per setting: the held-out score where there are some,
    and the training reward."""
    figures = []
    for key in (TRAINING, HELD_OUT):
        traces = []
        for index, setting in enumerate(settings):
            symbol = SYMBOLS[index % len(SYMBOLS)]
            limit = max(20, SHOWN // len(settings))
            cloud = pooled(setting.runs, key)
            traces += _cloud(cloud, setting.label, symbol, setting.runs[0], key, limit=limit)
        if traces:
            figure = _scatter(traces)
            figures.append(
                Figure(
                    title=f"{SCORES[key].capitalize()} against entropy",
                    traces=traces,
                    layout=figure.layout,
                    note="One symbol per setting, coloured by step.",
                )
            )
    return figures


def residuals(run: RunData) -> Figure | None:
    """Draws what the law leaves over, by step; None if it was not fitted."""
    traces = []
    for index, key in enumerate((TRAINING, HELD_OUT)):
        law = judge([run], key).law
        shown = points(run, key)
        if isinstance(law, Law):
            rest = np.asarray(shown.score) - law.predict(shown.entropy)
            traces.append(_residual_line(shown.steps, rest.tolist(), SCORES[key], index))
    if not traces:
        return None
    return Figure(
        title="What the law leaves over",
        traces=traces,
        layout=layout(y="score minus law", yaxis=ZERO, showlegend=True),
        note="A run that lies on its law shows noise around 0; a bow says that it does not.",
    )


def gap(setting: Setting, base: Setting, key: str) -> tuple[Mean, int] | str:
    """Averages the score beyond the base's law at equal entropy, over the runs of a setting.

    Returns the mean over runs and the number of points inside the base's range of entropy; a
    sentence if the base has no law, or no point is inside.
    """
    shown = pooled(base.runs, key)
    law = shown.fitted(score_error(base.runs[0], key, shown.score))
    if isinstance(law, str):
        return law
    each = [points(run, key) for run in setting.runs]
    inside = [gaps(law, part.entropy, part.score) for part in each]
    count = sum(len(values) for values in inside)
    if not count:
        return "no point at an entropy that the base had"
    return mean_of([float(values.mean()) for values in inside if len(values)]), count


def _cloud(
    shown: Points, name: str, symbol: str, run: RunData, key: str, *, limit: int = SHOWN
) -> list[dict[str, Any]]:
    rows = thin(list(zip(shown.steps, shown.entropy, shown.score, strict=True)), limit)
    if not rows:
        return []
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": text(name),
        "x": [number(row[1]) for row in rows],
        "y": [number(row[2]) for row in rows],
        "customdata": [row[0] for row in rows],
        "hovertemplate": "step %{customdata}<br>%{x} nats, %{y}<extra>%{fullData.name}</extra>",
        "marker": by_step([row[0] for row in rows], symbol=symbol),
    }
    if key == HELD_OUT:
        trace["marker"] |= {"size": 11, "line": {"width": 1, "color": "@fg"}}
        trace["error_y"] = error_bars([binomial_error(run, row[2]) for row in rows])
    return [trace]


def _scatter(traces: list[dict[str, Any]]) -> Figure:
    axes = layout(x="entropy (nats per token)", y="score", hovermode="closest", showlegend=True)
    axes["xaxis"]["hoverformat"] = ".3~r"
    first = True
    for trace in traces:  # one scale is enough for all clouds
        if "colorscale" in trace.get("marker", {}):
            trace["marker"]["showscale"] = first
            first = False
    return Figure(
        title="Reward against entropy",
        traces=traces,
        layout=axes,
        note="Coloured by step. Bars: the binomial standard error over the held-out prompts, which "
        "is the largest that avg@k can have.",
    )


def _law_line(law: Law, name: str, index: int) -> dict[str, Any]:
    x = np.linspace(*law.entropy_range, 40)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [number(value) for value in x.tolist()],
        "y": [number(value) for value in law.predict(x).tolist()],
        "hoverinfo": "skip",
        "line": {"color": colour(index), "width": 2, "dash": "dash"},
    }


def _residual_line(
    steps: Sequence[int], rest: Sequence[float], name: str, index: int
) -> dict[str, Any]:
    rows = thin(list(zip(steps, rest, strict=True)), SHOWN)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row[0] for row in rows],
        "y": [number(row[1]) for row in rows],
        "hovertemplate": "%{y}",
        "marker": {"size": 6, "color": colour(index), "symbol": SYMBOLS[index]},
    }
