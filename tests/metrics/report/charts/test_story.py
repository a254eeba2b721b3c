"""The sentence: how far the entropy went, who took it there, and over how many measured steps."""

import json

import pytest

from isentropic.metrics.report.charts.story import account, fine_print, nats, sentence
from isentropic.metrics.report.run_data import read_run


def run_of(folder, *lines):
    folder.mkdir(exist_ok=True)
    rows = [{"step": step} | line for step, line in enumerate(lines, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder, ended=True)


def books(measured, low, **classes):
    parts = {f"ledger/impulse/{name}": value for name, value in classes.items()}
    return {"ledger/measured": measured, "ledger/impulse/low": low} | parts


FIRST = books(-0.03, 0.004, pa_hp=-0.1, na_lp=-0.15, pa_lp=0.02, na_hp=0.05)
SECOND = books(0.01, 0.016, pa_hp=-0.05, na_lp=-0.06, pa_lp=0.04, na_hp=0.0)


def test_every_step_measured(tmp_path):
    run = run_of(tmp_path, {"entropy/mean": 0.42} | FIRST, {"entropy/mean": 0.17} | SECOND)

    assert sentence([run]) == (
        "Entropy fell 0.25 nats in 2 steps (0.42 → 0.17); NA&LP and PA&HP pulled it down "
        "(-0.21, -0.15), PA&LP and NA&HP pushed it up (+0.060, +0.050); "
        "clipped tokens carried +0.020."
    )
    assert "asked for -0.25 in 2 steps, and -0.020 was measured" in fine_print(run)


def test_the_steps_that_were_measured_are_counted(tmp_path):
    run = run_of(tmp_path, {"entropy/mean": 0.17}, {"entropy/mean": 0.42} | SECOND)
    told = sentence([run])

    assert told.startswith("Entropy rose 0.25 nats in 2 steps (0.17 → 0.42); in the 1 step that")
    assert "NA&LP and PA&HP pulled it down (-0.060, -0.050), PA&LP pushed it up (+0.040)" in told
    assert account(run, [1]) is None and account(run, [1, 2]).measured == 0.01


def test_seeds_are_averaged(tmp_path):
    one = run_of(tmp_path / "a", {"entropy/mean": 0.4}, {"entropy/mean": 0.2} | FIRST)
    two = run_of(tmp_path / "b", {"entropy/mean": 0.6}, {"entropy/mean": 0.2} | SECOND)
    told = sentence([one, two])

    assert told.startswith("Entropy fell 0.30 nats in 2 steps (0.5 → 0.2) (mean of 2 runs)")
    assert "NA&LP and PA&HP pulled it down (-0.10, -0.075)" in told  # (-0.15 - 0.06) / 2


def test_without_a_ledger_the_drift_speaks_without_sizes(tmp_path):
    drift = {"drift/pa_hp": -3.0, "drift/na_lp": -1.0, "drift/pa_lp": 2.0}
    run = run_of(tmp_path, {"entropy/mean": 0.4} | drift, {"entropy/mean": 0.3})

    assert sentence([run]) == (
        "Entropy fell 0.10 nats in 2 steps (0.4 → 0.3); by the drift of free logits PA&HP and "
        "NA&LP asked for less, PA&LP asked for more."
    )
    assert "accounting.ledger.every=5" in fine_print(run)


@pytest.mark.parametrize("lines", [[], [{"entropy/mean": 0.4}]])
def test_nothing_to_say_yet(tmp_path, lines):
    assert sentence([run_of(tmp_path, *lines)]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.25, "-0.25"), (0.0119, "+0.012"), (3.0, "+3.00"), (0.0, "0"), (-4e-5, "-0.000040")],
)
def test_two_digits_that_count(value, text):
    assert nats(value) == text
