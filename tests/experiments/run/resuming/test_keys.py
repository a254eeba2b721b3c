"""Which changes need permission, and which of them make what was drawn before them useless."""

import pytest
from omegaconf import OmegaConf

from isentropic.experiments.run.resuming.keys import (
    changed_keys,
    machine_remark,
    redrawing_keys,
)

STEERED = {"steering": {"name": "steered", "actuators": {"beta1": [0.0, 1.0]}}}
PLAIN = {"steering": {"name": "flexec", "total_steps": 9}}


def books(every, steering):
    return {"accounting": {"ledger": {"every": every}}} | steering


def test_the_ledger_may_change_unless_a_controller_reads_it():
    assert changed_keys(books(1, PLAIN), books(5, PLAIN)) == {}
    assert changed_keys(books(1, STEERED), books(5, STEERED)) == {
        "accounting.ledger.every": "accounting.ledger.every: 1 -> 5"
    }


def test_an_actuator_that_was_taken_out_reads_nothing():
    off = {"steering": {"name": "steered", "actuators": {"beta1": None}}}
    assert changed_keys(books(1, off), books(5, off)) == {}


@pytest.mark.parametrize(
    ("key", "before", "today", "words"),
    [
        ("cpus_per_rank", 1.0, 2.0, "cluster.cpus_per_rank: 1.0 -> 2.0"),
        ("cpus_per_rank", 1.0, 1.5, None),  # one thread either way
        ("cpus_per_rank", 0.25, 1.0, None),
        ("gpus_per_engine", 0, 0.5, "cluster.gpus_per_engine: 0 -> 0.5"),
        ("strategy", "PACK", "SPREAD", None),
    ],
)
def test_another_machine_needs_no_permission_but_is_said(key, before, today, words):
    before, today = {"cluster": {key: before}}, {"cluster": {key: today}}
    assert changed_keys(before, today) == {}
    remarks = machine_remark(before, today)
    assert bool(remarks) == (words is not None)
    assert words is None or words in remarks[0]


RUN = {
    "run": {"steps": 9, "name": "a"},
    "rollout": {"num_actors": 1, "group_size": 4, "max_staleness": 1},
    "learner": {"lr_schedule": "constant", "num_ranks": 1, "lr": 0.1},
    "accounting": {"ledger": {"every": 1}, "recheck_share": 0.1},
    "rewards": {"timeout_s": 3.0, "batch_size": 16},
    "shaping": {"name": "exploration", "cache": "a/encoder", "coef": 1.0},
    **STEERED,
}


@pytest.mark.parametrize(
    ("change", "redraws"),
    [
        ("rollout.num_actors=2", False),
        ("learner.num_ranks=2", False),
        ("learner.deterministic=true", False),
        ("run.name=b", False),
        ("run.steps=20", False),
        ("accounting.recheck_share=0.5", False),
        ("rewards.batch_size=8", False),
        ("shaping.cache=b/encoder", False),  # a run of `method=oger` that was moved
        ("shaping.coef=2.0", True),
        ("rollout.group_size=8", True),
        ("rollout.max_staleness=0", True),
        ("learner.lr=0.2", True),
        ("rewards.timeout_s=1.0", True),
        ("accounting.ledger.every=5", True),
    ],
)
def test_who_computes_does_not_matter_to_what_is_drawn(change, redraws):
    cfg = OmegaConf.merge(OmegaConf.create(RUN), OmegaConf.from_dotlist([change]))
    assert bool(redrawing_keys(RUN, cfg)) == redraws


def test_another_length_matters_to_a_falling_learning_rate():
    falling = OmegaConf.merge(RUN, {"learner": {"lr_schedule": "linear"}})
    longer = OmegaConf.merge(falling, {"run": {"steps": 20}})
    before = OmegaConf.to_container(falling)
    assert redrawing_keys(before, longer) == ["run.steps: 9 -> 20"]
