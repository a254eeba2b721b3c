"""Values that are each allowed but do not go together are refused, with the values and a way out."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from isentropic.experiments.config_checks import check_together, gpus_needed


@dataclass
class Named:
    name: str


def config(**changes):
    """A config that fits, as far as the checks look at it; `section__key=value` changes it."""
    built = SimpleNamespace(
        model=SimpleNamespace(max_length=128),
        rollout=SimpleNamespace(
            max_prompt_tokens=64,
            max_response_tokens=64,
            prompts_per_step=64,
            group_size=8,
            max_staleness=0,
            num_actors=1,
            tensor_parallel=1,
            top_p=1.0,
            top_k=-1,
        ),
        learner=SimpleNamespace(updates_per_rollout=8, num_ranks=2),
        cluster=SimpleNamespace(address=None, placement="apart", gpus_per_rank=0.0, gpus_per_engine=0.0),
        evaluation=SimpleNamespace(temperature=1.0, samples=4),
        advantage=Named("normalised"),
        token_weight=Named("none"),
    )
    for key, value in changes.items():
        section, _, name = key.partition("__")
        setattr(getattr(built, section), name, value)
    return built


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_fits_passes():
    check_together(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"rollout__max_response_tokens": 65}, r"64 \+ 65 = 129, more than model\.max_length=128", id="window"
        ),
        pytest.param({"learner__updates_per_rollout": 7}, r"may be 1, 2, 4, 8, 16, 32, 64", id="not divisible"),
        pytest.param({"learner__updates_per_rollout": 128}, r"updates_per_rollout=128", id="more updates than prompts"),
        pytest.param({"rollout__group_size": 1}, r"group_size=1 with advantage=normalised", id="no baseline"),
        pytest.param(
            {"cluster__placement": "shared", "rollout__max_staleness": 1}, "engines sleep", id="stale and shared"
        ),
        pytest.param({"learner__num_ranks": 100_000}, r"num_ranks=100000 is more than", id="more ranks than cores"),
        pytest.param({"cluster__gpus_per_rank": 1000.0}, r"needs 2000 GPUs", id="more ranks than GPUs"),
        pytest.param({"token_weight__name": "tis", "rollout__top_p": 0.9}, "renormalises", id="truncated sampling"),
        pytest.param({"evaluation__temperature": 0}, r"evaluation\.samples=4", id="greedy samples are all the same"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_together(config(**changes))


def test_devices_of_a_cluster_are_not_judged_here(monkeypatch):
    check_together(config(learner__num_ranks=100_000, cluster__address="auto"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_together(config(learner__num_ranks=100_000))


def test_gpus_needed_counts_ranks_and_devices_of_engines():
    wanted = config(cluster__gpus_per_rank=1.0, cluster__gpus_per_engine=1.0, rollout__num_actors=3)
    wanted.rollout.tensor_parallel = 2

    assert gpus_needed(wanted) == 2 * 1 + 3 * 2
