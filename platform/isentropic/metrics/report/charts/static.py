"""PNGs for a paper: entropy, reward and clip fractions.

matplotlib draws them: plotly would need a browser for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isentropic.metrics.report.charts.compare import over_seeds
from isentropic.metrics.report.settings import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fb5", "#d9772b", "#2e9367", "#b5476f", "#7a5cc0", "#8a7a1f", "#2a9aa8", "#6b7480")
STYLES = ("-", "--", ":", "-.")
# file, label of the y axis, (metric, words that are added to the line's label)
FIGURES = (
    ("entropy", "entropy (nats per token)", (("entropy/mean", ""),)),
    ("reward", "reward", (("reward/mean", ""),)),
    ("clip", "share of tokens clipped", (("clip/low_frac", "low"), ("clip/high_frac", "high"))),
)
LEGEND = 16  # lines that a legend can still name
LONGEST_LABEL = 60  # characters: a longer one leaves no room for the curves


def write_static(settings: Sequence[Setting], folder: Path) -> list[Path]:
    """Writes folder/{entropy,reward,clip}.png, those whose metrics exist."""
    from matplotlib.figure import Figure  # late: 0.3 s

    written = []
    for name, unit, metrics in FIGURES:
        figure = Figure(figsize=(5.5, 3.4), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        for index, setting in enumerate(settings):
            for order, (key, side) in enumerate(metrics):
                names = [setting.label if len(settings) > 1 else "", side]
                label = ", ".join(part for part in names if part)
                colour = COLOURS[(index if len(settings) > 1 else order) % len(COLOURS)]
                _draw(axes, setting, key, label=label, colour=colour, style=STYLES[order])
        if not any(len(line.get_xdata()) for line in axes.lines):
            continue
        axes.set(xlabel="step", ylabel=unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if 1 < len(axes.lines) <= LEGEND:
            axes.legend(frameon=False, fontsize=8)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
        written.append(folder / f"{name}.png")
    return written


def _draw(axes: "Axes", setting: Setting, key: str, *, label: str, colour: str, style: str) -> None:
    """Draws a metric's mean over the runs, and one standard deviation around it."""
    points, spread, _ = over_seeds(setting.runs, key)
    x = [step for _, step, _ in points]
    mean = [value for _, _, value in points]
    low = [value - spread[step] for _, step, value in points]
    high = [value + spread[step] for _, step, value in points]
    axes.plot(x, mean, style, color=colour, label=_plain(label) or None, linewidth=1.4)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _plain(label: str) -> str:
    """Makes a label that matplotlib can only read as text.

    A dollar sign would start a formula, a leading underscore hide the line, half a surrogate pair
    stop the drawing.
    """
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in label)
    text = text[:LONGEST_LABEL] + ("..." if len(text) > LONGEST_LABEL else "")
    return text.replace("$", r"\$").lstrip("_")
