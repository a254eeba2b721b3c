"""PNGs for a paper: entropy, reward and clip fractions, drawn by matplotlib. A browser would be needed for plotly's."""

from collections.abc import Sequence
from pathlib import Path

from isentropic.metrics.report.charts.compare import over_seeds
from isentropic.metrics.report.settings import Setting

COLOURS = ("#2f6fb5", "#d9772b", "#2e9367", "#b5476f", "#7a5cc0", "#8a7a1f", "#2a9aa8", "#6b7480")
STYLES = ("-", "--", ":", "-.")
# file, label of the y axis, (metric, words that are added to the line's label)
FIGURES = (
    ("entropy", "entropy (nats a token)", (("entropy/mean", ""),)),
    ("reward", "reward", (("reward/mean", ""),)),
    ("clip", "share of tokens clipped", (("clip/low_frac", "low"), ("clip/high_frac", "high"))),
)
LEGEND = 16  # lines that a legend can still name


def write_static(settings: Sequence[Setting], folder: Path) -> list[Path]:
    """Writes folder/{entropy,reward,clip}.png, those whose metrics exist."""
    from matplotlib.figure import Figure  # late: 0.3 s

    written = []
    for name, unit, metrics in FIGURES:
        figure = Figure(figsize=(5.5, 3.4), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        for index, setting in enumerate(settings):
            for order, (key, side) in enumerate(metrics):
                points, spread, _ = over_seeds(setting.runs, key)
                words = ", ".join(
                    part for part in (setting.label if len(settings) > 1 else "", side) if part
                )
                colour = COLOURS[(index if len(settings) > 1 else order) % len(COLOURS)]
                x, y = [point[0] for point in points], [point[2] for point in points]
                axes.plot(
                    x,
                    y,
                    STYLES[order % 4],
                    color=colour,
                    label=_plain(words) or None,
                    linewidth=1.4,
                )
                low, high = ([p[2] + sign * spread[p[1]] for p in points] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if not any(len(drawn.get_xdata()) for drawn in axes.lines):
            continue
        axes.set(xlabel="policy version (optimizer steps)", ylabel=unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if 1 < len(axes.lines) <= LEGEND:
            axes.legend(frameon=False, fontsize=8)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
        written.append(folder / f"{name}.png")
    return written


def _plain(label: str) -> str:
    """A dollar sign would start a formula, a leading underscore hide the line."""
    return label.replace("$", r"\$").lstrip("_")
