"""T11 and T12 on planted books: held, not held and undecided come out as the numbers have it."""

import json

import numpy as np
import pytest
import yaml

from isentropic.experiments.statements.runs import run_statements

CE_GPPO = {"name": "ce_gppo", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
SIGNS = {"pa_hp": -1, "pa_lp": 1, "na_hp": 1, "na_lp": -1}


def run_folder(folder, seed, rows, steering=None, beta1=0.5, kl=None, bonus=None):
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "run": {"name": folder.name, "steps": len(rows)},
        "objective": CE_GPPO | {"beta1": beta1, "beta2": 1.0},
        "terms": {"name": "none", "kl": kl, "entropy_bonus": bonus},
        "steering": steering or {"name": "none"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": step, "clip/frac": 0.01} | row for step, row in enumerate(rows, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def judged(*folders):
    return {
        each.id.split()[0]: each
        for each in run_statements(folders)
        if each.id[:3] in ("T11", "T12")
    }


def classes(steps, *, noise=0.1, seed=0, **flipped):
    """Contributions of size 0.001 with the paper's signs, times what `flipped` says of a class."""
    draw = np.random.default_rng(seed)
    return [
        {
            f"ledger/{name}": 0.001 * sign * flipped.get(name, 1) + 0.001 * noise * draw.normal()
            for name, sign in SIGNS.items()
        }
        for _ in range(steps)
    ]


def test_signs_of_the_paper_are_held(tmp_path):
    found = judged(*(run_folder(tmp_path / f"{n}", n, classes(60, seed=n)) for n in range(3)))
    assert found["T11"].verdict == "held"
    assert "PA&HP -0.00" in found["T11"].number
    assert "180 measured steps of 3 runs" in found["T11"].number


@pytest.mark.parametrize("term", ["kl", "bonus"])
def test_signs_are_not_read_off_a_term_that_pushes_every_class(tmp_path, term):
    folder = run_folder(tmp_path / "run", 0, classes(60), **{term: {"coef": 0.01}})
    assert "T11" not in judged(folder)


@pytest.mark.parametrize("name", SIGNS)
def test_one_wrong_sign_is_not_held(tmp_path, name):
    folder = run_folder(tmp_path / "run", 0, classes(60, **{name: -1}))
    assert judged(folder)["T11"].verdict == "not held"


def test_no_effect_in_one_class_decides_nothing(tmp_path):
    folder = run_folder(tmp_path / "run", 0, classes(60, pa_lp=0))
    assert judged(folder)["T11"].verdict == "undecided"


def test_few_measured_steps_decide_nothing(tmp_path):
    assert judged(run_folder(tmp_path / "run", 0, classes(39)))["T11"].verdict == "undecided"


def test_a_drift_that_lasts_for_a_block_is_one_point(tmp_path):
    """Twelve blocks of +1 and -1 nats in turn: as single steps their error would be too small."""
    values = [1.0 if step // 5 % 2 else -1.0 for step in range(60)]
    rows = [dict.fromkeys((f"ledger/{name}" for name in SIGNS), value) for value in values]
    # Standard deviation of the blocks sqrt(12 / 11), error 1 / sqrt(11) = 0.30; of single steps 0.13.
    assert "PA&HP +0 ± 0.3 (" in judged(run_folder(tmp_path / "run", 0, rows))["T11"].number


def steered(root, gaps, *, reward=0.7, from_step=1, target=0.3):
    steering = {"name": "steered", "from_step": from_step, "target": target}
    return [
        run_folder(
            root / f"steered-{seed}",
            seed,
            [
                {"steer/gap": gap, "steer/saturated": 0.25, "eval/avg_at_k": reward + 0.01 * seed}
                for _ in range(20)
            ],
            steering,
        )
        for seed, gap in enumerate(gaps)
    ]


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([0.029, -0.029, 0.0], "held"),
        ([0.031, -0.031, 0.5], "not held"),
        ([0.031, 0.0, 0.0], "undecided"),
        ([0.0, 0.0], "undecided"),
    ],
)
def test_target(tmp_path, gaps, verdict):
    found = judged(*steered(tmp_path, gaps))["T12"]
    assert found.verdict == verdict
    assert "at its bounds in 25% of the steered steps" in found.number


def test_runs_of_one_seed_are_no_seeds(tmp_path):
    folders = steered(tmp_path, [0.0, 0.0, 0.0])
    for folder in folders:
        values = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(values | {"seed": 0}))
    found = judged(*folders)["T12"]
    assert (found.verdict, "1 seeds, 3 are asked for" in found.number) == ("undecided", True)


def test_what_steering_costs_is_paired_by_seed(tmp_path):
    base = [run_folder(tmp_path / f"b{n}", n, [{"eval/avg_at_k": 0.6 + 0.01 * n}]) for n in (1, 2)]
    found = judged(*steered(tmp_path, [0.0, 0.0, 0.0]), *base)
    assert "less the unsteered twin's: +0.1 ± 0" in found["T12"].number


def test_the_steps_before_it_settles_are_not_judged(tmp_path):
    (folder,) = steered(tmp_path, [0.5], from_step=15)
    assert judged(folder)["T12"].verdict == "undecided"
