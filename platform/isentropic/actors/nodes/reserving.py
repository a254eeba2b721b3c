"""Reserves the places of a run: ranks close together, engines elsewhere, with a deadline."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from isentropic.actors.placement import (
    Node,
    Plan,
    Resources,
    alive_nodes,
    bundles_by_node,
    fitting,
    summary,
    total,
)
from isentropic.config import ClusterConfig
from isentropic.controller.protocols import WaitError

JOIN_S = 30.0  # for how long a label is waited for that no node has: nodes may still join
NODE_ID = "ray.io/node-id"  # the label that Ray gives each node
LOOK_S = 1.0  # after so long, a wait for room looks whether it is still wanted


@dataclass(frozen=True)
class Place:
    """A reserved bundle."""

    group: PlacementGroup
    bundle: int

    @property
    def node(self) -> str:
        return placement_group_table(self.group)["bundles_to_node_id"][self.bundle]


@dataclass
class Places:
    """Where engines and ranks go, all of it reserved."""

    engines: list[Place] = field(default_factory=list)
    ranks: list[Place] = field(default_factory=list)
    groups: list[PlacementGroup] = field(default_factory=list)
    given_up: threading.Event = field(default_factory=threading.Event)  # nobody wants them any more

    def release(self) -> None:
        for group in self.groups:
            remove_placement_group(group)

    def reserve(
        self, what: str, bundles: Sequence[Resources], deadline: float, **options: Any
    ) -> list[Place]:
        """Waits for one more group; raises TimeoutError with `what` at the deadline, or given up."""
        group = placement_group(list(bundles), **options)
        self.groups.append(group)
        while not group.wait(LOOK_S):
            if self.given_up.is_set() or time.monotonic() >= deadline:
                raise TimeoutError(what)
        return [Place(group, index) for index in range(len(bundles))]


def place(layout: Plan, cluster: ClusterConfig, given_up: threading.Event | None = None) -> Places:
    """Reserves what a run needs: first the ranks, then the engines. Call this in a thread: it waits.

    Ranks go to as few nodes as hold them, the same number on each. Engines go to other nodes if
    these have room now, else beside the ranks. A lost node's bundles may move to another one.

    given_up: ends the wait as the deadline does.

    Raises:
        ValueError: ranks cannot be split evenly over the nodes, or no node has a label.
        WaitError: says what is missing and what the cluster has.
    """
    start = time.monotonic()
    check_labels(cluster)
    places = Places(given_up=given_up or threading.Event())
    try:
        if set(layout.engines) & set(layout.ranks):
            _place_shared(places, layout, cluster, start + cluster.startup_timeout_s)
        else:
            _place_apart(places, layout, cluster, start + cluster.startup_timeout_s)
        _check_even(layout, places)
    except TimeoutError as error:
        places.release()
        raise WaitError(
            f"the cluster could not place {summary(layout)} with cluster.strategy="
            f"{cluster.strategy} within {time.monotonic() - start:.0f} s: no room for {error}. "
            f"{_missing(layout, places, cluster)} Use fewer or smaller engines and ranks "
            "(rollout.num_actors, learner.num_ranks, cluster.gpus_per_*), or add nodes."
        ) from error
    except BaseException:
        places.release()
        raise
    return places


def check_labels(cluster: ClusterConfig) -> None:
    """Raises ValueError if a label is set that no node has; one may still join for a while."""
    deadline = time.monotonic() + JOIN_S
    for key in ("learner_label", "rollout_label"):
        wanted = selector(getattr(cluster, key))
        while not any(_has(node, wanted) for node in alive_nodes()):
            if time.monotonic() > deadline:
                labels = [item for node in alive_nodes() for item in node["Labels"].items()]
                have = {":".join(label) for label in labels if not label[0].startswith("ray.io/")}
                raise ValueError(
                    f"no node of this Ray has the label of cluster.{key}={getattr(cluster, key)}; "
                    f"the nodes have {', '.join(sorted(have)) or 'none'}. Start nodes with it "
                    "(ray start --labels=name=value), or set it to null."
                )
            time.sleep(0.5)


def selector(label: str | None) -> dict[str, str]:
    """Returns a label "name:value" as Ray wants it; {} for None."""
    if label is None:
        return {}
    name, _, value = label.partition(":")
    return {name: value}


def _place_apart(places: Places, layout: Plan, cluster: ClusterConfig, deadline: float) -> None:
    nodes, near = _for_ranks(layout, cluster)
    bundles, bundle_of = bundles_by_node(layout, nodes)
    whole = len(bundles) < len(layout.ranks) or len(bundles) == 1
    each = len(layout.ranks) // len(bundles)
    reserved = places.reserve(
        f"{len(layout.ranks)} learner ranks, {each} of them on one node",
        bundles,
        deadline,
        strategy="STRICT_SPREAD" if whole else cluster.strategy,
        bundle_label_selector=[near] * len(bundles),
    )
    places.ranks = [reserved[bundle] for bundle in bundle_of]
    engines = [layout.engine] * len(layout.engines)
    far = _elsewhere(layout, places, cluster) | selector(cluster.rollout_label)
    places.engines = places.reserve(
        f"{len(engines)} engines",
        engines,
        deadline,
        strategy=cluster.strategy,
        bundle_label_selector=[far] * len(engines),
    )


def _place_shared(places: Places, layout: Plan, cluster: ClusterConfig, deadline: float) -> None:
    """A bundle is a GPU here: one that held a node's ranks would not say which engine is beside."""
    near = selector(cluster.learner_label)
    wanted = total(layout.bundles)
    one_node = any(fitting(wanted, node["Resources"]) for node in alive_nodes() if _has(node, near))
    reserved = places.reserve(
        "engines and ranks that share GPUs" + (", all on one node" if one_node else ""),
        layout.bundles,
        deadline,
        strategy="STRICT_PACK" if one_node else cluster.strategy,
        bundle_label_selector=[near] * len(layout.bundles),
    )
    places.engines = [reserved[bundle] for bundle in layout.engines]
    places.ranks = [reserved[bundle] for bundle in layout.ranks]


def _for_ranks(layout: Plan, cluster: ClusterConfig) -> tuple[list[Node], dict[str, str]]:
    """Returns the nodes that may hold ranks, and what selects them.

    Without a label of their own, ranks keep off the engines' nodes if the others can hold them.
    """
    near, engines = selector(cluster.learner_label), selector(cluster.rollout_label)
    if not near and engines:
        others = [node for node in alive_nodes() if not _has(node, engines)]
        if sum(fitting(layout.rank, node["Resources"]) for node in others) >= len(layout.ranks):
            return others, {name: f"!{value}" for name, value in engines.items()}
    return [node for node in alive_nodes() if _has(node, near)], near


def _elsewhere(layout: Plan, places: Places, cluster: ClusterConfig) -> dict[str, str]:
    """Selects the nodes without ranks, if they have room for all engines now; else {}."""
    taken = {place.node for place in places.ranks}
    wanted = selector(cluster.rollout_label)
    free = available_resources_per_node()
    room = sum(
        fitting(layout.engine, free.get(node["NodeID"], {}))
        for node in alive_nodes()
        if node["NodeID"] not in taken and _has(node, wanted)
    )
    return {NODE_ID: f"!in({','.join(sorted(taken))})"} if room >= len(layout.engines) else {}


def _check_even(layout: Plan, places: Places) -> None:
    """Raises ValueError if Ray put unequal numbers of ranks with GPUs on nodes."""
    counts = sorted(Counter(place.node for place in places.ranks).values())
    if layout.rank.get("GPU", 0) and len(set(counts)) > 1:
        raise ValueError(
            f"learner.num_ranks={len(places.ranks)}: the free nodes hold {counts} ranks, and every "
            "layer would wait for the fullest. Start again when whole nodes are free, name them "
            "with cluster.learner_label, or use as many ranks as split evenly."
        )


def _has(node: Node, wanted: dict[str, str]) -> bool:
    return all(node["Labels"].get(name) == value for name, value in wanted.items())


def _missing(layout: Plan, places: Places, cluster: ClusterConfig) -> str:
    """Compares the plan with the whole cluster, what was free for it, and the largest node."""
    has = ray.cluster_resources()
    free = Counter(ray.available_resources())
    for group in places.groups[:-1]:  # the last one was waited for in vain
        for bundle in group.bundle_specs:
            free.update(bundle)
    lines = []
    for name, amount in total(layout.bundles).items():
        largest = max((node["Resources"].get(name, 0) for node in alive_nodes()), default=0)
        bundle = max(bundle.get(name, 0) for bundle in layout.bundles)
        text = (
            f"Of {name} the cluster has {has.get(name, 0):g}, {free.get(name, 0):g} free, "
            f"{largest:g} on one node"
        )
        short = max(amount - free.get(name, 0), bundle - largest, 0)
        lines.append(f"{text}; {amount:g} are wanted" + (f": {short:g} missing." if short else "."))
    for key in ("learner_label", "rollout_label"):
        if label := getattr(cluster, key):
            count = sum(_has(node, selector(label)) for node in alive_nodes())
            lines.append(f"cluster.{key}={label} allows {count} nodes.")
    return " ".join(lines)
