"""Which engines and ranks come to lie on which node."""

from dataclasses import replace

import pytest

from isentropic.actors.nodes.survey import NodeView
from isentropic.actors.placement import plan
from isentropic.experiments.dry.machines import (
    Load,
    _of_nodes,
    ask_cluster,
    find_machine,
    spread,
)

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
            id="ranks on one node, engines on the other",
        ),
        pytest.param(
            ["rollout.num_actors=8", "cluster.strategy=SPREAD"],
            [Load(8, 0), Load(0, 8)],
            id="SPREAD is of the engines; ranks stay together",
        ),
        pytest.param(
            ["rollout.num_actors=4", "learner.num_ranks=12"],
            [Load(2, 6), Load(2, 6)],
            id="halves of the ranks, engines beside them",
        ),
        pytest.param(
            ["rollout.num_actors=1", "rollout.tensor_parallel=4", "learner.num_ranks=12"],
            None,
            id="halves of the ranks leave no node four GPUs",
        ),
        pytest.param(
            ["rollout.num_actors=3", "learner.num_ranks=4", "cluster.strategy=STRICT_PACK"],
            [Load(3, 0), Load(0, 4)],
            id="all engines on one node",
        ),
        pytest.param(
            ["rollout.num_actors=3", "learner.num_ranks=4", "cluster.strategy=STRICT_SPREAD"],
            None,
            id="an engine for each of three nodes",
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


def test_ranks_that_cannot_be_split_evenly(settings):
    with pytest.raises(ValueError, match=r"num_ranks=9: .* cannot be split evenly over 2 nodes"):
        loads(settings(*LARGE, "learner.num_ranks=9", "rollout.num_actors=4"))


def test_without_gpus_all_goes(settings):
    """Of CPUs a plan knows nothing."""
    config = settings("run.dry=true", "learner.num_ranks=3", "rollout.num_actors=2")
    assert loads(config) == [Load(2, 3)]


def test_shared_gpus_are_counted_by_halves(settings):
    config = settings("cluster=gpu_1x24", "run.dry=true", "learner.num_ranks=1")

    assert loads(config) == [Load(1, 1)]
    two = {"learner": replace(config.learner, num_ranks=2)}
    two["rollout"] = replace(config.rollout, num_actors=2)
    assert loads(replace(config, **two)) is None


def test_the_machine_that_is_assumed(settings):
    machine = find_machine(settings(*LARGE))

    assert (machine.nodes, machine.gpus, machine.gpu) == (2, 8, "H100")
    assert machine.gpu_bytes == 80 * 2**30
    assert machine.shm_bytes == 500 * 2**30  # half of the node's memory, as Linux has it
    assert find_machine(settings("cluster=gpu_1x24", "run.dry=true")).gpu == "4090"


def test_of_a_cluster_elsewhere_little_is_known(settings):
    machine = find_machine(settings("cluster=existing"))

    assert machine.gpu_bytes is None and machine.nodes is None


def test_a_cluster_that_was_asked(settings):
    """Its smallest node of those with most GPUs; the head has none."""
    config = settings("cluster=existing", "cluster.address=head:6379", "run.dry=true")
    one = {"gpu_gib": 79.6, "gpu_name": "NVIDIA H100", "shm_gib": 400.0, "object_store_gib": 200.0}
    views = [
        NodeView(name="head", gpus=0, host_gib=16, object_store_gib=4, answered=True),
        NodeView(name="a", gpus=8, host_gib=900, answered=True, **one),
        NodeView(name="b", gpus=8, host_gib=800, answered=True, **one),
    ]
    machine = _of_nodes(config, views)

    assert (machine.nodes, machine.gpus, machine.gpu) == (2, 8, "NVIDIA H100")
    assert machine.gpu_bytes == int(79.6 * 2**30)
    assert machine.host_bytes == 800 * 2**30
    assert machine.store_bytes == 200 * 2**30
    assert "head:6379: 2 x 8 GPUs of 80 GiB" in machine.name
    assert "nodes with fewer GPUs left out: 1" in machine.name
    on_cpus = settings("cluster=local", "cluster.address=head:6379", "run.dry=true")
    assert (_of_nodes(on_cpus, views).nodes, _of_nodes(on_cpus, views).gpus) == (3, 0)


def test_a_cluster_that_does_not_answer_is_planned_without(settings):
    machine = ask_cluster(settings("cluster=existing", "cluster.address=127.0.0.1:1"))

    assert machine.nodes is None
    assert machine.name.startswith("not known: no Ray cluster answers at 127.0.0.1:1 (connection")
    assert ask_cluster(settings("cluster=local")) is None
    assert ask_cluster(settings(*LARGE, "cluster.address=127.0.0.1:1")) is None
