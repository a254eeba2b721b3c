"""Starts all actors of a run, and ends them."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from isentropic.actors.engine_handle import EngineHandle
from isentropic.actors.learner_actor import LearnerActor, MakeLearner
from isentropic.actors.learner_group import RayLearnerGroup
from isentropic.actors.nodes.folders import check_shared
from isentropic.actors.nodes.reserving import Place, Places, place
from isentropic.actors.placement import Plan, check_node, plan, sharing_cpus
from isentropic.actors.ray_runtime import head_answers, start_ray, stop_ray, worker_env
from isentropic.actors.rollout_actor import RolloutActor
from isentropic.actors.rollout_pool import RayRolloutPool
from isentropic.actors.transport.broadcast import Route
from isentropic.actors.waiting import wait_all
from isentropic.config import ClusterConfig, LearnerConfig, RolloutConfig
from isentropic.controller.protocols import (
    LearnerGroup,
    LearnerLost,
    NotStarted,
    RolloutPool,
    WaitError,
)
from isentropic.rollout import ENGINES, Engine
from isentropic.shared_gpu.turns import start_in_turn, taking_turns

log = logging.getLogger(__name__)

# Of one thread: of two runs that reserve at once, each may hold what the other waits for. And not
# asyncio's own threads: a run that ends, and makes room, needs those.
RESERVING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reserving")


@dataclass
class Actors:
    """What a run talks to. `close` ends every process that was started for it."""

    pool: RolloutPool
    learner: LearnerGroup
    engines: RayRolloutPool  # behind `pool`
    places: Places
    own_ray: bool
    shared: bool  # engines and ranks on the same GPUs
    make_learner_group: Callable[[], RayLearnerGroup]
    startup_timeout_s: float

    async def restart_learner(self) -> None:
        """New ranks in the places of the old ones, built as those were; the engines stay."""
        self.learner.close()
        if self.shared:
            await self.engines.sleep()
        ranks = self.make_learner_group()
        self.pool, self.learner = _sides(self.engines, ranks, shared=self.shared)
        await ranks.setup(self.startup_timeout_s)

    def close(self) -> None:
        # Without its head, Ray hangs for a minute in these calls and then ends this process.
        if head_answers():
            self.engines.close()
            self.learner.close()
            self.places.release()
        if self.own_ray:
            stop_ray()


async def start_actors(
    cluster: ClusterConfig,
    rollout: RolloutConfig,
    learner: LearnerConfig,
    *,
    make_engine: Callable[[], Engine],
    make_learner: MakeLearner,
    folder: Path | None = None,
    transport: str = "objects",
) -> Actors:
    """Starts engines and ranks, in parallel unless they share GPUs.

    Raises ValueError or NotStarted that says what could not be had. `make_engine` and `make_learner`
    are pickled: a `functools.partial` of the class and plain values. `folder`, if given, must be
    seen by all ranks.
    """
    layout = plan(cluster, rollout, learner)
    own_ray = ray.is_initialized() is False and start_ray(cluster, num_cpus=layout.num_cpus)
    if not own_ray:
        layout = sharing_cpus(layout)
    check_node(layout, rollout.tensor_parallel)
    with start_explained():
        reserved = await _reserved(layout, cluster, folder)
    variables = ENGINES[rollout.engine].environment(cluster.engine_device)
    env = worker_env(layout.engine["CPU"] / rollout.tensor_parallel, **variables)
    handles = _engines(layout, reserved, cluster, make_engine, env)
    engines = RayRolloutPool(
        handles,
        max_num_seqs=rollout.max_num_seqs,
        timeout_s=rollout.timeout_s,
        max_restarts=cluster.max_restarts,
    )

    def learner_group() -> RayLearnerGroup:
        wheres = [_where(spot, layout.rank) for spot in reserved.ranks]
        ranks = start_ranks(make_learner, wheres, own_ray=own_ray)
        return RayLearnerGroup(
            ranks,
            dtype=rollout.dtype,
            timeout_s=learner.timeout_s,
            context_parallel=learner.context_parallel,
            route=_route(transport, ranks, cluster, rollout),
        )

    shared = cluster.placement == "shared"
    timeout_s = cluster.startup_timeout_s
    ranks = learner_group()
    pool, in_turn = _sides(engines, ranks, shared=shared)
    actors = Actors(pool, in_turn, engines, reserved, own_ray, shared, learner_group, timeout_s)
    try:
        with start_explained():
            await _until_started(handles, engines, ranks, timeout_s, shared=shared)
    except BaseException:
        actors.close()
        raise
    return actors


async def _until_started(
    handles: Sequence[EngineHandle],
    engines: RayRolloutPool,
    ranks: RayLearnerGroup,
    timeout_s: float,
    *,
    shared: bool,
) -> None:
    started = wait_all(
        [handle.actor.health.remote() for handle in handles],
        who=[handle.name for handle in handles],
        what="starting the engine",
        timeout_s=timeout_s,
    )
    if shared:
        await start_in_turn(started, engines, lambda: ranks.setup(timeout_s))
    else:
        await asyncio.gather(ranks.setup(timeout_s), started)


@contextmanager
def start_explained() -> Iterator[None]:
    """Turns a missed deadline of the start into NotStarted: nothing is lost yet."""
    try:
        yield
    except (WaitError, LearnerLost) as error:
        # A rank that died, for lack of memory say, would die again.
        if not isinstance(error, WaitError) and not isinstance(error.__cause__, WaitError):
            raise
        raise NotStarted(
            f"{error}\nThe run did not start. Give the same command again when the machine or "
            "cluster is less busy, or allow more time with cluster.startup_timeout_s."
        ) from error


def _sides(
    engines: RayRolloutPool, ranks: RayLearnerGroup, *, shared: bool
) -> tuple[RolloutPool, LearnerGroup]:
    return taking_turns(engines, ranks) if shared else (engines, ranks)


async def _reserved(layout: Plan, cluster: ClusterConfig, folder: Path | None) -> Places:
    """Reserves the places in a thread: other runs of this process go on while it waits for room."""
    given_up = threading.Event()

    def reserve() -> Places:
        places = place(layout, cluster, given_up)
        if folder is not None:
            _check_folder(folder, places)
        return places

    work = RESERVING.submit(reserve)
    waiting = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        given_up.set()
        # Begun, it cannot be cancelled: what it has by then goes back.
        if not work.cancel():
            await asyncio.wait([waiting])
            if work.exception() is None:
                work.result().release()
        raise


def _check_folder(folder: Path, reserved: Places) -> None:
    try:
        check_shared(folder, reserved.ranks)
    except BaseException:
        reserved.release()
        raise


def _engines(
    layout: Plan,
    reserved: Places,
    cluster: ClusterConfig,
    make_engine: Callable[[], Engine],
    env: dict[str, str],
) -> list[EngineHandle]:
    handles = []
    for index, spot in enumerate(reserved.engines):
        actor = RolloutActor.options(
            **_where(spot, layout.engine),
            runtime_env={"env_vars": env},
            max_restarts=-1,
            max_task_retries=0,
        ).remote(make_engine, cluster.placement == "shared")
        handles.append(
            EngineHandle(
                actor, index, startup_s=cluster.startup_timeout_s, health_s=cluster.health_timeout_s
            )
        )
    return handles


def start_ranks(
    make_learner: MakeLearner, places: Sequence[dict[str, Any]], *, own_ray: bool
) -> list[Any]:
    """Starts one `LearnerActor` per place, which is Ray's options for it."""
    # On a Ray of our own all ranks are on this machine; on its other interfaces they may not meet.
    chosen = not own_ray or "GLOO_SOCKET_IFNAME" in os.environ
    interface = {} if chosen else {"GLOO_SOCKET_IFNAME": "lo"}
    env = worker_env(places[0]["num_cpus"], **interface)
    return [
        LearnerActor.options(**place, runtime_env={"env_vars": env}, max_restarts=0).remote(
            make_learner, len(places)
        )
        for place in places
    ]


def _route(
    transport: str, ranks: Sequence[Any], cluster: ClusterConfig, rollout: RolloutConfig
) -> Route | None:
    if transport == "objects":
        return None
    # NCCL does not connect two processes on one GPU, and neither needs a copy on the host.
    if cluster.placement == "shared":
        return Route(ranks[0], backend="ipc", processes=1, senders=len(ranks))
    on_gpus = cluster.gpus_per_engine > 0 and cluster.gpus_per_rank > 0
    backend = "nccl" if on_gpus else "gloo"
    return Route(ranks[0], backend=backend, processes=rollout.tensor_parallel)


def _where(spot: Place, resources: dict[str, float]) -> dict:
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=spot.group, placement_group_bundle_index=spot.bundle
    )
    return {
        "num_cpus": resources["CPU"],
        "num_gpus": resources.get("GPU", 0),
        "scheduling_strategy": strategy,
    }
