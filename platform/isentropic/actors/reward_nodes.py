"""Reward workers on the other nodes of a cluster: one actor a node, which starts and ends them."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from isentropic.actors.ray_runtime import head_answers
from isentropic.actors.waiting import wait_all, wait_one
from isentropic.tasks.base import Task
from isentropic.tasks.grading.lanes import PlaceLost
from isentropic.tasks.grading.outcome import Outcome
from isentropic.tasks.grading.pool import START_S, RewardError, WorkerPool, spare_cpus
from isentropic.tasks.grading.rewards import RewardsConfig, make_pool
from isentropic.tasks.grading.worker import Item

# Beyond a check's own time: to start a worker in the place of one that hung, and for the way.
GRACE_S = START_S


@ray.remote(num_cpus=0)
class RewardActor:
    """The walled reward workers of one node. It reserves no CPUs, as those of the run itself."""

    def __init__(self) -> None:
        self._pool: WorkerPool | None = None

    async def start(self, task: bytes, config: RewardsConfig) -> tuple[int, str, str]:
        """Starts a first worker.

        Returns how many checks are made here at a time, what the workers are walled off by, and
        what keeps them from starting, "" for nothing.
        """
        try:
            self._pool = make_pool(pickle.loads(task), config, say=lambda wall: None)
            wall = await self._pool.start()
        except Exception as error:  # a module that this node lacks, a wall that it cannot build
            return 0, "", f"{type(error).__name__}: {error}"
        return self._pool.lanes, str(wall), ""

    async def check(self, batch: Sequence[Item], timeout_s: float) -> list[Outcome]:
        return await self._pool.check(batch, timeout_s)


class RewardNode:
    """Implements `tasks.grading.lanes.Place`."""

    def __init__(self, actor: Any, name: str, lanes: int) -> None:
        self._actor = actor
        self.name = name
        self.lanes = lanes

    async def check(self, batch: Sequence[Item], timeout_s: float) -> list[Outcome]:
        try:
            return await wait_one(
                self._actor.check.remote(list(batch), timeout_s),
                who="they",
                what="checking answers",
                timeout_s=timeout_s + GRACE_S,
            )
        except Exception as error:  # whatever it is: the answers are checked elsewhere
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PlaceLost(f"The reward workers of {self.name} are lost: {reason}.") from error

    def close(self) -> None:
        _end([self._actor])


async def start_reward_nodes(
    task: Task, config: RewardsConfig, *, timeout_s: float, say: Callable[[str], None]
) -> list[RewardNode]:
    """Starts reward workers on every node of the cluster that has CPUs, but this one.

    Args:
        say: gets what the workers of each node are walled off by.

    Raises:
        RewardError: a node cannot make the checks.
        WaitError: one did not answer within `timeout_s`.
    """
    nodes = _other_nodes(ray.get_runtime_context().get_node_id())
    if not nodes:
        return []
    names = [f"node {node['NodeManagerAddress']}" for node in nodes]
    actors = [
        RewardActor.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    ]
    packed, spares = (
        pickle.dumps(task),
        [spare_cpus(int(node["Resources"]["CPU"])) for node in nodes],
    )
    try:
        started = await wait_all(
            [
                actor.start.remote(packed, replace(config, workers=config.workers or spare))
                for actor, spare in zip(actors, spares, strict=True)
            ],
            who=names,
            what="starting reward workers",
            timeout_s=timeout_s,
        )
        for name, (_, wall, error) in zip(names, started, strict=True):
            if error:
                raise RewardError(
                    f"{name} cannot check answers: {error}\nEach node needs the task's code and "
                    "packages, in the same places. Put them there, or let the driver's node alone "
                    "check answers: rewards.nodes=driver."
                )
            say(f"reward checks on {name} are {wall}")
    except BaseException:
        _end(actors)
        raise
    return [
        RewardNode(actor, name, lanes)
        for actor, name, (lanes, _, _) in zip(actors, names, started, strict=True)
    ]


def _other_nodes(here: str) -> list[dict[str, Any]]:
    return [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU", 0) >= 1
    ]


def _end(actors: Sequence[Any]) -> None:
    # Without its head, Ray would hang here. The actors end with it.
    if head_answers():
        for actor in actors:
            ray.kill(actor)
