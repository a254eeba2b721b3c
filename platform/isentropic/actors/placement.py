"""Plans what engines and learner ranks need, and which ranks lie on one node."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from isentropic.config import ClusterConfig, LearnerConfig, RolloutConfig

log = logging.getLogger(__name__)

Resources = dict[str, float]
Node = dict[str, Any]  # as `ray.nodes` describes it


@dataclass(frozen=True)
class Plan:
    """Bundles of resources, and what each process takes of its bundle."""

    bundles: tuple[Resources, ...]
    engines: tuple[int, ...]  # bundle of each engine
    ranks: tuple[int, ...]  # bundle of each rank
    engine: Resources
    rank: Resources

    @property
    def num_cpus(self) -> float:
        return sum(bundle["CPU"] for bundle in self.bundles)


def plan(cluster: ClusterConfig, rollout: RolloutConfig, learner: LearnerConfig) -> Plan:
    """Plans the bundles of a run.

    apart: one per engine and per rank; shared: engine i and rank i in one bundle, on the same GPU.
    On GPUs there are as many of the ones as of the others then.

    An engine takes `gpus_per_engine` times `tensor_parallel` GPUs; on CPUs, as many times
    `cpus_per_engine`. Raises ValueError for what Ray cannot place.
    """
    gpus = cluster.gpus_per_engine * rollout.tensor_parallel
    cpus = cluster.cpus_per_engine * (1 if gpus else rollout.tensor_parallel)
    engine = _resources(cpus, gpus)
    rank = _resources(cluster.cpus_per_rank, cluster.gpus_per_rank)
    for name, resources in (("gpus_per_engine", engine), ("gpus_per_rank", rank)):
        gpus = resources.get("GPU", 0)
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"cluster.{name} gives {gpus} GPUs to one process; above 1, Ray takes whole "
                "numbers only."
            )
    engines = range(rollout.num_actors)
    ranks = range(learner.num_ranks)
    if cluster.placement == "apart":
        bundles = [engine] * len(engines) + [rank] * len(ranks)
        return Plan(
            tuple(bundles), tuple(engines), tuple(len(engines) + i for i in ranks), engine, rank
        )
    if cluster.rollout_label not in (None, cluster.learner_label):
        raise ValueError(
            f"cluster.rollout_label={cluster.rollout_label} with cluster.placement=shared: engines "
            "lie where the ranks do. Set cluster.learner_label only."
        )
    if rollout.tensor_parallel > 1:
        raise ValueError(
            f"cluster.placement=shared with rollout.tensor_parallel={rollout.tensor_parallel}: an "
            "engine that spans GPUs cannot share them with ranks. Use cluster.placement=apart, or "
            "rollout.tensor_parallel=1."
        )
    on_gpus = "GPU" in engine or "GPU" in rank
    if on_gpus and len(engines) != len(ranks):
        raise ValueError(
            f"cluster.placement=shared with {len(engines)} engines and {len(ranks)} ranks on GPUs: "
            "what has no partner would be put two to a GPU. Set "
            f"rollout.num_actors={len(ranks)} or learner.num_ranks={len(engines)}."
        )
    pairs = itertools.zip_longest([engine] * len(engines), [rank] * len(ranks), fillvalue={})
    bundles = [{key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}} for a, b in pairs]
    return Plan(tuple(bundles), tuple(engines), tuple(ranks), engine, rank)


def sharing_cpus(layout: Plan) -> Plan:
    """Plans fewer logical CPUs per process if the cluster is one small machine.

    They share its cores, as on a Ray of our own. Elsewhere the plan stays as it is: nodes may join.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    cpus = nodes[0].get("CPU", 0) if len(nodes) == 1 else 0
    if not 0 < cpus < layout.num_cpus:
        return layout
    share = cpus / layout.num_cpus

    def shrunk(resources: Resources) -> Resources:
        # Rounded down, and no finer than Ray counts.
        return resources | {"CPU": int(resources["CPU"] * share * 1000) / 1000}

    log.warning("%s wanted, this Ray has %g CPUs: processes share them", summary(layout), cpus)
    bundles = tuple(shrunk(bundle) for bundle in layout.bundles)
    return Plan(bundles, layout.engines, layout.ranks, shrunk(layout.engine), shrunk(layout.rank))


def check_node(layout: Plan, tensor_parallel: int) -> None:
    """Raises ValueError if an engine wants more GPUs than any node of this Ray has.

    An engine's processes share memory, so it cannot span nodes. Nothing is refused as long as no
    node has a GPU: those that have may still join.
    """
    gpus = layout.engine.get("GPU", 0)
    largest = max(node["Resources"].get("GPU", 0) for node in alive_nodes())
    if 0 < largest < gpus:
        raise ValueError(
            f"rollout.tensor_parallel={tensor_parallel}: an engine of {gpus:g} GPUs must lie on "
            f"one node, and the largest node has {largest:g}. Set rollout.tensor_parallel="
            f"{largest:g} or less."
        )


def bundles_by_node(layout: Plan, nodes: Sequence[Node]) -> tuple[list[Resources], list[int]]:
    """Returns bundles that hold the ranks of one node each, and the bundle of each rank.

    A bundle lies on one node by definition, so ranks that fit on a node cannot be spread. If no
    node can hold a rank yet, or a rank takes a part of a GPU, every rank has a bundle of its own.

    Args:
        nodes: those that may hold ranks.

    Raises ValueError if the fewest nodes that hold the ranks would have unequal numbers of them.
    """
    ranks, gpus = len(layout.ranks), layout.rank.get("GPU", 0)
    room = max((fitting(layout.rank, node["Resources"]) for node in nodes), default=0)
    alone = [layout.rank] * ranks, list(range(ranks))
    if not room or gpus % 1:
        return alone
    count = -(-ranks // room)
    if ranks % count == 0:
        each = ranks // count
        bundle = {name: round(amount * each, 4) for name, amount in layout.rank.items()}
        return [bundle] * count, [rank // each for rank in range(ranks)]
    if not gpus:
        return alone
    even = [number * count for number in range(1, room + 1) if (number * count) > room]
    raise ValueError(
        f"learner.num_ranks={ranks}: a node holds at most {room} ranks, and {ranks} cannot be "
        f"split evenly over {count} nodes; every layer would wait for the fullest. Use "
        f"{', '.join(map(str, even))}, or {room} or fewer on one node."
    )


def fitting(wanted: Resources, has: Resources) -> int:
    """Returns how many processes of a kind fit in what a node has."""
    return int(min(has.get(name, 0) / amount + 1e-6 for name, amount in wanted.items() if amount))


def alive_nodes() -> list[Node]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resources(cpus: float, gpus: float) -> Resources:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def total(bundles: tuple[Resources, ...]) -> Resources:
    keys = {key for bundle in bundles for key in bundle}
    return {key: sum(bundle.get(key, 0) for bundle in bundles) for key in sorted(keys)}


def summary(layout: Plan) -> str:
    return f"{len(layout.bundles)} bundles ({amounts(total(layout.bundles))} in all)"


def amounts(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
