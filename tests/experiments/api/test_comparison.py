"""Runs side by side, under the labels of the report."""

import shutil

import pytest
import yaml

import isentropic


def test_settings_and_their_outcomes(runs):
    both = isentropic.compare(["low", isentropic.load_run("high")])
    assert both.settings == ["beta1=0", "beta1=1"]
    last = isentropic.load_run("low").metrics["entropy/mean"].iloc[-1]
    assert both.table.loc["beta1=0", ("entropy, last", "mean")] == last
    assert both.table.loc["beta1=0", ("entropy, last", "runs")] == 1
    assert both.metrics.index.names == ["setting", "run", "step"]
    assert both.metrics.loc[("beta1=0", "low", 6), "entropy/mean"] == last


def test_a_sweep_stands_for_its_runs(runs):
    assert [run.name for run in isentropic.compare("grid").runs] == ["one"]
    assert len(isentropic.compare(["grid", "low"]).runs) == 2


def test_curves_of_settings(runs):
    ax = isentropic.compare(["low", "high"]).plot_entropy()
    assert [line.get_label() for line in ax.get_lines()] == ["beta1=0", "beta1=1"]
    assert list(ax.get_lines()[0].get_xdata()) == [1, 2, 3, 4, 5, 6]


def test_the_report_of_a_comparison(runs, tmp_path):
    out = isentropic.compare(["low", "high"]).report(tmp_path / "both.html")
    assert "low vs high" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "nothing to compare"), (["low", "hihg"], r"Did you mean 'high'\?")],
)
def test_what_cannot_be_compared(runs, names, message):
    with pytest.raises(ValueError, match=message):
        isentropic.compare(names)


def test_runs_of_one_name_are_both_there(runs, tmp_path):
    """`run.dir` says where a run lies; its name stays that of its config."""
    for seed in (0, 1):
        folder = tmp_path / f"s{seed}"
        shutil.copytree(isentropic.load_run("low").folder, folder)
        config = folder / "config.yaml"
        values = yaml.safe_load(config.read_text()) | {"seed": seed}
        config.write_text(yaml.safe_dump(values))
    both = isentropic.compare([tmp_path / "s0", tmp_path / "s1"])
    (setting,) = both.settings
    frame = both.metrics.loc[setting]
    assert sorted(set(frame.index.get_level_values("run"))) == [
        str(tmp_path / f"s{n}") for n in (0, 1)
    ]
    assert len(frame) == 2 * len(isentropic.load_run("low").metrics)
