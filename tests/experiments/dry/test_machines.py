"""Which engines and ranks come to lie on which node."""

from dataclasses import replace

import pytest

from isentropic.actors.placement import plan
from isentropic.experiments.dry.machines import Load, find_machine, spread

TWO_NODES = "cluster.assume={nodes: 2, gpus: 8, gpu_gib: 80, host_gib: 1000}"
LARGE = ["cluster=gpu", "run.dry=true", TWO_NODES, "learner.num_ranks=8"]


def loads(config):
    layout = plan(config.cluster, config.rollout, config.learner)
    return spread(layout, find_machine(config), config.cluster.strategy)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param(
            ["rollout.num_actors=4", "rollout.tensor_parallel=2"],
            [Load(4, 0), Load(0, 8)],
            id="PACK fills one node after the other",
        ),
        pytest.param(
            ["rollout.num_actors=8", "cluster.strategy=SPREAD"],
            [Load(4, 4), Load(4, 4)],
            id="SPREAD takes them in turn",
        ),
        pytest.param(["rollout.num_actors=9"], None, id="one GPU too many"),
        pytest.param(
            ["rollout.num_actors=1", "rollout.tensor_parallel=16", "learner.num_ranks=1"],
            None,
            id="an engine lies on one node",
        ),
    ],
)
def test_spread(settings, overrides, expected):
    assert loads(settings(*LARGE, *overrides)) == expected


def test_shared_gpus_are_counted_by_halves(settings):
    config = settings("cluster=gpu_1x24", "run.dry=true", "learner.num_ranks=1")

    assert loads(config) == [Load(1, 1)]
    more = replace(config, learner=replace(config.learner, num_ranks=2))
    assert loads(more) is None


def test_the_machine_that_is_assumed(settings):
    machine = find_machine(settings(*LARGE))

    assert (machine.nodes, machine.gpus, machine.gpu) == (2, 8, "H100")
    assert machine.gpu_bytes == 80 * 2**30
    assert machine.shm_bytes == 500 * 2**30  # half of the node's memory, as Linux has it
    assert find_machine(settings("cluster=gpu_1x24", "run.dry=true")).gpu == "4090"


def test_of_a_cluster_elsewhere_little_is_known(settings):
    machine = find_machine(settings("cluster=existing"))

    assert machine.gpu_bytes is None and machine.nodes is None
