"""No run is trained twice: what computes the same is the same run, whichever part asks for it."""

import pytest
from omegaconf import OmegaConf

from isentropic.experiments.results.parts import PARTS, Part, parts_of
from isentropic.experiments.results.plan import (
    digest_of,
    moved,
    plan_of_part,
    planned_runs,
    points_of,
    settings_of,
    to_do,
)
from isentropic.experiments.settings.load import load
from isentropic.experiments.sweep.ledger import DONE, FAILED, STOPPED, SweepLedger

GRID = """
overrides: [experiment=ce_gppo_tiny]
settings:
  half: [method=ce_gppo, objective.beta1=0.5, objective.beta2=1.0]
  {name}: [{overrides}]
grid: {{ seed: {seeds} }}
"""


@pytest.fixture
def part(tmp_path):
    def part(name, *overrides, recipe=(), seeds=(0,)):
        path = tmp_path / f"{name}.yaml"
        values = {"overrides": ", ".join(overrides), "seeds": list(seeds)}
        path.write_text(GRID.format(name=name, **values))
        return Part(name=name, title=name, sweep=str(path), overrides=recipe)

    return part


def test_parts_share_runs_of_equal_config_and_seed(part, tmp_path):
    one = planned_runs(part("one", "method=grpo", seeds=(0, 1)), tmp_path)
    # The same run in other words: the preset's values one by one, in another order.
    clip = ("objective.clip_low=0.2", "objective=clip", "objective.clip_high=0.2")
    other = planned_runs(part("other", *clip, seeds=(1, 2)), tmp_path)
    names = [[run.trial.name for run in runs] for runs in (one, other)]
    assert names[0][1] == names[1][0]  # half of seed 1
    assert names[0][3] == names[1][2]  # GRPO of seed 1
    assert len({*names[0], *names[1]}) == len({run.folder for run in (*one, *other)}) == 6
    assert list(settings_of(one)) == ["half", "one"]


def test_what_changes_the_run_or_its_books_is_another_run(part, tmp_path):
    digests = {
        planned_runs(part(f"p{n}", "method=grpo", recipe=recipe), tmp_path)[0].trial.digest
        for n, recipe in enumerate([(), ("run.steps=59",), ("accounting.ledger.every=2",)])
    }
    assert len(digests) == 3


def test_names_and_places_are_no_part_of_what_a_run_computes(part, tmp_path):
    plain = planned_runs(part("a", "method=oger"), tmp_path)  # its cache lies in the run's folder
    named = part("b", "method=oger", recipe=("run.label=x", "tracking.wandb=disabled"))
    elsewhere = planned_runs(named, tmp_path / "elsewhere")
    assert [run.trial.digest for run in plain] == [run.trial.digest for run in elsewhere]
    cache = plain[1].trial.config.shaping.cache
    assert cache == str(plain[1].folder / "encoder")
    again = moved(plain, tmp_path / "again")
    assert [run.folder for run in again] == [tmp_path / "again" / run.trial.name for run in plain]
    assert [run.trial.digest for run in again] == [run.trial.digest for run in plain]
    assert again[1].trial.config.shaping.cache == str(again[1].folder / "encoder")


def test_a_key_of_tomorrow_makes_no_other_run(part, tmp_path, monkeypatch):
    """Names of published runs, and of files that keep their numbers, outlive the config's keys."""
    (run, *_) = planned_runs(part("a", "method=grpo"), tmp_path)
    old = OmegaConf.create(OmegaConf.to_container(run.trial.cfg, resolve=False))
    del old["rewards"]["accept_gaps"], old["rollout"]["max_lag"]
    del old["alarms"]["rules"]["unchecked_rewards"]
    assert digest_of(old) == run.trial.digest
    for changed in ({"rewards": {"network": True}}, {"learner": {"head": "torch"}}):
        assert digest_of(OmegaConf.merge(run.trial.cfg, changed)) != run.trial.digest


def test_only_what_is_not_over_is_to_do(part, tmp_path):
    runs = planned_runs(part("one", "method=grpo", seeds=(0, 1)), tmp_path / "runs")
    ledger = SweepLedger(tmp_path / "runs")
    for run, state in zip(runs, (DONE, STOPPED, FAILED), strict=False):
        ledger.write(run.trial.digest, run=run.trial.name, state=state)
    assert to_do([*runs, *runs], ledger) == [runs[2].trial, runs[3].trial]
    assert [trial.name for trial in to_do(runs, SweepLedger(tmp_path / "runs"))] == [
        runs[2].trial.name,
        runs[3].trial.name,
    ]


def test_parts_are_asked_for_by_name():
    assert parts_of(None) == list(PARTS)
    assert [part.name for part in parts_of(["fig6", "baselines"])] == ["baselines", "fig6"]
    with pytest.raises(ValueError, match=r"got 'fig33'. Did you mean 'fig3'"):
        parts_of(["fig33"])


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_parts_base_is_one_of_its_settings(part):
    points = points_of(plan_of_part(part))
    labels = {label for label, _ in points}
    assert not part.base or part.base in labels
    seeds = {override for _, own in points for override in own if override.startswith("seed=")}
    assert len(points) == len(labels) * len(seeds)
    assert len(seeds) == {"t3_pilot": 1, "t3": 8}.get(part.name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_run_of_every_part_composes(part, tmp_path):
    assert planned_runs(part, tmp_path)


def test_the_config_of_a_shared_run_is_what_its_yaml_loads_to(part, tmp_path):
    for run in planned_runs(part("a", "method=oger"), tmp_path):
        assert run.trial.config == load(run.trial.cfg)
        assert run.folder.parent == tmp_path
