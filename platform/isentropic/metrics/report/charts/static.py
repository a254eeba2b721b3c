"""PNGs for a paper: entropy, reward and clip fractions.

matplotlib draws them: plotly would need a browser for it.
"""

import errno
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from isentropic.durable import replace_durably
from isentropic.metrics.report.charts.compare import over_seeds
from isentropic.metrics.report.settings import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6fb5", "#d9772b", "#2e9367", "#b5476f", "#7a5cc0", "#8a7a1f", "#2a9aa8", "#6b7480")
STYLES = ("-", "--", ":", "-.")  # one after the other, when the colours are used up
# file, label of the y axis, (metric, title of its panel)
FIGURES = (
    ("entropy", "entropy (nats per token)", (("entropy/mean", ""),)),
    ("reward", "reward", (("reward/mean", ""),)),
    ("clip", "share of tokens clipped", (("clip/low_frac", "low"), ("clip/high_frac", "high"))),
)
PANEL = (5.5, 3.4)  # inches
DPI = 200
BANDS = len(COLOURS)  # settings whose spread can still be told apart
LONGEST_LABEL = 60  # characters: a longer one leaves no room for the curves
LETTERS_PER_INCH = 13  # of a legend
LEGEND_ROW = 0.19  # inches


def write_static(settings: Sequence[Setting], folder: Path) -> list[Path]:
    """Writes folder/{entropy,reward,clip}.png, those whose metrics exist.

    Raises:
        OSError: `folder` is a link. In a stranger's folder it may lead anywhere.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and the figures would go where it leads", folder)
    written = []
    for name, unit, metrics in FIGURES:
        figure = _figure(settings, unit, metrics)
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _save(figure, folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    return written


def _figure(
    settings: Sequence[Setting], unit: str, metrics: Sequence[tuple[str, str]]
) -> "Figure | None":
    """Draws a panel per metric, with a line per setting; None if there is nothing to draw."""
    from matplotlib.figure import Figure  # late: 0.3 s

    width = PANEL[0] * (1 if len(metrics) == 1 else 0.8 * len(metrics))
    labels = [_plain(setting.label) for setting in settings]
    columns = max(1, int(width * LETTERS_PER_INCH // (max(map(len, labels), default=0) + 6)))
    rows = -(-len(labels) // columns) if len(labels) > 1 else 0
    figure = Figure(figsize=(width, PANEL[1] + LEGEND_ROW * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(panels, metrics, strict=True):
        for index, setting in enumerate(settings):
            _draw(axes, setting, key, index, bands=len(settings) <= BANDS)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(unit)
    lines = [line for axes in panels for line in axes.lines]
    if not any(len(line.get_xdata()) for line in lines):
        return None
    if len(settings) > 1:
        figure.legend(
            panels[0].lines,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(labels)),
            frameon=False,
            fontsize=8,
        )
    return figure


def _draw(axes: "Axes", setting: Setting, key: str, index: int, *, bands: bool) -> None:
    """Draws a metric's mean over the runs, and one standard deviation around it."""
    points, spread, _ = over_seeds(setting.runs, key)
    x = [step for _, step, _ in points]
    mean = [value for _, _, value in points]
    colour = COLOURS[index % len(COLOURS)]
    style = STYLES[index // len(COLOURS) % len(STYLES)]
    axes.plot(x, mean, style, color=colour, linewidth=1.4)
    if bands:
        low = [value - spread[step] for _, step, value in points]
        high = [value + spread[step] for _, step, value in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _save(figure: "Figure", path: Path) -> None:
    """Writes a PNG with a palette: a third of the bytes, and no difference to the eye."""
    from PIL import Image  # matplotlib writes its PNGs by it

    buffer = BytesIO()
    figure.savefig(buffer)
    image = Image.open(buffer).convert("RGB")
    # A new file in the place of the old one: if that is a link, its target is left alone.
    with replace_durably(path) as temporary:
        image.quantize(256, dither=Image.Dither.NONE).save(
            temporary, format="PNG", optimize=True, dpi=(DPI, DPI)
        )


def _plain(label: str) -> str:
    """Makes a label that matplotlib can only read as text.

    A dollar sign would start a formula, a leading underscore hide the line, half a surrogate pair
    stop the drawing.
    """
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in label)
    text = text[:LONGEST_LABEL] + ("..." if len(text) > LONGEST_LABEL else "")
    return text.replace("$", r"\$").lstrip("_")
