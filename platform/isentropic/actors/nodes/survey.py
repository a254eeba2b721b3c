"""Asks every node of a Ray what a run would find there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from isentropic.actors.nodes import look
from isentropic.actors.placement import Node, alive_nodes
from isentropic.actors.ray_runtime import SOURCE_ROOT

ANSWER_S = 60.0  # until a process on each node has started and looked
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """What one node has; what follows `answered` was seen by a process there."""

    name: str
    gpus: int  # that Ray was told of
    host_gib: float  # that Ray may use, its object store in it
    object_store_gib: float
    answered: bool
    gpu_devices: int = 0  # of the machine
    gpu_name: str = ""  # of the first; "" without nvidia-smi
    gpu_gib: float = 0.0
    versions: dict[str, str | None] | None = None  # of Python and packages; None: not installed
    code: str | None = None  # digest of this code, at the path that it has here; None: not there
    sees_runs: bool = False
    shm_gib: float = 0.0  # free in /dev/shm
    interfaces: tuple[str, ...] = ()
    interface: str = ""  # from which it reaches the head; "" if not known
    variables: dict[str, str] | None = None  # those asked for that are set


def survey(
    marker: Path | None = None, packages: Sequence[str] = (), variables: Sequence[str] = ()
) -> list[NodeView]:
    """Looks at every node, in a process there; the Ray must have been joined.

    What looks is sent as it stands and needs nothing of this project: a node that lacks it says so.

    Args:
        marker: a file of this machine that is looked for there.
        packages, variables: whose versions and values are wanted.
    """
    head = ray.get_runtime_context().gcs_address
    arguments = (
        marker and str(marker.absolute()),
        SOURCE_ROOT,
        head,
        list(packages),
        list(variables),
    )
    cloudpickle.register_pickle_by_value(look)
    remote = ray.remote(look.look_around)
    nodes = alive_nodes()
    answers = {
        remote.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(*arguments): node
        for node in nodes
    }
    ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
    names = _names(nodes)
    return [_view(node, names[node["NodeID"]], answer) for answer, node in answers.items()]


@contextmanager
def marker_in(folder: Path) -> Iterator[Path]:
    """Yields a new file in the folder, which is made; takes the file away again."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".seen-by-all-{uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink()


def _names(nodes: Sequence[Node]) -> dict[str, str]:
    """Returns a name per node id: the host's, with a number if several nodes have one host."""
    hosts = [node["NodeManagerHostname"] for node in nodes]
    return {
        node["NodeID"]: host if hosts.count(host) == 1 else f"{host}#{number}"
        for number, (node, host) in enumerate(zip(nodes, hosts, strict=True))
    }


def _view(node: Node, name: str, answer: Any) -> NodeView:
    resources = node["Resources"]
    known = {
        "name": name,
        "gpus": int(resources.get("GPU", 0)),
        "host_gib": (resources.get("memory", 0) + resources.get("object_store_memory", 0)) / GIB,
        "object_store_gib": resources.get("object_store_memory", 0) / GIB,
    }
    try:
        return NodeView(answered=True, **known, **ray.get(answer, timeout=0))
    except ray.exceptions.RayError:
        return NodeView(answered=False, **known)
