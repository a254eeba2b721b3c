"""The machine that a dry run plans for, and which engines and ranks come to lie on which node."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from isentropic.actors.nodes.survey import NodeView
from isentropic.actors.placement import Plan, Resources, bundles_by_node, fitting, total
from isentropic.config import Config
from isentropic.folders import variable

GIB = 2**30
SMALL_GPU_GIB = 24
SHM = "/dev/shm"
MANY = 1e6  # logical CPUs of a node: they are not counted here
ASSUME = "cluster.assume={nodes: 2, gpus: 8, gpu_gib: 80, host_gib: 1000} plans for one"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes that are all alike. What is None is not known."""

    name: str
    nodes: int | None
    gpus: int  # of a node
    gpu_bytes: int | None  # of a GPU
    host_bytes: int | None  # of a node
    shm_bytes: int | None  # /dev/shm of a node
    disk_bytes: int | None  # free where the run writes
    gpu: str | None  # its name, for the time estimate
    store_bytes: int | None = None  # of a node's object store; known of a Ray that was asked only


def ask_cluster(config: Config) -> Machine | None:
    """Joins the Ray that the run would join, and returns what its nodes have.

    Those with most GPUs count, if the run wants GPUs: nodes are all alike here. None if the run
    would start a Ray of its own, or plans for a machine that is assumed.
    """
    if config.cluster.assume is not None or _address(config) == "local":
        return None
    from isentropic.actors.nodes.survey import survey
    from isentropic.actors.ray_runtime import start_ray, stop_ray

    try:
        start_ray(config.cluster, num_cpus=0)
    except ValueError as error:
        # A plan is made on a laptop, too.
        reason = str(error).partition("). ")[0]
        return replace(find_machine(config), name=f"not known: {reason}). {ASSUME}")
    try:
        views = survey()
    finally:
        stop_ray()
    return _of_nodes(config, views)


def _of_nodes(config: Config, views: Sequence[NodeView]) -> Machine:
    most = max(view.gpus for view in views) if config.cluster.gpus_per_rank else 0
    alike = [view for view in views if view.gpus == most] if most else list(views)
    first = alike[0]
    kind = f" of {first.gpu_gib:.0f} GiB ({first.gpu_name})" if first.gpu_name else ""
    others = len(views) - len(alike)
    return Machine(
        name=f"the cluster at {_address(config)}: {len(alike)} x {most} GPUs{kind}"
        + (f"; nodes with fewer GPUs left out: {others}" if others else ""),
        nodes=len(alike),
        gpus=most,
        gpu_bytes=int(first.gpu_gib * GIB) or None,
        host_bytes=int(min(view.host_gib for view in alike) * GIB),
        shm_bytes=int(min(view.shm_gib for view in alike) * GIB),
        disk_bytes=psutil.disk_usage(_existing(config.run.dir)).free,
        gpu=first.gpu_name or None,
        store_bytes=int(min(view.object_store_gib for view in alike) * GIB),
    )


def find_machine(config: Config) -> Machine:
    """The machine of `cluster.assume`, else this one; of a cluster elsewhere little is known."""
    assume = config.cluster.assume
    if assume is not None:
        gpu = assume.gpu or ("4090" if assume.gpu_gib <= SMALL_GPU_GIB else "H100")
        return Machine(
            name=f"assumed: {assume.nodes} x {assume.gpus} GPUs of {assume.gpu_gib:g} GiB, "
            f"{assume.host_gib:g} GiB per node",
            nodes=assume.nodes,
            gpus=assume.gpus,
            gpu_bytes=int(assume.gpu_gib * GIB),
            host_bytes=int(assume.host_gib * GIB),
            shm_bytes=int((assume.shm_gib or assume.host_gib / 2) * GIB),
            disk_bytes=None if assume.disk_gib is None else int(assume.disk_gib * GIB),
            gpu=gpu if assume.gpus else None,
        )
    disk = psutil.disk_usage(_existing(config.run.dir)).free
    if _address(config) != "local":
        return Machine(
            name=f"a cluster that was not asked. {ASSUME}",
            nodes=None,
            gpus=0,
            gpu_bytes=None,
            host_bytes=None,
            shm_bytes=None,
            disk_bytes=disk,
            gpu=None,
        )
    gpus = torch.cuda.device_count()
    first = torch.cuda.get_device_properties(0) if gpus else None
    return Machine(
        name=f"this machine: {os.cpu_count()} CPUs and {gpus} GPUs",
        nodes=1,
        gpus=gpus,
        gpu_bytes=first.total_memory if first else None,
        host_bytes=psutil.virtual_memory().total,
        shm_bytes=psutil.disk_usage(SHM).total if os.path.isdir(SHM) else None,
        disk_bytes=disk,
        gpu=first.name if first else None,
    )


@dataclass(frozen=True)
class Load:
    """What one node has to carry."""

    engines: int
    ranks: int


def spread(layout: Plan, machine: Machine, strategy: str) -> list[Load] | None:
    """Puts ranks and engines on nodes as `actors.nodes.reserving` does; None if there is no room.

    First the ranks, on as few nodes as hold them, then the engines, on the others if these have
    room. Which of the nodes that are alike Ray takes is left to it: here ranks are on the last.
    Labels of nodes are not known.

    Raises ValueError if the ranks cannot be split evenly over the nodes that they need.
    """
    count = machine.nodes or 1
    uses_gpus = any(bundle.get("GPU") for bundle in layout.bundles)
    gpus = float(machine.gpus) if uses_gpus else 0.0
    free = [gpus] * count
    if total(layout.bundles).get("GPU", 0) > gpus * count:
        return None
    everywhere = list(range(count))
    if set(layout.engines) & set(layout.ranks):
        one = total(layout.bundles).get("GPU", 0) <= gpus
        place = _put(layout.bundles, free, "STRICT_PACK" if one else strategy, everywhere)
        return place and _loads(
            count, [place[i] for i in layout.engines], [place[i] for i in layout.ranks]
        )
    nodes = [{"Resources": {"GPU": gpus, "CPU": MANY}} for _ in everywhere]
    bundles, bundle_of = bundles_by_node(layout, nodes)
    whole = len(bundles) < len(layout.ranks) or len(bundles) == 1
    place = _put(bundles, free, "STRICT_SPREAD" if whole else strategy, everywhere[::-1])
    if place is None:
        return None
    ranks = [place[bundle] for bundle in bundle_of]
    others = [node for node in everywhere if node not in ranks]
    room = sum(fitting(layout.engine, {"GPU": free[node], "CPU": MANY}) for node in others)
    among = others if room >= len(layout.engines) else everywhere
    engines = _put([layout.engine] * len(layout.engines), free, strategy, among)
    return engines and _loads(count, engines, ranks)


def _put(
    bundles: Sequence[Resources], free: list[float], strategy: str, among: Sequence[int]
) -> list[int] | None:
    """Returns the node of each bundle by Ray's strategy, and takes its GPUs; None without room.

    PACK fills one node after the other, SPREAD takes them in turn.
    """
    if strategy == "STRICT_PACK":
        wanted = sum(bundle.get("GPU", 0.0) for bundle in bundles)
        among = [node for node in among if free[node] >= wanted][:1]
    place: list[int] = []
    for number, bundle in enumerate(bundles):
        turn = number % len(among) if strategy.endswith("SPREAD") and among else 0
        order = [*among[turn:], *among[:turn]]
        if strategy == "STRICT_SPREAD":
            order = [node for node in order if node not in place]
        node = next((node for node in order if free[node] >= bundle.get("GPU", 0.0)), None)
        if node is None:
            return None
        free[node] -= bundle.get("GPU", 0.0)
        place.append(node)
    return place


def _loads(count: int, engines: Sequence[int], ranks: Sequence[int]) -> list[Load]:
    engines_on, ranks_on = Counter(engines), Counter(ranks)
    return [Load(engines_on[node], ranks_on[node]) for node in range(count)]


def _address(config: Config) -> str:
    return config.cluster.address or variable("RAY_ADDRESS") or "local"


def _existing(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
