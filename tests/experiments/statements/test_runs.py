"""Which runs a statement takes for which: a method is what all its slots say, not its objective alone."""

from pathlib import Path

import pytest

from isentropic.experiments.statements.runs import judge_runs
from isentropic.metrics.report.run_data import RunData

CLIP = {"name": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
CE_GPPO = {"name": "ce_gppo", "ratio": "token", "beta1": 0.75, "beta2": 1.0}
GRPO, DAPO = {"objective": CLIP}, {"objective": CLIP | {"clip_high": 0.28}}
SLOTS = {
    "advantage": "normalised",
    "reuse": "none",
    "reweight": "none",
    "sampling": "one_wave",
    "shaping": "none",
    "steering": "none",
    "reduction": "token_mean",
    "filter": "drop_flat",
    "token_weight": "none",
}


def run(seed, height, config, **slots):
    names = {key: {"name": name} for key, name in (SLOTS | slots).items()}
    lines = [
        {"step": step, "entropy/mean": height + 0.01 * seed, "clip/frac": 0.01, "kl/k1": 0.001}
        | {"grad_norm/max": 1.0, "update/skipped": 0.0}
        for step in range(1, 11)
    ]
    config = config | names | {"seed": seed, "terms": {"name": "none"}}
    return RunData(folder=Path("nowhere"), config=config, environment={}, lines=lines, alarms=[])


def t5(runs):
    """Verdict and number of T5; differences are the same for all seeds but for one part in 1000."""
    (found,) = [each for each in judge_runs(runs) if each.id == "T5"]
    return found


def paper(seed):
    noise = 1 + 0.001 * seed  # an error to judge by
    return [
        run(seed, 0.2, GRPO),
        run(seed, 0.2 + 0.1 * noise, {"objective": CE_GPPO}),
        run(seed, 0.2 + 0.2 * noise**2, DAPO),
    ]


PAPER = [each for seed in range(3) for each in paper(seed)]


def test_the_plain_methods_are_judged():
    assert t5(PAPER).verdict == "held"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("reweight", "polarity"),
        ("advantage", "leave_one_out"),
        ("shaping", "overlong"),
        ("sampling", "refilled"),
        ("reuse", "queue_replay"),
        ("steering", "steered"),
        ("reduction", "sequence_mean"),
    ],
)
@pytest.mark.parametrize("config", [GRPO, DAPO, {"objective": CE_GPPO}], ids=["GRPO", "DAPO", "CE"])
def test_what_has_more_than_its_objective_is_another_method(config, key, name):
    others = [run(seed, 5.0, config, **{key: name}) for seed in range(3)]
    assert t5([*PAPER, *others]) == t5([*others, *PAPER]) == t5(PAPER)


@pytest.mark.parametrize(
    "other", [{"clip_high": 0.28}, {"ratio": "sequence"}, {"dual_clip": 3.0}, {"clip_low": 0.1}]
)
def test_ce_gppo_of_other_bounds_is_another_method(other):
    others = [run(seed, 5.0, {"objective": CE_GPPO | other}) for seed in range(3)]
    assert t5([*PAPER, *others]) == t5(PAPER)


@pytest.mark.parametrize(("key", "name"), [("filter", "keep_all"), ("token_weight", "tis")])
def test_a_filter_or_token_weight_must_be_the_same_in_both(key, name):
    """With all of them alike it is the same claim; a pair of two kinds is none."""
    alike = [run(e.setting("seed"), e.lines[0]["entropy/mean"] - 0.01 * e.setting("seed"),
                 {"objective": e.config["objective"]}, **{key: name}) for e in PAPER]  # fmt: skip
    assert t5(alike).verdict == "held"
    mixed = [
        a if a.setting("objective.name") == "clip" else b for a, b in zip(alike, PAPER, strict=True)
    ]
    assert t5(mixed).verdict == "undecided"


def test_several_runs_of_one_seed_decide_nothing():
    """A grid of learning rates, say: which of them would be compared is not known."""
    found = t5([*PAPER, run(0, 5.0, GRPO)])
    assert found.verdict == "undecided"
    assert found.number.endswith("2 seeds, 3 are asked for")
