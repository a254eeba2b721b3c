"""Places runs on a cluster of two fake nodes of eight GPUs: in a process of its own, prints JSON.

A Ray can be joined only once in a process, and that of the tests may have one already.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import ray
from ray.cluster_utils import Cluster

from isentropic.actors.nodes import folders, reserving
from isentropic.actors.nodes.survey import marker_in, survey
from isentropic.actors.placement import plan

GPUS = 8


def layout_of(*, ranks, engines, tensor_parallel=1, **cluster):
    values = {
        "placement": "apart", "gpus_per_engine": 1.0, "gpus_per_rank": 1.0, "cpus_per_engine": 1.0,
        "cpus_per_rank": 1.0, "strategy": "PACK", "learner_label": None, "rollout_label": None,
        "startup_timeout_s": 120.0,
    }  # fmt: skip
    config = SimpleNamespace(**{**values, **cluster})
    rollout = SimpleNamespace(num_actors=engines, tensor_parallel=tensor_parallel)
    return plan(config, rollout, SimpleNamespace(num_ranks=ranks)), config


def counts(places, names):
    """How many of these places each node has, by the node's label."""
    found = {}
    for place in places:
        found[names[place.node]] = found.get(names[place.node], 0) + 1
    return dict(sorted(found.items()))


def placed(names, **wanted):
    try:
        places = reserving.place(*layout_of(**wanted))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found = {"ranks": counts(places.ranks, names), "engines": counts(places.engines, names)}
    places.release()
    while ray.available_resources().get("GPU", 0) < 2 * GPUS:
        time.sleep(0.05)
    return found


CASES = {
    "apart": {"ranks": 8, "engines": 8},
    "spread": {"ranks": 8, "engines": 8, "strategy": "SPREAD"},
    "ranks on a": {"ranks": 8, "engines": 8, "learner_label": "role:a"},
    "ranks on b": {"ranks": 8, "engines": 8, "learner_label": "role:b"},
    "engines on a": {"ranks": 8, "engines": 8, "rollout_label": "role:a"},
    "both labels": {"ranks": 4, "engines": 4, "learner_label": "role:b", "rollout_label": "role:a"},
    "tensor parallel": {"ranks": 8, "engines": 4, "tensor_parallel": 2},
    "half": {"ranks": 4, "engines": 4, "strategy": "SPREAD"},
    "engines beside the ranks": {"ranks": 4, "engines": 12},
    "two nodes of ranks": {"ranks": 12, "engines": 2, "tensor_parallel": 2},
    "shared": {"ranks": 8, "engines": 8, "placement": "shared", "gpus_per_engine": 0.5,
               "gpus_per_rank": 0.5, "strategy": "SPREAD"},
    # A wait for these would outlast the tests' own limit.
    "uneven": {"ranks": 9, "engines": 1, "startup_timeout_s": 3600.0},
    "no such label": {"ranks": 1, "engines": 1, "learner_label": "role:c",
                      "startup_timeout_s": 3600.0},
    "too many": {"ranks": 8, "engines": 9, "startup_timeout_s": 2.0},
}  # fmt: skip


def seen():
    """A folder that the ranks' node has, and a marker that it does not find."""
    places = reserving.place(*layout_of(ranks=8, engines=1))
    with tempfile.TemporaryDirectory() as folder:
        folders.check_shared(Path(folder), places.ranks)
        left = os.listdir(folder)
    try:
        folders.check_seen(Path(folder, "marker"), {places.ranks[0].node})
        return {"left": left, "error": ""}
    except ValueError as error:
        return {"left": left, "error": str(error)}


def surveyed():
    """What the doctor would ask all nodes."""
    with tempfile.TemporaryDirectory() as folder:
        with marker_in(Path(folder)) as marker:
            views = survey(marker, ["torch"])
        return {"views": [asdict(view) for view in views], "left": os.listdir(folder)}


def main() -> None:
    reserving.JOIN_S = 1.0
    folders.SEEN_S = 1.0
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for role in "ab":
            cluster.add_node(num_cpus=16, num_gpus=GPUS, labels={"role": role})
        ray.init(address=cluster.address, log_to_driver=False)
        names = {node["NodeID"]: node["Labels"].get("role", "head") for node in ray.nodes()}
        found = {name: placed(names, **wanted) for name, wanted in CASES.items()}
        found["folder"] = seen()
        found["survey"] = surveyed()
        print(json.dumps(found))
    finally:
        sys.stdout.flush()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main()
