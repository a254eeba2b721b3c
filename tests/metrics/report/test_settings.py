"""Runs that differ in their seed alone are one setting; differences are paired by seed."""

import math
from pathlib import Path

import pytest

from isentropic.metrics.report.charts.compare import maps, over_seeds
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import (
    Setting,
    differing_keys,
    group_settings,
    in_blocks,
    mean_of,
    paired,
    swept_axes,
)


def run(seed, entropies, **objective):
    lines = [
        {"step": i, "policy_version": 8 * (i - 1), "entropy/mean": e}
        for i, e in enumerate(entropies, start=1)
    ]
    config = {
        "seed": seed,
        "run": {"name": f"r{seed}", "steps": 9},
        "objective": {"name": "ce_gppo"} | objective,
    }
    return RunData(folder=Path(f"r{seed}"), config=config, environment={}, lines=lines, alarms=[])


def test_mean_and_standard_error():
    """1, 2, 3: standard deviation 1, over the square root of 3."""
    mean = mean_of([1.0, 2.0, 3.0])

    assert (mean.value, mean.count) == (2.0, 3)
    assert mean.error == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(mean_of([1.0]).error)


def test_settings_are_ordered_by_value_and_named_by_what_differs():
    runs = [
        run(seed, [1.0], beta1=beta1, beta2=1.0) for beta1 in (10.0, 0.5, None) for seed in (1, 0)
    ]

    settings = group_settings(runs)

    assert [setting.label for setting in settings] == ["beta1=none", "beta1=0.5", "beta1=10"]
    assert [own.setting("seed") for own in settings[0].runs] == [0, 1]


def test_a_label_that_was_given_names_a_setting():
    runs = [run(seed, [1.0], beta1=beta1) for beta1 in (0.5, 1.0) for seed in (0, 1)]
    for each in runs:
        each.config["run"]["label"] = (
            "low" if each.config["objective"]["beta1"] == 0.5 else "(1, 1)"
        )
    assert [setting.label for setting in group_settings(runs)] == ["low", "(1, 1)"]

    runs[0].config["run"]["label"] = "(1, 1)"  # which no longer tells them apart
    assert [setting.label for setting in group_settings(runs)] == ["beta1=0.5", "beta1=1"]


def test_what_a_slot_has_from_the_runs_folder_or_seed_is_no_setting():
    """As OGER's cache and the seed of its clusters; a place that is elsewhere is a choice."""
    runs = [run(seed, [1.0]) for seed in (0, 1)]
    for seed, each in enumerate(runs):
        each.config["run"]["dir"] = f"runs/r{seed}"
        each.config["shaping"] = {"cache": f"runs/r{seed}/encoder", "seed": seed}
    assert [setting.label for setting in group_settings(runs)] == ["2 seeds"]

    other = run(1, [1.0], beta1=0.5)  # another slot, whose seed is one for all runs
    other.config["shaping"] = {"name": "fixed", "seed": 1}
    assert len(group_settings([*runs, other])) == 2

    runs[1].config["shaping"]["cache"] = "elsewhere"
    assert [setting.values for setting in group_settings(runs)] == [
        {"shaping.cache": "${run.dir}/encoder"},
        {"shaping.cache": "elsewhere"},
    ]


def test_the_fewest_keys_name_a_setting():
    """The two baselines differ in three keys; the objective's name tells them apart alone."""
    first = run(0, [1.0], beta1=0.5, clip_high=0.2)
    second = run(0, [1.0], beta1=None, clip_high=0.28)
    second.config["objective"]["name"] = "clip"

    settings = group_settings([first, second])

    assert differing_keys([first, second]) == [
        "objective.name",
        "objective.beta1",
        "objective.clip_high",
    ]
    assert {setting.label for setting in settings} == {"clip", "ce_gppo"}


def test_runs_of_one_setting_are_named_by_their_number():
    assert [setting.label for setting in group_settings([run(seed, [1.0]) for seed in (0, 1)])] == [
        "2 seeds"
    ]
    assert [setting.label for setting in group_settings([run(0, [1.0])])] == ["r0"]


def test_a_key_that_a_method_does_not_have_is_not_in_its_name():
    runs = [
        run(0, [1.0], beta1=0.5),
        run(0, [1.0], beta1=None),
        run(0, [1.0], clip_high=0.28),
        run(0, [1.0]),
    ]
    for own in runs[2:]:
        own.config["objective"]["name"] = "clip"

    labels = [setting.label for setting in group_settings(runs)]

    assert sorted(labels) == [
        "ce_gppo, beta1=0.5",
        "ce_gppo, beta1=none",
        "clip",
        "clip, clip_high=0.28",
    ]


def test_runs_of_other_lengths_are_other_settings():
    """Their ends and means are over other steps, and a schedule of the rate has another shape."""
    runs = [run(seed, [1.0]) for seed in (0, 1)]
    runs[1].config["run"]["steps"] = 40
    labels = [setting.label for setting in group_settings(runs)]
    assert labels == ["ce_gppo, steps=9", "ce_gppo, steps=40"]


def test_a_longer_run_leaves_the_others_their_labels():
    runs = [run(seed, [1.0], beta1=beta1) for beta1 in (0.5, 1.0) for seed in (0, 1)]
    for each, label in zip(runs, ("low", "low", "high", "high"), strict=True):
        each.config["run"]["label"] = label
    runs[1].config["run"]["steps"] = 40
    labels = {setting.label: len(setting.runs) for setting in group_settings(runs)}
    assert labels == {"low, steps=9": 1, "low, steps=40": 1, "high": 2}


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), ([0, 1], [0.0, 1.0])])
def test_a_number_is_the_same_however_it_was_typed(one, other):
    runs = [run(0, [1.0], beta2=one), run(1, [1.0], beta2=other)]
    assert [setting.label for setting in group_settings(runs)] == ["2 seeds"]
    assert len(group_settings([run(0, [1.0], beta2=True), run(1, [1.0], beta2=1)])) == 2


def test_a_seed_that_several_runs_have_is_in_no_pair():
    base = Setting(
        label="a", values={}, runs=tuple(run(s, [e]) for s, e in ((0, 1), (0, 3), (1, 5)))
    )
    other = Setting(label="b", values={}, runs=tuple(run(s, [e]) for s, e in ((0, 2), (1, 7))))
    difference = paired(other, base, "entropy/mean", "last")
    assert (difference.value, difference.count) == (2.0, 1)
    assert paired(base, other, "entropy/mean", "last").value == -2.0


def test_an_error_by_blocks_leaves_the_mean_that_of_the_values():
    """11 values are a block of 6 and one of 5; the mean of the blocks would be 5.25, not 10 / 11 * 6."""
    mean = in_blocks([[0.0] * 5 + [10.0] * 6])
    assert mean.value == pytest.approx(60 / 11)
    assert mean.count == 11
    # Blocks of 10 / 6 and of 10.
    assert mean.error == pytest.approx((10 - 10 / 6) / 2)


def test_paired_differences_cancel_what_the_seed_brings():
    """Seeds are 1 and 5 apart in entropy; the setting lowers each by 0.5 and 0.7: mean -0.6, s.e. 0.1."""
    base = group_settings(
        [run(0, [1.0], beta1=0.0), run(1, [5.0], beta1=0.0), run(2, [9.0], beta1=0.0)]
    )[0]
    other = group_settings([run(0, [0.5], beta1=1.0), run(1, [4.3], beta1=1.0)])[0]

    difference = paired(other, base, "entropy/mean", "last")

    assert difference.count == 2
    assert difference.value == pytest.approx(-0.6)
    assert difference.error == pytest.approx(0.1)


def test_last_best_and_average():
    setting = group_settings([run(0, [1.0, 3.0, 2.0])])[0]

    assert [setting.mean("entropy/mean", kind).value for kind in ("last", "best", "average")] == [
        2.0,
        3.0,
        2.0,
    ]


def test_a_run_that_ended_early_counts_as_far_as_it_came():
    points, spread, counts = over_seeds([run(0, [1.0, 2.0]), run(1, [3.0])], "entropy/mean")

    assert points == [(0, 1, 2.0), (8, 2, 2.0)]
    assert spread[1] == pytest.approx(math.sqrt(2)) and spread[2] == 0
    assert counts == {1: 2, 2: 1}


def test_map_over_two_coefficients():
    """A grid of two by two; the cell at (1, 0) holds the mean of two seeds, another is missing."""
    cells = [(0.0, 0.0, 1.0, 0), (1.0, 0.0, 2.0, 0), (1.0, 0.0, 4.0, 1), (0.0, 1.0, 5.0, 0)]
    runs = [run(seed, [entropy], beta1=beta1, beta2=beta2) for beta1, beta2, entropy, seed in cells]
    settings = group_settings(runs)

    assert swept_axes(settings) == ("objective.beta1", "objective.beta2")
    entropy = maps(settings)[0].traces[0]
    assert (entropy["x"], entropy["y"]) == (["0", "1"], ["0", "1"])
    assert entropy["z"] == [[1.0, 3.0], [5.0, None]]


def test_no_map_over_coefficients_that_move_together():
    runs = [run(0, [1.0], clip_low=clip, clip_high=clip) for clip in (0.1, 0.2, 0.3)]

    assert swept_axes(group_settings(runs)) is None


def test_keys_that_compute_nothing_split_no_setting():
    """A resume may change them; the runs are still seeds of one setting."""
    runs = [run(seed, [1.0]) for seed in range(4)]
    runs[1].config["rewards"] = {"workers": 8}
    runs[2].config["alarms"] = {"rules": {"kl_drift": {"action": "stop"}}}
    runs[3].config["rollout"] = {"probe_tolerance": 0.1}
    assert len(group_settings(runs)) == 1


def test_pairs_are_compared_up_to_the_last_step_that_both_have():
    """The base died after three steps: at 0.7 against 0.8, not against what came 97 steps later."""
    short = run(0, [1.0, 0.9, 0.7], beta1=0.5)
    long = run(0, [1.0, 0.9, 0.8] + [0.1] * 97, beta1=1.0)
    base, other = group_settings([short, long])
    assert paired(other, base, "entropy/mean", "last").value == pytest.approx(0.1)
    assert paired(base, other, "entropy/mean", "last").value == pytest.approx(-0.1)
    assert paired(other, base, "entropy/mean", "average").value == pytest.approx(0.1 / 3)
