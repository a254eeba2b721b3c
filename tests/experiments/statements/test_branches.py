"""Verdicts on numbers that a reader can check: held, not held, undecided, and never more than the numbers say."""

import json

import pytest
import yaml

from isentropic.experiments.statements.branches import (
    branch_statements,
    order_verdict,
    write_statements,
)
from isentropic.experiments.statements.runs import run_statements
from isentropic.metrics.report.settings import Mean, mean_of


def mean(value, error=1.0):
    return Mean(value=value, error=error, count=40)


@pytest.mark.parametrize(
    ("ends", "steps", "verdict"),
    [
        pytest.param(3.1, [1.0, 2.1], "held", id="in order, ends beyond three errors"),
        pytest.param(2.9, [1.0, 1.9], "undecided", id="in order, ends inside three errors"),
        pytest.param(3.1, [4.0, -0.9], "undecided", id="a step the other way, inside its error"),
        pytest.param(3.1, [6.5, -3.4], "not held", id="a step the other way, beyond three errors"),
        pytest.param(-3.1, [-3.1], "not held", id="the other way round"),
    ],
)
def test_order(ends, steps, verdict):
    assert order_verdict(mean(ends), [mean(step) for step in steps]) == verdict


def test_one_difference_decides_nothing():
    assert order_verdict(mean_of([5.0]), []) == "undecided"


def objective(beta1, beta2):
    return {
        "name": "ce_gppo",
        "ratio": "token",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "beta1": beta1,
        "beta2": beta2,
    }


CLIP = {"name": "clip", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
SETTINGS = {
    "GRPO": (CLIP, 1.0),
    "DAPO": (CLIP | {"clip_high": 0.28}, 1.01),
    "01": (objective(0.0, 1.0), 1.02),
    "11": (objective(1.0, 1.0), 0.99),
    "half": (objective(1.0, 0.5), 0.97),
    "10": (objective(1.0, 0.0), 0.98),
}


def branch_folder(folder, points, clip_frac=0.01):
    """Entropies that differ by setting as SETTINGS says, by point all alike, with a small wobble."""
    told = {label: {"overrides": [], "objective": own} for label, (own, _) in SETTINGS.items()}
    (folder / "settings.json").write_text(json.dumps(told))
    rows = [
        {
            "step": p,
            "setting": label,
            "entropy": value + 0.1 * p + 0.001 * (p % 2) * k,
            "clip_frac": clip_frac,
        }
        for p in range(points)
        for k, (label, (_, value)) in enumerate(SETTINGS.items())
    ]
    (folder / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {each.id: each for each in branch_statements(folder)}


def test_t3(tmp_path):
    found = branch_folder(tmp_path, 40)
    assert {name: each.verdict for name, each in found.items()} == {
        "T3 beta1": "held",
        "T3 beta2": "not held",  # (1, 0) stands above (1, 0.5), beyond its error
        "T3 DAPO": "held",
        "T3 (0,1)": "held",
    }
    assert "01 minus 11: +0.0295" in found["T3 beta1"].number
    assert "order 11 > 10 > half" in found["T3 beta2"].number


@pytest.mark.parametrize(
    ("points", "clip_frac", "why"),
    [
        pytest.param(39, 0.01, "40 points are asked for", id="too few points"),
        pytest.param(40, 0.0, "nothing was clipped", id="T0: no token left the interval"),
    ],
)
def test_t3_is_not_forced(tmp_path, points, clip_frac, why):
    found = branch_folder(tmp_path, points, clip_frac)
    assert {each.verdict for each in found.values()} == {"undecided"}
    assert all(why in each.number for each in found.values())


def run_folder(folder, own, seed, entropies, *, terms=None, **metrics):
    """A finished run: its config, its entropy by step, and numbers that are equal in every step and update."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "run": {"name": folder.name, "steps": len(entropies)}, "objective": own}
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config | {"terms": terms or {"name": "none", "kl": None}})
    )
    line = {"clip/frac": 0.01, "kl/k1": 1e-3, "grad_norm/max": 0.5, "update/skipped": 0} | metrics
    rows = [{"step": n, "entropy/mean": value} | line for n, value in enumerate(entropies, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def verdicts(folders):
    return {each.id: each.verdict for each in run_statements(folders)}


def fall(rate, seed):
    return [1.0 - rate * step + 0.001 * seed * rate for step in range(10)]


CISPO = {"name": "cispo", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}


def baselines(root, seeds, rates):
    own = {
        "GRPO": CLIP,
        "DAPO": SETTINGS["DAPO"][0],
        "ce75": objective(0.75, 1.0),
        "ce5": objective(0.5, 1.0),
    }
    own |= {
        "cispo": CISPO,
        "gspo": CLIP | {"name": "gspo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    }
    clip = {"gspo": {"clip/frac": 0.2}}
    return [
        run_folder(
            root / f"{label}-{seed}", own[label], seed, fall(rate, seed), **clip.get(label, {})
        )
        for label, rate in rates.items()
        for seed in range(seeds)
    ]


RATES = {"GRPO": 0.08, "DAPO": 0.02, "ce75": 0.05, "ce5": 0.04, "cispo": 0.09, "gspo": 0.05}


def test_baselines(tmp_path):
    found = verdicts(baselines(tmp_path, 3, RATES))
    assert found == {
        "T5": "held",
        "T6 (0.5, 1)": "held",
        "T6 (0.75, 1)": "held",
        "T9": "held",
        "T10": "held",
    }


def test_baselines_the_other_way(tmp_path):
    found = verdicts(baselines(tmp_path, 3, RATES | {"GRPO": 0.01, "cispo": 0.01}))
    assert (found["T5"], found["T9"]) == ("not held", "not held")


def test_two_seeds_decide_nothing(tmp_path):
    found = verdicts(baselines(tmp_path, 2, RATES))
    assert (found["T5"], found["T9"]) == ("undecided", "undecided")


def pairs(root, own, *, seeds=3, base=None, **metrics):
    """GRPO beside another objective, a pair of runs per seed; metrics are the other's."""
    return [
        run_folder(root / f"{name}-{seed}", values, seed, fall(0.01, seed), **numbers)
        for seed in range(seeds)
        for name, values, numbers in (("base", CLIP, base or {}), ("own", own, metrics))
    ]


def test_stability_looks_at_the_worst_step(tmp_path):
    wild = {"kl/k1": -2.1e-3}  # 2.1 times GRPO's, whatever its sign
    assert verdicts(pairs(tmp_path, objective(0.5, 1.0), **wild)) == {"T6 (0.5, 1)": "not held"}


def test_nothing_clipped_is_nothing_judged(tmp_path):
    nothing = {"clip/frac": 0.0}
    folders = pairs(tmp_path, objective(0.5, 1.0), base=nothing, **nothing)
    assert verdicts(folders) == {"T6 (0.5, 1)": "undecided"}


GSPO = CLIP | {"name": "gspo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}


@pytest.mark.parametrize(
    ("own", "name", "metrics"),
    [(objective(0.5, 1.0), "T6 (0.5, 1)", {}), (GSPO, "T10", {"clip/frac": 0.2})],
)
def test_thresholds_ask_for_three_seeds_too(tmp_path, own, name, metrics):
    assert verdicts(pairs(tmp_path / "three", own, **metrics)) == {name: "held"}
    assert verdicts(pairs(tmp_path / "two", own, seeds=2, **metrics)) == {name: "undecided"}
    base, other = pairs(tmp_path / "apart", own, seeds=2, **metrics)[::3]
    assert verdicts([base, other]) == {}, "a run of one seed is not compared with one of another"


def test_runs_that_ended_early_leave_everything_undecided(tmp_path):
    """All follow one curve: over 10 and over 5 of its steps, its mean differs."""
    folders = baselines(tmp_path, 3, dict.fromkeys(("ce5", "cispo"), 0.05))
    assert verdicts(folders) == {"T9": "undecided"}
    cut = [folder for folder in folders if "ce5" in folder.name]
    for folder in cut:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(lines[:5]))
    assert verdicts(folders) == {}, "nothing that is left is compared with them"
    grown = baselines(tmp_path / "more", 3, RATES)
    found = {each.id: each for each in run_statements([*grown, *cut])}
    assert {each.verdict for each in found.values()} == {"undecided"}
    assert all("3 of the runs ended before their last step" in x.number for x in found.values())


def test_switch(tmp_path):
    switch = {"kind": "switch", "step": 5, "before": 0.0, "after": 0.5}
    folders = []
    for seed in range(3):
        folders.append(
            run_folder(tmp_path / f"twin{seed}", objective(0.0, 1.0), seed, fall(0.0, seed))
        )
        bend = [1.0 - (0.05 + 0.001 * seed) * max(0, step - 5) for step in range(1, 11)]
        folders.append(run_folder(tmp_path / f"switched{seed}", objective(switch, 1.0), seed, bend))
    assert verdicts(folders) == {"T7": "held"}
    for change in ({"clip_high": 0.28}, {"ratio": "sequence"}, {"dual_clip": 3.0}, {"beta2": 0.0}):
        others = [
            run_folder(
                tmp_path / f"{change}{seed}", objective(switch, 1.0) | change, seed, fall(0.1, seed)
            )
            for seed in range(3)
        ]
        assert verdicts([*folders, *others]) == {"T7": "held"}, "another method is not looked at"
        assert verdicts([*folders[::2], *others]) == {}


def test_entropy_bonus(tmp_path):
    def bonus(coef):
        return {"name": "entropy_bonus", "entropy_bonus": {"coef": coef, "adaptive": None}}

    def seeds(name, end, coef):
        return [
            run_folder(tmp_path / f"{name}{seed}", CLIP, seed, [1.0, end], terms=bonus(coef))
            for seed in range(3)
        ]

    small, large = seeds("small", 0.2, 0.001), seeds("large", 3.0, 0.1)
    assert verdicts([*small, *large]) == {"T8": "held"}
    spread = [
        run_folder(tmp_path / f"spread{seed}", CLIP, seed, [1.0, 2.0 + seed], terms=bonus(0.1))
        for seed in range(3)  # their mean is 3, its standard error that of 2, 3, 4
    ]
    (statement,) = (one for one in run_statements([*small, *spread]) if one.id == "T8")
    assert statement.number.endswith("coefficient: 0.001: 0.20 ± 0.00, 0.1: 3.00 ± 0.58")
    assert verdicts([*small, *large[:2]]) == {"T8": "undecided"}
    again = run_folder(tmp_path / "again", CLIP, 0, [1.0, 3.0], terms=bonus(0.1))
    assert verdicts([*small, *large[:2], again]) == {"T8": "undecided"}, "three runs of two seeds"
    assert verdicts([*small, *seeds("calm", 1.1, 0.1)]) == {"T8": "undecided"}
    assert verdicts([*small, *seeds("reversed", 0.1, 0.1)]) == {"T8": "not held"}


def test_sides_of_the_clip(tmp_path):
    run = run_folder(tmp_path / "run", objective(0.5, 1.0), 0, fall(0.01, 0))
    row = {
        "clip/frac": 0.02,
        "clip/low_frac": 0.01,
        "clip/high_frac": 0.01,
        "lp_given_low": 0.8,
        "lp_given_high": 0.6,
    }
    row |= {"frac/pa_lp": 0.1, "frac/na_lp": 0.1, "frac/pa_hp": 0.4, "frac/na_hp": 0.4}

    def found_with(spread, count=60, **more):
        rows = [
            row | more | {"step": 1, "drift/low": -0.01 - 1e-4 * sign, "drift/high": 0.02 + 1e-4 * sign}
            | {"lp_given_low": 0.8 + spread * sign, "lp_given_high": 0.6 - spread * sign}
            for sign in [0.5, -0.5] * (count // 2)
        ]  # fmt: skip
        (run / "updates.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        return {each.id: each for each in run_statements([run])}

    found = found_with(0.02)

    assert {name: each.verdict for name, each in found.items()} == {"T2": "held", "T4": "held"}
    assert "left -0.02 " in found["T2"].number  # -0.01 over beta1 = 0.5
    assert (
        "clip rate 7.00% of p < 0.5, 0.75% of p >= 0.5" in found["T4"].number
    )  # 0.014 of 0.2, 0.006 of 0.8
    assert "left 80% ± 0.1%, right 60% ± 0.1%" in found["T4"].number  # 0.01 / sqrt(59)
    assert found_with(1.2)["T4"].verdict == "undecided"  # 0.6 ± 0.08
    assert found_with(0.02, count=48)["T4"].verdict == "undecided"  # 50 updates are asked for
    assert found_with(0.02, skipped=True) == {}, "an update that was not made moved nothing"


@pytest.mark.parametrize(
    "terms",
    [
        {"name": "entropy_bonus", "entropy_bonus": {"coef": None, "adaptive": {"start": 0.0}}},
        {"name": "kl", "kl": {"coef": 0.01}},
        {"name": "nll", "nll": {"coef": 0.1}},
    ],
    ids=lambda terms: terms["name"],
)
def test_a_terms_effect_is_none_of_a_clipped_token(tmp_path, terms):
    """Its own effect is in drift/low and drift/high, and no beta scales it."""
    run = run_folder(tmp_path / "run", objective(0.5, 1.0), 0, fall(0.01, 0), terms=terms)
    row = {"step": 1, "clip/frac": 0.02, "clip/low_frac": 0.01, "clip/high_frac": 0.01}
    row |= {"lp_given_low": 0.8, "lp_given_high": 0.6}
    row |= {"frac/pa_lp": 0.1, "frac/na_lp": 0.1, "frac/pa_hp": 0.4, "frac/na_hp": 0.4}
    row |= {"drift/low": 0.3, "drift/high": 0.3}
    (run / "updates.jsonl").write_text((json.dumps(row) + "\n") * 60)
    assert "T2" not in {each.id for each in run_statements([run])}


def test_a_dapo_is_compared_with_a_grpo_of_the_same_terms(tmp_path):
    """With an entropy bonus, GRPO stands far above; the plain one is the one that is meant."""
    values = {"bonus": (CLIP | {"terms": "bonus"}, 5.0), "GRPO": (CLIP | {"terms": "none"}, 1.0)}
    values["DAPO"] = (CLIP | {"clip_high": 0.28, "terms": "none"}, 1.01)
    told = {label: {"overrides": [], "objective": own} for label, (own, _) in values.items()}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    rows = [
        {"step": p, "setting": label, "entropy": value + 0.001 * (p % 7) * k, "clip_frac": 0.01}
        for p in range(40)
        for k, (label, (_, value)) in enumerate(values.items())
    ]
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = branch_statements(tmp_path)
    assert (found.id, found.verdict) == ("T3 DAPO", "held")
    assert found.number.startswith("DAPO minus GRPO: +0.01")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"GRPO": 1}', '{"GRPO": {"objective": 3}}', None], ids=repr
)
def test_settings_that_cannot_be_read(tmp_path, text):
    branch_folder(tmp_path, 2)
    (tmp_path / "settings.json").unlink()
    if text is None:
        (tmp_path / "settings.json").mkdir()
    else:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json does not say"):
        branch_statements(tmp_path)


def test_written_for_the_report(tmp_path):
    from isentropic.metrics.report.statements import statements_table

    rows = write_statements(tmp_path, list(branch_folder(tmp_path, 40).values()))
    assert {row["id"] for row in rows} == {"T3 beta1", "T3 beta2", "T3 DAPO", "T3 (0,1)"}
    shown = statements_table(tmp_path).rows
    assert "not held" in [cell.text for row in shown for cell in row]


def test_a_setting_in_the_middle_asks_for_its_points_too(tmp_path):
    branch_folder(tmp_path, 43)
    rows = [json.loads(line) for line in (tmp_path / "branches.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["setting"] != "half" or row["step"] < 2]
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {each.id: each for each in branch_statements(tmp_path)}
    assert found["T3 beta1"].verdict == "held"
    assert found["T3 beta2"].verdict == "undecided"
    assert "2 points" in found["T3 beta2"].number


def test_neighbouring_points_that_drift_together_are_one_point(tmp_path):
    """Eight blocks of five points, +1.5 and -0.5 nats in turn: as single points the mean is sure."""
    told = {name: {"objective": objective(beta1, 1.0)} for name, beta1 in (("a", 0.0), ("b", 1.0))}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    rows = [
        {"step": step, "setting": name, "entropy": height, "clip_frac": 0.01, "run": "one"}
        for step in range(40)
        for name, height in (("a", 1.5 if step // 5 % 2 else -0.5), ("b", 0.0))
    ]
    (tmp_path / "branches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = [each for each in branch_statements(tmp_path) if each.id == "T3 beta1"]
    # Standard deviation of the blocks sqrt(8 / 7), error 1 / sqrt(7) = 0.38; of single points 0.16.
    assert "+0.5 ± 0.38 (+1.3 s.e.), 40 points" in found.number
    assert found.verdict == "undecided"
