"""What a plan reserves, and what is said when the cluster cannot give it."""

from types import SimpleNamespace

import pytest
import ray

from isentropic.actors.learner_actor import LearnerActor
from isentropic.actors.learner_group import by_place
from isentropic.actors.nodes.reserving import place
from isentropic.actors.placement import bundles_by_node, check_node, plan, sharing_cpus
from isentropic.controller.protocols import WaitError


def settings(**changes):
    """Cluster, rollout and learner config, as far as a plan reads them."""
    cluster = {
        "placement": "apart", "gpus_per_engine": 1.0, "gpus_per_rank": 1.0, "cpus_per_engine": 2.0,
        "cpus_per_rank": 1.0,
        "strategy": "PACK", "learner_label": None, "rollout_label": None, "startup_timeout_s": 1.0,
    }  # fmt: skip
    cluster.update({key: changes[key] for key in cluster if key in changes})
    rollout = SimpleNamespace(
        num_actors=changes.get("engines", 1), tensor_parallel=changes.get("tensor_parallel", 1)
    )
    return SimpleNamespace(**cluster), rollout, SimpleNamespace(num_ranks=changes.get("ranks", 2))


def test_apart_gives_each_process_a_bundle():
    wanted = plan(*settings(engines=2, tensor_parallel=4))
    assert wanted.bundles == ({"CPU": 2.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 1.0},
                              {"CPU": 1.0, "GPU": 1.0})  # fmt: skip
    assert (wanted.engines, wanted.ranks, wanted.num_cpus) == ((0, 1), (2, 3), 6.0)


def test_shared_puts_an_engine_and_a_rank_on_one_gpu():
    halves = {"gpus_per_engine": 0.5, "gpus_per_rank": 0.5}
    wanted = plan(*settings(placement="shared", engines=2, **halves))
    assert wanted.bundles == ({"CPU": 3.0, "GPU": 1.0},) * 2
    assert (wanted.engines, wanted.ranks) == ((0, 1), (0, 1))


def test_shared_on_cpus_takes_any_numbers():
    none = {"gpus_per_engine": 0.0, "gpus_per_rank": 0.0}
    wanted = plan(*settings(placement="shared", **none))
    assert wanted.bundles == ({"CPU": 3.0}, {"CPU": 1.0})  # the second rank has no engine
    assert (wanted.engines, wanted.ranks) == ((0,), (0, 1))


def test_without_gpus_none_are_asked_for():
    wanted = plan(*settings(gpus_per_engine=0.0, gpus_per_rank=0.0, ranks=1))
    assert wanted.bundles == ({"CPU": 2.0}, {"CPU": 1.0})


def test_an_engine_of_several_processes_takes_a_cpu_for_each():
    wanted = plan(*settings(gpus_per_engine=0.0, gpus_per_rank=0.0, ranks=1, tensor_parallel=2))
    assert wanted.bundles == ({"CPU": 4.0}, {"CPU": 1.0})


@pytest.mark.parametrize(
    ("gpus", "refused"),
    [
        pytest.param([4.0, 2.0], False, id="a node has enough"),
        pytest.param([2.0, 2.0], True, id="four GPUs, on two nodes"),
        pytest.param([0.0], False, id="a head without GPUs: workers will join"),
    ],
)
def test_an_engine_lies_on_one_node(gpus, refused, monkeypatch):
    nodes = [{"Alive": True, "Resources": {"GPU": count} if count else {}} for count in gpus]
    nodes.append({"Alive": False, "Resources": {"GPU": 8.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    layout = plan(*settings(tensor_parallel=4))
    if refused:
        with pytest.raises(ValueError, match=r"tensor_parallel=4: .* the largest node has 2"):
            check_node(layout, 4)
    else:
        check_node(layout, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"placement": "shared", "tensor_parallel": 2},
            "cannot share them with ranks",
            id="shared engine",
        ),
        pytest.param(
            {"placement": "shared", "gpus_per_engine": 0.5, "gpus_per_rank": 0.5, "ranks": 4},
            r"1 engines and 4 ranks.* Set rollout\.num_actors=4 or learner\.num_ranks=1",
            id="shared: half GPUs would be put together, two ranks on one",
        ),
        pytest.param(
            {"gpus_per_engine": 0.5, "tensor_parallel": 3},
            "whole numbers only",
            id="one GPU and a half",
        ),
        pytest.param(
            {"placement": "shared", "rollout_label": "role:rollout"},
            "engines lie where the ranks do",
            id="engines of a shared GPU elsewhere",
        ),
    ],
)
def test_what_ray_cannot_place(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(*settings(**changes))


@pytest.mark.engine
def test_missing_gpus_are_named(ray_session):
    with pytest.raises(
        WaitError, match=r"Of GPU the cluster has 0, 0 free, .* 3 are wanted: 3 missing"
    ):
        wanted = settings(cpus_per_engine=0.5, cpus_per_rank=0.5)
        place(plan(*wanted), wanted[0])


@pytest.mark.parametrize(
    ("nodes", "cpus"),
    [
        pytest.param([{"CPU": 2.0}], [1.0, 0.5, 0.5], id="one small machine: shared"),
        pytest.param([{"CPU": 4.0}], [2.0, 1.0, 1.0], id="enough"),
        pytest.param(
            [{"memory": 1.0}], [2.0, 1.0, 1.0], id="a head without CPUs: workers will join"
        ),
        pytest.param(
            [{"CPU": 1.0}, {"CPU": 1.0}], [2.0, 1.0, 1.0], id="a cluster that is too small says so"
        ),
    ],
)
def test_processes_share_the_cpus_of_a_small_machine(nodes, cpus, monkeypatch):
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": True, "Resources": resources} for resources in nodes]
    )
    wanted = sharing_cpus(plan(*settings(gpus_per_engine=0.0, gpus_per_rank=0.0)))
    assert [bundle["CPU"] for bundle in wanted.bundles] == cpus
    assert (wanted.engine["CPU"], wanted.rank["CPU"]) == (cpus[0], cpus[1])


def nodes_of(*gpus):
    return [{"Resources": {"CPU": 32.0, "GPU": float(count)}} for count in gpus]


@pytest.mark.parametrize(
    ("ranks", "nodes", "sizes"),
    [
        pytest.param(8, [8, 8], [8], id="one node holds them"),
        pytest.param(3, [2, 4], [3], id="the larger node holds them"),
        pytest.param(12, [8, 8], [6, 6], id="halves"),
        pytest.param(24, [8, 8, 8], [8, 8, 8], id="three whole nodes"),
        pytest.param(4, [0, 0], [1, 1, 1, 1], id="no GPU yet: nodes will join"),
    ],
)
def test_the_ranks_of_a_node_are_one_bundle(ranks, nodes, sizes):
    bundles, bundle_of = bundles_by_node(plan(*settings(ranks=ranks)), nodes_of(*nodes))
    assert bundles == [{"CPU": float(size), "GPU": float(size)} for size in sizes]
    assert [bundle_of.count(bundle) for bundle in range(len(bundles))] == sizes
    assert bundle_of == sorted(bundle_of)


def test_ranks_that_split_a_node_unevenly_are_refused():
    with pytest.raises(ValueError, match=r"num_ranks=9: .* Use 10, 12, 14, 16, or 8 or fewer"):
        bundles_by_node(plan(*settings(ranks=9)), nodes_of(8, 8))
    # Without GPUs it costs little.
    wanted = plan(*settings(ranks=9, gpus_per_rank=0.0, cpus_per_rank=4.0))
    assert len(bundles_by_node(wanted, nodes_of(0, 0))[0]) == 9


def test_ranks_are_numbered_by_node_and_gpu():
    """Ray starts actors in any order, and gives them GPUs in any order."""
    places = [("b", ["10"]), ("a", ["1"]), ("b", ["0"]), ("a", ["0"]), ("b", ["2"])]
    assert by_place(places) == [2, 4, 0, 3, 1]
    named = [
        ("a", ["GPU-9f2c"]),
        ("b", ["MIG-07aa"]),
        ("a", ["GPU-11d0"]),
    ]  # by CUDA_VISIBLE_DEVICES
    assert by_place(named) == [2, 0, 1]
    assert by_place([("a", [])] * 3) == [0, 1, 2]


def test_gpus_may_have_names(monkeypatch):
    """CUDA_VISIBLE_DEVICES may hold UUIDs or names of MIG parts, and Ray hands them on."""
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["GPU-9f2c", 3])
    here = SimpleNamespace(get_node_id=lambda: "a")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    actor = LearnerActor.__ray_metadata__.modified_class
    assert actor.place(None) == ("a", ["GPU-9f2c", "3"])
