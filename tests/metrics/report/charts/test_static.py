"""PNGs whose legend names every setting beside the curves and not over them."""

from types import SimpleNamespace

import pytest
from PIL import Image

from isentropic.metrics.report.charts.static import COLOURS, FIGURES, _figure, write_static
from isentropic.metrics.report.settings import Setting

CLIP = FIGURES[2]


def settings(count, keys=("entropy/mean", "reward/mean", "clip/low_frac", "clip/high_frac")):
    """Two runs each, of three steps, one apart in every value."""

    def run(value):
        def curve(key, start):
            return [(step, step, value + step) for step in range(3)] if key in keys else []

        return SimpleNamespace(curve=curve)

    return [
        Setting(label=f"setting {n}", values={}, runs=(run(n), run(n + 1))) for n in range(count)
    ]


@pytest.mark.parametrize("count", [2, 19])
def test_every_setting_is_named_once_and_looks_like_no_other(count):
    figure = _figure(settings(count), *CLIP[1:])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"setting {n}" for n in range(count)
    ]
    low, high = figure.axes
    assert (low.get_title(), high.get_title()) == ("low", "high")
    looks = [(line.get_color(), line.get_linestyle()) for line in low.lines]
    assert len(set(looks)) == count
    assert looks == [(line.get_color(), line.get_linestyle()) for line in high.lines]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= low.get_window_extent().y0
    assert list(low.lines[0].get_ydata()) == [0.5, 1.5, 2.5]  # the mean of the runs


def test_spread_is_drawn_while_it_can_be_told_apart():
    few, many = (_figure(settings(n), *CLIP[1:]).axes[0] for n in (len(COLOURS), len(COLOURS) + 1))
    assert len(few.collections) == len(COLOURS)
    assert not many.collections


def test_one_setting_needs_no_legend_and_a_metric_that_is_absent_no_figure(tmp_path):
    one = settings(1, keys=("entropy/mean",))
    assert write_static(one, tmp_path / "out") == [tmp_path / "out" / "entropy.png"]
    assert not _figure(one, *FIGURES[0][1:]).legends
    assert Image.open(tmp_path / "out" / "entropy.png").mode == "P"
    assert not write_static(settings(2, keys=()), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_link_in_a_strangers_folder_is_replaced_and_its_target_left_alone(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("as it was")
    report = tmp_path / "report"
    report.mkdir()
    (report / "entropy.png").symlink_to(other)
    write_static(settings(1), report)
    assert other.read_text() == "as it was"
    assert not (report / "entropy.png").is_symlink()
    assert Image.open(report / "entropy.png").format == "PNG"
    assert sorted(path.name for path in report.iterdir()) == [
        "clip.png",
        "entropy.png",
        "reward.png",
    ]


def test_a_folder_of_figures_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a link"):
        write_static(settings(1), tmp_path / "report")
    assert not list((tmp_path / "elsewhere").iterdir())
