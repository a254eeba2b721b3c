"""How many runs of a sweep there is room for at once."""

from collections.abc import Iterable

import ray

from isentropic.actors.placement import Resources, plan, total
from isentropic.config import Config


def largest(configs: Iterable[Config]) -> Resources:
    """Return what a run takes at most, of each resource by itself: any lane may get any run."""
    needed: Resources = {}
    for config in configs:
        for name, amount in total(
            plan(config.cluster, config.rollout, config.learner).bundles
        ).items():
            needed[name] = max(needed.get(name, 0), amount)
    return needed


def room_for(needed: Resources) -> int:
    """Return how many runs of this size the cluster holds at once, at least one."""
    has = ray.cluster_resources()
    return max(1, int(min(has.get(name, 0) / amount for name, amount in needed.items() if amount)))
