"""docs/results/*.json agree with themselves, and with the runs that are kept."""

import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from isentropic.experiments.branch.arms import preset_settings
from isentropic.experiments.results import conclude as conclude_module
from isentropic.experiments.results.archive import (
    FOLDER,
    is_kept,
    kept_points,
    restore,
    restore_branches,
)
from isentropic.experiments.results.conclude import conclude
from isentropic.experiments.results.parts import PARTS
from isentropic.experiments.results.plan import planned_runs
from isentropic.experiments.sweep.ledger import SweepLedger
from isentropic.metrics.report.charts.static import FIGURES

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FOUND = {
    part.name: json.loads(path.read_text(encoding="utf-8"))
    for part in PARTS
    if (path := RESULTS / f"{part.name}.json").is_file()
}
ROUNDED = 2e-5  # of six digits; a difference of such has fewer


def near(value, scale=0.0):
    return pytest.approx(value, rel=ROUNDED, abs=ROUNDED * scale)


def check_mean(about):
    """Mean, standard error and count are those of the values."""
    values = np.array([value for value in about["values"] if value is not None])
    assert about["count"] == len(values)
    scale = np.abs(values).max(initial=0.0)
    if len(values):
        assert about["mean"] == near(values.mean(), scale)
    if len(values) > 1:
        assert about["error"] == near(values.std(ddof=1) / math.sqrt(len(values)), scale)


def test_what_parts_came_to_on_the_machine_before_agrees_with_itself():
    tables = json.loads((RESULTS / "earlier.json").read_text(encoding="utf-8"))["tables"]
    assert set(tables) <= {part.name for part in PARTS}
    for name, old in tables.items():
        assert old["base"] == FOUND[name]["base"]
        labels = [row["label"] for row in old["settings"]]
        assert labels == [row["label"] for row in FOUND[name]["settings"]]
        for row in old["settings"]:
            for about in [*row["against_base"].values(), *row["against_own"].values()]:
                check_mean(about)
        assert set(old["pooled"]) == set(FOUND[name]["pooled"])
        trend = old.get("trend") or {"slopes": {}, "books": {}}
        assert trend.get("labels") == FOUND[name].get("trend", {}).get("labels")
        for about in [*trend["slopes"].values(), *trend["books"].values()]:
            check_mean(about)


@pytest.mark.parametrize("name", [name for name in FOUND if FOUND[name]["statements"]])
def test_a_rule_says_when_it_does_not_hold_too(name):
    for row in FOUND[name]["statements"]:
        assert "not held" in row["rule"], row["id"]


@pytest.mark.parametrize("name", FOUND)
def test_means_and_errors_are_those_of_the_seeds(name):
    for row in FOUND[name]["settings"]:
        assert row["finished"] <= len(row["seeds"])
        for about in [*row["numbers"].values(), *row["books"].values()]:
            check_mean(about)
            assert about["count"] <= len(row["seeds"])


@pytest.mark.parametrize("name", FOUND)
def test_differences_are_those_of_two_rows_by_seed(name):
    part = FOUND[name]
    rows = {row["label"]: row for row in part["settings"]}
    for row in rows.values():
        bases = {"against_base": part["base"], "against_own": row.get("own_base", "")}
        for told, base in bases.items():
            assert bool(row.get(told)) == (base in rows and base != row["label"])
            for key, about in (row.get(told) or {}).items():
                check_mean(about)
                of_base = dict(
                    zip(rows[base]["seeds"], rows[base]["numbers"][key]["values"], strict=True)
                )
                pairs = [
                    (value, of_base[seed])
                    for seed, value in zip(row["seeds"], row["numbers"][key]["values"], strict=True)
                    if seed in of_base
                ]
                values = [one - other for one, other in pairs]
                assert about["values"] == near(np.array(values), np.abs(pairs).max())


@pytest.mark.parametrize("name", FOUND)
def test_a_pooled_error_is_that_of_the_whole_table(name):
    """By least squares, with a column for each setting and each seed."""
    part = FOUND[name]
    rows = [row for row in part["settings"] if row["seeds"] == part["seeds"]]
    settings, seeds = len(rows), len(part["seeds"])
    assert bool(part["pooled"]) == (settings > 2)
    design = np.array(
        [
            [*np.eye(settings)[row], *np.eye(seeds)[seed]]
            for row in range(settings)
            for seed in range(seeds)
        ]
    )
    for key, pooled in part["pooled"].items():
        values = np.array([row["numbers"][key]["values"] for row in rows], dtype=float).ravel()
        fit = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        freedom = (settings - 1) * (seeds - 1)
        assert (pooled["freedom"], pooled["seeds"]) == (freedom, seeds)
        variance = ((values - fit) ** 2).sum() / freedom
        assert pooled["error"] == pytest.approx(math.sqrt(2 * variance / seeds), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in FOUND if FOUND[name].get("trend")])
def test_a_trend_is_that_of_the_rows(name):
    part = FOUND[name]
    rows = {row["label"]: row for row in part["settings"]}
    trend = part["trend"]
    order = [rows[label] for label in trend["labels"]]
    places = len(order)
    assert places > 2
    assert {"pa_hp", "pa_lp", "na_hp", "na_lp"} <= set(trend["books"])
    for of, found in (("numbers", trend["slopes"]), ("books", trend["books"])):
        for key, about in found.items():
            check_mean(about)
            table = np.array([row[of][key]["values"] for row in order])
            slopes = np.polyfit(np.arange(places), table, 1)[0]
            assert about["values"] == pytest.approx(list(slopes), rel=1e-3, abs=ROUNDED)
    squares = places * (places**2 - 1) / 12  # of the places about the middle
    for key in trend["slopes"]:
        error = part["pooled"][key]["error"] / math.sqrt(2 * squares)
        assert trend["pooled"][key]["error"] == near(error)


@pytest.mark.parametrize("name", [name for name in FOUND if "commits" in FOUND[name]])
def test_a_part_comes_out_the_same_from_the_runs_that_are_kept(name, tmp_path, monkeypatch):
    """Every number and verdict; of the figures, their names."""
    (part,) = [part for part in PARTS if part.name == name]
    runs, ledger = planned_runs(part, tmp_path), SweepLedger(tmp_path)
    assert is_kept(name, runs, RESULTS), "of a part without its runs, JSON has no commits"
    restore(name, runs, ledger, RESULTS)
    branches = None
    if part.branching:
        assert kept_points(name, runs, preset_settings(part.branching.sweep), RESULTS)
        branches = restore_branches(name, RESULTS, tmp_path / "branches")
    monkeypatch.setattr(conclude_module, "write_static", names_of_figures)
    again = conclude(part, runs, ledger, tmp_path / "numbers", branches)
    assert_same(again, FOUND[name])
    assert all((RESULTS / figure).is_file() for figure in again["figures"])


@pytest.mark.parametrize("name", [name for name in FOUND if "commits" in FOUND[name]])
def test_a_part_was_made_on_one_machine(name):
    """The first step's draws are of the model that all began with: of one seed they are the same.

    A part may have one run of a seed: then only what each says of its machine is left.
    """
    firsts, machines = {}, set()
    for file in (RESULTS / FOLDER / name).glob("*-seed_*.json.xz"):
        kept = json.loads(lzma.decompress(file.read_bytes()))
        cfg = yaml.safe_load(kept["config"])
        of = [
            cfg["seed"],
            cfg["model"],
            *(cfg[key] for key in ("task", "rollout", "filter", "sampling")),
        ]
        entropy = next(value for value in kept["steps"]["entropy/mean"] if value is not None)
        firsts.setdefault(json.dumps(of, default=str), set()).add(entropy)
        of_start = ("started", "command", "isentropic", "git")
        about = {key: told for key, told in kept["environment"].items() if key not in of_start}
        machines.add(json.dumps(about))
    assert len(machines) == 1
    assert firsts and all(len(values) == 1 for values in firsts.values()), firsts


def names_of_figures(settings, folder):
    return [folder / f"{name}.png" for name, *_ in FIGURES]


def assert_same(one, other, place=""):
    """Equal; numbers as far as the kept ones have digits."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), place
        for key in other:
            assert_same(one[key], other[key], f"{place}/{key}")
    elif isinstance(other, list):
        assert len(one) == len(other), place
        for at, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}/{at}")
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-7), place
    else:
        assert one == other, place
