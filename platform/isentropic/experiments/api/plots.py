"""Curves in matplotlib, for notebooks and papers; the HTML report has its own charts."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from isentropic.checks import nearest
from isentropic.experiments.api.arguments import check_kind

LABELS = {
    "entropy/mean": "entropy (nats per token)",
    "reward/mean": "reward",
    "eval/avg_at_k": "held-out avg@k",
}


def plot_curve(frame: pd.DataFrame, metric: str, ax: Axes | None, **style: Any) -> Axes:
    """Draw one column by the index, without its gaps."""
    curve = numbers(frame, metric)
    ax = axes_for(metric, ax)
    ax.plot(curve.index, curve.to_numpy(), **style)
    if "label" in style:
        ax.legend(frameon=False)
    return ax


def axes_for(metric: str, ax: Axes | None) -> Axes:
    """Return axes with labels: those given, or those of a new figure."""
    check_kind("ax", ax, (Axes, type(None)), "matplotlib axes, or None for a new figure")
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(LABELS.get(metric, metric))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def numbers(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric where it is known. Raises ValueError, with the nearest name, if it never is."""
    known = numeric(frame)
    if not isinstance(metric, str) or metric not in known:
        raise ValueError(
            f"no step has the metric {metric!r}.{nearest(str(metric), known)} `.metrics.columns` lists "
            "all; docs/metrics.md explains them."
        )
    return frame[metric].dropna().astype(float)


def numeric(frame: pd.DataFrame) -> Iterable[str]:
    """Return the names of the columns that hold some number."""
    return [
        str(name)
        for name in frame.columns
        if pd.api.types.is_numeric_dtype(frame[name]) and frame[name].notna().any()
    ]
