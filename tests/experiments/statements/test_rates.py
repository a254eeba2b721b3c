"""How often the statements err, over many synthetic sets: effects that are there, and effects that are not.

The rates are those that docs/statements.md gives. Runs are made in memory: no training, no files but
the updates of T2 and T4.
"""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from isentropic.experiments.statements.branches import LIMIT, branch_statements, sign_verdict
from isentropic.experiments.statements.numbers import SEEDS
from isentropic.experiments.statements.runs import judge_runs
from isentropic.metrics.report.run_data import RunData
from isentropic.metrics.report.settings import mean_of

SETS = 200
NOWHERE = Path("nowhere")
STEPS = 20
CE_GPPO = {"name": "ce_gppo", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
CLIP = {"name": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
SWITCH = {"kind": "switch", "step": 10, "before": 0.0, "after": 0.5}
OBJECTIVES = {
    "GRPO": CLIP,
    "DAPO": CLIP | {"clip_high": 0.28},
    "(0.75, 1)": CE_GPPO | {"beta1": 0.75, "beta2": 1.0},
    "(0.5, 1)": CE_GPPO | {"beta1": 0.5, "beta2": 1.0},
    "(0, 1)": CE_GPPO | {"beta1": 0.0, "beta2": 1.0},
    "switched": CE_GPPO | {"beta1": SWITCH, "beta2": 1.0},
    "CISPO": {"name": "cispo", "clip_low": 0.2, "clip_high": 0.2},
    "GSPO": {"name": "gspo"},
}


def run(label, seed, entropies, *, terms=None, folder=NOWHERE, **metrics):
    """A run whose entropy by step is given; `metrics` are numbers, or lists of one per step."""
    rows = [{"step": step, "clip/frac": 0.01} for step in range(1, len(entropies) + 1)]
    for key, values in {"entropy/mean": entropies, **metrics}.items():
        each = values if isinstance(values, list | np.ndarray) else [values] * len(rows)
        for row, value in zip(rows, each, strict=True):
            row[key] = float(value)
    config = {"seed": seed, "objective": OBJECTIVES[label], "terms": terms or {"name": "none"}}
    return RunData(folder=folder, config=config, environment={}, lines=rows, alarms=[])


def rates(name, sets):
    """Share of the sets that each verdict on a statement came out in."""
    found = Counter()
    for runs in sets:
        (statement,) = [each for each in judge_runs(runs) if each.id.split()[0] == name]
        found[statement.verdict] += 1
    return {verdict: count / sum(found.values()) for verdict, count in found.items()}


def assert_rates(found, **expected):
    """Rates within four standard errors of what is stated, of as many sets as were made."""
    for verdict, rate in expected.items():
        error = 4 * math.sqrt(max(rate * (1 - rate), 0.005) / SETS)
        assert abs(found.get(verdict.replace("_", " "), 0.0) - rate) < error, (verdict, found)


def seeded(rng, levels, noise, shape=None):
    """Three seeds of each label: a level with noise of its own, over what a seed has in common."""
    shape = np.ones(STEPS) if shape is None else shape
    runs = []
    for seed in range(SEEDS):
        common = rng.normal()  # cancels in pairs
        for label, level in levels.items():
            height = common + level * shape + noise * rng.normal()
            runs.append(run(label, seed, height + np.zeros(STEPS)))
    return runs


@pytest.mark.parametrize(("count", "rate"), [(3, 0.048), (5, 0.020), (40, 0.0023)])
def test_a_null_is_called_held_at_the_rate_of_students_t(count, rate):
    """3 s.e. of a difference that is not there: per sign, by the number of pairs."""
    assert stats.t.sf(LIMIT, count - 1) == pytest.approx(rate, abs=5e-4)
    draws = np.random.default_rng(count).normal(size=(20_000, count))
    distance = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(count))
    assert (distance > LIMIT).mean() == pytest.approx(rate, abs=0.004)
    # And the verdict is that number, with our own mean and error.
    own = [sign_verdict(mean_of(row.tolist())) == "held" for row in draws[:2000]]
    assert own == (distance[:2000] > LIMIT).tolist()


@pytest.mark.parametrize(("size", "found"), [(1, 0.31), (2, 0.70), (4, 0.99)])
def test_an_effect_is_found_by_three_seeds_at_the_rate_of_its_size(size, found):
    """Size: in standard deviations of the paired difference between seeds."""
    expected = stats.nct.sf(LIMIT, SEEDS - 1, size * math.sqrt(SEEDS))
    assert expected == pytest.approx(found, abs=0.005)
    draws = np.random.default_rng(size).normal(size=(2000, SEEDS)) + size
    held = [sign_verdict(mean_of(row.tolist())) == "held" for row in draws]
    assert np.mean(held) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0.0, {"held": 0.048, "not_held": 0.048}), (8.0, {"held": 1.0}), (-8.0, {"not_held": 1.0})],
)
def test_t9(size, expected):
    rng, noise = np.random.default_rng(9), math.sqrt(0.5)  # of a difference: 1
    sets = (seeded(rng, {"(0.5, 1)": size, "CISPO": 0.0}, noise) for _ in range(SETS))
    assert_rates(rates("T9", sets), **expected)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        # Held: three differences at once. Not held: one of them, by chance the other way.
        ((0.0, 0.0, 0.0), {"held": 0.0, "not_held": 0.13}),
        ((0.0, 10.0, 20.0), {"held": 1.0}),
        ((10.0, 0.0, 20.0), {"not_held": 1.0}),
    ],
    ids=["no effect", "the paper's order", "GRPO above (0.75, 1)"],
)
def test_t5(levels, expected):
    rng, labels = np.random.default_rng(5), ("GRPO", "(0.75, 1)", "DAPO")
    sets = (seeded(rng, dict(zip(labels, levels, strict=True)), 0.7) for _ in range(SETS))
    assert_rates(rates("T5", sets), **expected)


@pytest.mark.parametrize(
    ("bend", "expected"),
    [(0.0, {"held": 0.048, "not_held": 0.048}), (0.01, {"held": 1.0}), (-0.01, {"not_held": 1.0})],
)
def test_t7(bend, expected):
    """Slopes behind the switch differ by `bend` nats per step, and by noise between seeds."""
    rng, after = np.random.default_rng(7), np.maximum(0, np.arange(1, STEPS + 1) - 10)

    def one():
        twin = [run("(0, 1)", n, 1 + 0.001 * rng.normal() * after) for n in range(SEEDS)]
        noise = [0.0005 * rng.normal() for _ in range(SEEDS)]
        return twin + [run("switched", n, 1 - (bend + noise[n]) * after) for n in range(SEEDS)]

    assert_rates(rates("T7", (one() for _ in range(SETS))), **expected)


@pytest.mark.parametrize(
    ("worst", "expected"),
    [(1.0, {"held": 1.0}), (1.9, {"held": 1.0}), (2.1, {"not_held": 1.0})],
)
def test_t6(worst, expected):
    """The worst step of any seed: no error to judge by, so it comes out as it is."""
    flat = np.ones(STEPS)
    quiet = {"grad_norm/max": 0.5, "update/skipped": 0.0}
    spike = np.where(np.arange(STEPS) == 7, worst, 0.1)
    base = [
        run("GRPO", n, flat, **quiet, **{"kl/k1": np.where(np.arange(STEPS) == 3, 1.0, 0.1)})
        for n in range(3)
    ]
    runs = [run("(0.5, 1)", n, flat, **quiet, **{"kl/k1": -spike}) for n in range(3)]
    assert_rates(rates("T6", [[*base, *runs]] * 2), **expected)


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (0.2, 3.0, {"held": 1.0}),
        (0.9, 1.1, {"undecided": 1.0}),
        (3.0, 0.2, {"not_held": 1.0}),
        # No effect of the coefficient: which mean is larger is chance; no mean is ever that far out.
        (1.0, 1.0, {"not_held": 0.5, "held": 0.0}),
    ],
)
def test_t8(small, large, expected):
    rng = np.random.default_rng(8)

    def bonus(coefficient, end, seed):
        terms = {"name": "entropy_bonus", "entropy_bonus": {"coef": coefficient, "adaptive": None}}
        return run("GRPO", seed, [1.0, end * math.exp(0.05 * rng.normal())], terms=terms)

    sets = [
        [bonus(c, end, n) for c, end in ((0.001, small), (0.1, large)) for n in range(SEEDS)]
        for _ in range(SETS)
    ]
    assert_rates(rates("T8", sets), **expected)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, {"not_held": 1.0}), (4.0, {"not_held": 1.0}), (7.0, {"held": 1.0})],
)
def test_t10(factor, expected):
    """Between seeds `clip/frac` scatters by a tenth; the rule's 5 is far from 4 and 7."""
    rng, flat = np.random.default_rng(10), np.ones(STEPS)

    def share(level):
        return {"clip/frac": level * np.exp(0.1 * rng.normal(size=STEPS))}

    sets = [
        [run("GRPO", n, flat, **share(0.01)) for n in range(SEEDS)]
        + [run("GSPO", n, flat, **share(0.01 * factor)) for n in range(SEEDS)]
        for _ in range(SETS)
    ]
    assert_rates(rates("T10", sets), **expected)


SIGNS = {"pa_hp": -1, "pa_lp": 1, "na_hp": 1, "na_lp": -1}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict.fromkeys(SIGNS, 2.0), {"held": 1.0}),
        (dict.fromkeys(SIGNS, 0.0), {"held": 0.0, "not_held": 0.016}),
        (dict.fromkeys(SIGNS, 2.0) | {"na_hp": 0.0}, {"held": 0.003, "undecided": 0.993}),
        (dict.fromkeys(SIGNS, 2.0) | {"na_hp": -2.0}, {"not_held": 1.0}),
    ],
    ids=["the paper's signs", "no effect", "none of one class", "one class turned round"],
)
def test_t11(sizes, expected):
    """Noise that lasts for five steps, as momentum makes it; effects in its standard deviations."""
    rng, steps = np.random.default_rng(11), 30

    def noise():
        return np.repeat(rng.normal(size=steps // 5), 5)

    sets = [
        [
            run(
                "(0.5, 1)",
                n,
                np.ones(steps),
                **{f"ledger/{k}": s * sizes[k] + noise() for k, s in SIGNS.items()},
            )
            for n in range(SEEDS)
        ]
        for _ in range(SETS)
    ]
    assert_rates(rates("T11", sets), **expected)


@pytest.mark.parametrize(
    ("gap", "expected"), [(0.02, {"held": 1.0}), (0.045, {"not_held": 1.0}), (0.0, {"held": 1.0})]
)
def test_t12(gap, expected):
    rng = np.random.default_rng(12)

    def one(seed):
        gaps = gap * (-1.0) ** np.arange(40) + 0.005 * rng.normal(size=40)
        made = run("(0.5, 1)", seed, np.ones(40), **{"steer/gap": gaps, "steer/saturated": 0.0})
        return replace(made, config=made.config | {"steering": {"name": "steered", "from_step": 1}})

    sets = [[one(n) for n in range(SEEDS)] for _ in range(SETS)]
    assert_rates(rates("T12", sets), **expected)


def updates(folder, low, high, share, rng, count=60):
    """updates.jsonl: drifts of the two sides, and the share of unlikely tokens among the clipped."""
    fixed = {"clip/frac": 0.02, "clip/low_frac": 0.01, "clip/high_frac": 0.01, "step": 1}
    fixed |= {"frac/pa_lp": 0.1, "frac/na_lp": 0.1, "frac/pa_hp": 0.4, "frac/na_hp": 0.4}
    noise = rng.normal(size=(4, count))
    rows = [
        fixed
        | {"drift/low": low + noise[0, n], "drift/high": high + noise[1, n]}
        | {"lp_given_low": share + 0.1 * noise[2, n], "lp_given_high": share + 0.1 * noise[3, n]}
        for n in range(count)
    ]
    folder.mkdir()
    (folder / "updates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run("(0.5, 1)", 0, np.ones(STEPS), folder=folder)


@pytest.mark.parametrize(
    ("low", "high", "share", "t2", "t4"),
    [
        (-1.0, 1.0, 0.7, {"held": 1.0}, {"held": 1.0}),
        # A half each: no share of the clipped is larger, but by their rate unlikely ones are clipped more.
        (0.0, 0.0, 0.5, {"held": 0.0, "not_held": 0.004}, {"held": 0.0, "not_held": 0.004}),
        (-1.0, 0.0, 0.3, {"held": 0.002, "undecided": 0.996}, {"not_held": 1.0}),
        (1.0, 1.0, 0.7, {"not_held": 1.0}, {"held": 1.0}),
    ],
    ids=["effects", "nulls", "one side, likely tokens", "left side turned round"],
)
def test_t2_and_t4(tmp_path, low, high, share, t2, t4):
    rng = np.random.default_rng(2)
    sets = [[updates(tmp_path / str(n), low, high, share, rng)] for n in range(SETS)]
    assert_rates(rates("T2", sets), **t2)
    assert_rates(rates("T4", sets), **t4)


@pytest.mark.parametrize(
    ("runs", "points", "between", "step", "expected"),
    [
        pytest.param(1, 40, 0.0, 0.5, {"held": 0.96}, id="planted order"),
        pytest.param(1, 40, 0.0, 0.0, {"held": 0.0025, "not_held": 0.04}, id="no order"),
        pytest.param(1, 40, 0.0, -1.5, {"not_held": 1.0}, id="order turned round"),
        pytest.param(3, 43, 0.0, 0.5, {"held": 1.0}, id="planted order, three runs"),
        pytest.param(3, 43, 0.0, 0.0, {"held": 0.0, "not_held": 0.005}, id="no order, three runs"),
        # A run's own offset is the same at all its points, and is noise to the settings.
        pytest.param(3, 43, 0.5, 0.0, {"held": 0.008, "not_held": 0.16}, id="three runs differ"),
        pytest.param(8, 20, 0.5, 0.0, {"held": 0.0, "not_held": 0.045}, id="eight runs differ"),
        pytest.param(8, 20, 0.5, 0.5, {"held": 0.88}, id="an order in eight that differ"),
    ],
)
def test_t3(tmp_path, runs, points, between, step, expected):
    """Four betas; steps of entropy and what a run has of its own in standard deviations of a point."""
    rng, betas = np.random.default_rng(3), (0.0, 0.25, 0.5, 1.0)
    found = Counter()
    told = {str(beta): {"objective": CE_GPPO | {"beta1": beta, "beta2": 1.0}} for beta in betas}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    levels = -step * np.arange(len(betas))
    for _ in range(SETS):
        of_runs = between * rng.normal(size=(runs, 1, len(betas)))
        entropies = levels + of_runs + rng.normal(size=(runs, points, len(betas)))
        rows = [
            f'{{"run": "{run}", "step": {point}, "setting": "{beta}", "entropy": {entropy}, '
            '"clip_frac": 0.01}\n'
            for (run, point, n), entropy in np.ndenumerate(entropies)
            for beta in [betas[n]]
        ]
        (tmp_path / "branches.jsonl").write_text("".join(rows))
        (statement,) = [each for each in branch_statements(tmp_path) if each.id == "T3 beta1"]
        found[statement.verdict] += 1
    assert_rates({key: count / SETS for key, count in found.items()}, **expected)
