"""What plotly is given."""

import pytest

from isentropic.metrics.report.charts.figures import alarm_marks, curves, line, number, thin
from isentropic.metrics.report.charts.run import other_charts, run_charts
from isentropic.metrics.report.run_data import read_run


@pytest.mark.parametrize("count", [1, 1500, 1501, 10_000])
def test_thinning_keeps_both_ends_and_the_limit(count):
    kept = thin(range(count), 1500)

    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) <= 1501


def test_numbers_are_json():
    assert number(1.23456789) == 1.23457
    assert number(float("nan")) is None and number(None) is None


def test_names_stay_text():
    assert line([(0, 1, 2.0)], "<b>x</b>", 0)["name"] == "&lt;b&gt;x&lt;/b&gt;"


def test_a_chart_without_its_metrics_is_left_out(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=5))

    assert curves(run, "KL", {"kl/none": "none"}, y="") is None
    assert [
        trace["name"] for trace in curves(run, "KL", {"kl/k1": "k1", "kl/none": "x"}, y="").traces
    ] == ["k1"]


def test_an_alarm_lies_on_its_curve(make, tmp_path):
    """Raised at step 4."""
    run = read_run(make.run(tmp_path / "a", steps=10, alarm=4))
    entropy = {step: value for _, step, value in run.curve("entropy/mean")}

    (mark,) = alarm_marks(run, ("entropy/mean",))

    assert (mark["x"], mark["y"]) == ([4], [entropy[4]])
    assert alarm_marks(run, ("kl/k1",)) == []
    assert alarm_marks(run, (), on="kl/k1")[0]["x"] == [4]


def test_every_metric_of_a_run_is_shown_once(make, tmp_path):
    run = read_run(make.run(tmp_path / "a", steps=5))
    shown = run_charts(run)
    sections = list(shown)
    rest = other_charts(run, shown)

    assert sections == [
        "Entropy",
        "Reward",
        "What moved the entropy",
        "Reward against entropy",
        "Is it sound",
        "Time",
    ]
    first = {key for figures in shown.values() for figure in figures for key in figure.keys}
    second = [key for figure in rest for key in figure.keys]
    assert len(second) == len(set(second)) and not first & set(second)
    missing = (
        {key for key in run.metrics if "/" in key and not key.endswith("policy_version")}
        - first
        - set(second)
    )
    gone = {"entropy/predicted_change", "entropy/prediction_correlation"}
    assert missing - set(run.zeros) == gone  # old runs have them
