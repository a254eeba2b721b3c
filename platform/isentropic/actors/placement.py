"""Places engines and learner ranks in one placement group, waited for with a deadline."""

import itertools
import logging
import time
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from isentropic.config import ClusterConfig, LearnerConfig, RolloutConfig
from isentropic.controller.protocols import WaitError

log = logging.getLogger(__name__)

Resources = dict[str, float]


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
    if rollout.tensor_parallel > 1:
        raise ValueError(
            f"cluster.placement=shared with rollout.tensor_parallel={rollout.tensor_parallel}: an "
            "engine that spans GPUs cannot share them with ranks. Use cluster.placement=apart, or "
            "rollout.tensor_parallel=1."
        )
    pairs = itertools.zip_longest([engine] * len(engines), [rank] * len(ranks), fillvalue={})
    bundles = [{key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}} for a, b in pairs]
    return Plan(tuple(bundles), tuple(engines), tuple(ranks), engine, rank)


def sharing_cpus(layout: Plan) -> Plan:
    """Plans fewer logical CPUs per process if the cluster is one small machine.

    They share its cores, as on a Ray of our own. Elsewhere the plan stays as it is: nodes may join.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = nodes[0].get("CPU", 0) if len(nodes) == 1 else 0
    if not 0 < cpus < layout.num_cpus:
        return layout
    share = cpus / layout.num_cpus

    def shrunk(resources: Resources) -> Resources:
        # Rounded down, and no finer than Ray counts.
        return resources | {"CPU": int(resources["CPU"] * share * 1000) / 1000}

    log.warning("%s wanted, this Ray has %g CPUs: processes share them", _summary(layout), cpus)
    bundles = tuple(shrunk(bundle) for bundle in layout.bundles)
    return Plan(bundles, layout.engines, layout.ranks, shrunk(layout.engine), shrunk(layout.rank))


def check_node(layout: Plan, tensor_parallel: int) -> None:
    """Raises ValueError if an engine wants more GPUs than any node of this Ray has.

    An engine's processes share memory, so it cannot span nodes. Nothing is refused as long as no
    node has a GPU: those that have may still join.
    """
    gpus = layout.engine.get("GPU", 0)
    largest = max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
    if 0 < largest < gpus:
        raise ValueError(
            f"rollout.tensor_parallel={tensor_parallel}: an engine of {gpus:g} GPUs must lie on "
            f"one node, and the largest node has {largest:g}. Set rollout.tensor_parallel="
            f"{largest:g} or less."
        )


def place(layout: Plan, strategy: str, timeout_s: float) -> PlacementGroup:
    """Reserves the bundles. Raises WaitError that says what is missing and what the cluster has."""
    start = time.monotonic()
    group = placement_group(list(layout.bundles), strategy=strategy)
    if group.wait(timeout_s):
        return group
    remove_placement_group(group)
    raise WaitError(
        f"the cluster could not place {_summary(layout)} with cluster.strategy={strategy} within "
        f"{time.monotonic() - start:.0f} s. {_missing(layout)} Use fewer or smaller engines and "
        "ranks (rollout.num_actors, learner.num_ranks, cluster.gpus_per_*), or add nodes."
    )


def _resources(cpus: float, gpus: float) -> Resources:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def _total(bundles: tuple[Resources, ...]) -> Resources:
    keys = {key for bundle in bundles for key in bundle}
    return {key: sum(bundle.get(key, 0) for bundle in bundles) for key in sorted(keys)}


def _summary(layout: Plan) -> str:
    return f"{len(layout.bundles)} bundles ({_amounts(_total(layout.bundles))} in all)"


def _amounts(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _missing(layout: Plan) -> str:
    """Compares the plan with the whole cluster, what is free, and the largest node."""
    total = ray.cluster_resources()
    free = ray.available_resources()
    lines = []
    for name, amount in _total(layout.bundles).items():
        largest = max(
            (node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0
        )
        bundle = max(bundle.get(name, 0) for bundle in layout.bundles)
        has = (
            f"Of {name} the cluster has {total.get(name, 0):g}, {free.get(name, 0):g} free, "
            f"{largest:g} on one node"
        )
        short = max(amount - free.get(name, 0), bundle - largest, 0)
        lines.append(f"{has}; {amount:g} are wanted" + (f": {short:g} missing." if short else "."))
    return " ".join(lines)
