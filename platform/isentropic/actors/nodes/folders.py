"""Looks from each node of the learner whether the run folder is the driver's."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from isentropic.actors.nodes.reserving import Place
from isentropic.actors.ray_runtime import worker_env
from isentropic.controller.protocols import WaitError

SEEN_S = 10.0  # until a network file system shows a new file everywhere
ANSWER_S = 120.0  # until a process on each node has looked


def check_shared(folder: Path, ranks: Sequence[Place]) -> None:
    """Writes a marker and lets the nodes of the ranks look for it: ranks write checkpoints there.

    Without this, a run on folders of one name on several disks would train until its first
    checkpoint, and that would miss the other nodes' parts.

    Raises:
        ValueError: names the nodes that do not see the folder.
        WaitError: a node did not answer.
    """
    nodes = {place.node for place in ranks} - {ray.get_runtime_context().get_node_id()}
    if not nodes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder.absolute() / f".seen-by-all-{uuid4().hex}"
    marker.touch()
    try:
        check_seen(marker, nodes)
    finally:
        marker.unlink()


def check_seen(marker: Path, nodes: Iterable[str]) -> None:
    """Raises ValueError unless a file is seen from all nodes, which are given by their ids."""
    answers = {
        node: _sees.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            runtime_env={"env_vars": worker_env(1)},
        ).remote(marker, SEEN_S)
        for node in nodes
    }
    try:
        seen = dict(zip(answers, ray.get(list(answers.values()), timeout=ANSWER_S), strict=True))
    except GetTimeoutError as error:
        raise WaitError(
            f"nodes did not say within {ANSWER_S:.0f} s whether they see {marker.parent}"
        ) from error
    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    if blind := sorted(names[node] for node in nodes if not seen[node]):
        raise ValueError(
            f"the run folder {marker.parent} of the driver is not that of {', '.join(blind)}, "
            "where learner ranks write their parts of checkpoints. Put it on storage that all "
            "nodes share (run.dir or ISENTROPIC_RUNS), or place the ranks on a node that has it "
            "(cluster.learner_label)."
        )


@ray.remote
def _sees(marker: Path, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while not marker.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
