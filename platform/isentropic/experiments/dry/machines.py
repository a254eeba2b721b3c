"""The machine that a dry run plans for, and which engines and ranks come to lie on which node."""

import os
from collections import Counter
from dataclasses import dataclass

import psutil
import torch

from isentropic.actors.placement import Plan
from isentropic.config import Config
from isentropic.folders import variable

GIB = 2**30
SMALL_GPU_GIB = 24
SHM = "/dev/shm"


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
    if (config.cluster.address or variable("RAY_ADDRESS") or "local") != "local":
        return Machine(
            name="a cluster that was not asked; cluster.assume={nodes: 2, gpus: 8, gpu_gib: 80, "
            "host_gib: 1000} plans for one",
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
    """Puts the bundles on the nodes as Ray's strategy would; None if there are too few GPUs.

    PACK fills one node after the other, SPREAD takes them in turn. Ray may choose other nodes for
    the same bundles: it promises no order.
    """
    nodes = machine.nodes or 1
    uses_gpus = any(bundle.get("GPU") for bundle in layout.bundles)
    free = [float(machine.gpus) if uses_gpus else float("inf")] * nodes
    place: dict[int, int] = {}
    turn = 0
    for number, bundle in enumerate(layout.bundles):
        wanted = bundle.get("GPU", 0.0)
        order = [(turn + step) % nodes for step in range(nodes)]
        if not strategy.endswith("SPREAD"):
            order.sort()
        node = next((node for node in order if free[node] >= wanted), None)
        if node is None:
            return None
        free[node] -= wanted
        place[number] = node
        turn = node + 1
    engines = Counter(place[bundle] for bundle in layout.engines)
    ranks = Counter(place[bundle] for bundle in layout.ranks)
    return [Load(engines[node], ranks[node]) for node in range(nodes)]


def _existing(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
