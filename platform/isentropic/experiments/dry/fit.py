"""Whether a run fits its machine, and which settings would make it fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from isentropic.actors.placement import plan
from isentropic.config import Config
from isentropic.experiments.dry.machines import GIB, Load, Machine, spread
from isentropic.experiments.dry.memory import (
    OBJECT_STORE_SHARE,
    SHM_SHARE,
    Needs,
    cache_bytes_per_token,
    find_needs,
    gpu_bytes,
    host_parts,
    object_store,
)
from isentropic.experiments.dry.work import Disk, Work
from isentropic.experiments.settings.checks import gpus_needed

Change = tuple[str, Any]
WAYS = 3  # named at most
ARTICLE = {"rank": "a", "engine": "an", "rank and engine": "a"}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A run on its machine, as far as both are known."""

    config: Config
    model: PretrainedConfig
    work: Work
    machine: Machine
    whole: bool = False  # each rank loads the whole model on its host

    @property
    def needs(self) -> Needs:
        return find_needs(self.config, self.model, self.work, whole=self.whole)

    @property
    def loads(self) -> list[Load] | None:
        """What each node carries; None if it does not go."""
        try:
            return self.place()
        except ValueError:
            return None

    def place(self) -> list[Load] | None:
        """As `loads`; raises ValueError if a run would be refused for how it would have to lie."""
        cluster, rollout, learner = self.config.cluster, self.config.rollout, self.config.learner
        return spread(plan(cluster, rollout, learner), self.machine, cluster.strategy)

    def changed(self, changes: Sequence[Change]) -> "Placed":
        config = self.config
        for key, value in changes:
            section, _, name = key.partition(".")
            config = replace(
                config, **{section: replace(getattr(config, section), **{name: value})}
            )
        return replace(self, config=config)


def find_problems(placed: Placed, disk: Disk) -> list[str]:
    """Says what does not fit, each with the settings that would make it fit."""
    problems = [_too_few_gpus(placed), *_gpus_too_small(placed), _cache_too_small(placed)]
    problems += [_host_too_small(placed), _store_too_small(placed), _disk_too_small(placed, disk)]
    return [problem for problem in problems if problem]


def node_bytes(placed: Placed) -> list[dict[str, int]]:
    """Bytes of each node's memory by what they are for; the driver is on the first."""
    loads = placed.loads or []
    needs = placed.needs
    return [
        host_parts(placed.config, needs, load, is_head=number == 0)
        for number, load in enumerate(loads)
    ]


def store_bytes(placed: Placed) -> int | None:
    """Bytes of each node's object store; None if the node is not known."""
    if placed.machine.store_bytes is not None:
        return placed.machine.store_bytes
    given = placed.config.cluster.object_store_gib
    if given is not None:
        return int(given * GIB)
    machine = placed.machine
    if machine.host_bytes is None or machine.shm_bytes is None:
        return None
    return int(min(OBJECT_STORE_SHARE * machine.host_bytes, SHM_SHARE * machine.shm_bytes))


def _too_few_gpus(placed: Placed) -> str | None:
    machine = placed.machine
    # On this machine others judge it.
    was_asked = machine.store_bytes is not None
    is_known = placed.config.cluster.assume is not None or was_asked
    if not is_known:
        return None
    try:
        if placed.place() is not None:
            return None
    except ValueError as error:
        return str(error)
    config = placed.config
    ways = _ways_out(placed, _fewer(config), lambda other: other.loads is not None)
    return (
        f"the run needs {gpus_needed(config):g} GPUs ({config.learner.num_ranks} ranks and "
        f"{config.rollout.num_actors} engines of {config.rollout.tensor_parallel}, each whole on "
        f"one node, ranks on as few as hold them), {'the cluster' if was_asked else 'cluster.assume'} has "
        f"{machine.nodes} x {machine.gpus}. {ways}"
    )


def _gpus_too_small(placed: Placed) -> list[str]:
    capacity = placed.machine.gpu_bytes
    if capacity is None or not placed.config.cluster.gpus_per_rank:
        return []
    changes = {"rank": _for_the_rank, "engine": _for_the_engine}
    changes["rank and engine"] = lambda placed: [*_for_the_rank(placed), *_for_the_engine(placed)]
    problems = []
    for whose, size in gpu_bytes(placed.config, placed.needs).items():
        if size <= capacity:
            continue

        def holds(other: Placed, whose: str = whose) -> bool:
            fits = gpu_bytes(other.config, other.needs)[whose] <= capacity
            return fits and _cache_too_small(other) is None and other.loads is not None

        problems.append(
            f"the GPU of {ARTICLE[whose]} {whose} needs about {gib(size)}, it has {gib(capacity)}. "
            f"{_ways_out(placed, changes[whose](placed), holds)}"
        )
    return problems


def _cache_too_small(placed: Placed) -> str | None:
    tokens, longest = placed.needs.cache_tokens, placed.config.model.max_length
    if tokens is None or tokens >= longest:
        return None
    per_token = cache_bytes_per_token(placed.model, placed.config) or 0
    return (
        f"rollout.kv_cache_gib={placed.config.rollout.kv_cache_gib:g} holds {tokens} tokens, fewer "
        f"than the {longest} of model.max_length: the engine would not start. Set "
        f"rollout.kv_cache_gib={_rounded_up(longest * per_token / GIB)} or more, or a smaller "
        "model.max_length."
    )


def _host_too_small(placed: Placed) -> str | None:
    capacity = placed.machine.host_bytes
    nodes = [sum(parts.values()) for parts in node_bytes(placed)]
    if capacity is None or not nodes or max(nodes) <= capacity:
        return None
    worst = nodes.index(max(nodes))
    load = (placed.loads or [])[worst]
    ways = _ways_out(
        placed,
        _for_the_host(placed.config),
        lambda other: (
            bool(other.loads)
            and max(sum(parts.values()) for parts in node_bytes(other)) <= capacity
        ),
    )
    return (
        f"node {worst + 1}, with {load.engines} engines and {load.ranks} ranks, needs about "
        f"{gib(nodes[worst])} of host memory, it has {gib(capacity)}. {ways} More nodes help too."
    )


def _store_too_small(placed: Placed) -> str | None:
    store, needed = store_bytes(placed), object_store(placed.config, placed.needs)
    if store is None or store >= needed:
        return None
    if placed.machine.store_bytes is None:
        setting = f"set cluster.object_store_gib={_rounded_up(needed / GIB)}"
    else:
        setting = f"start its Ray with --object-store-memory={needed}"
    return (
        f"Ray's object store on each node needs {gib(needed)} of /dev/shm for the weights (those of "
        f"two versions), it gets {gib(store)}. Give the node a /dev/shm of "
        f"{gib(needed / SHM_SHARE)} or more and {setting}, or set rollout.dtype=bfloat16."
    )


def _disk_too_small(placed: Placed, disk: Disk) -> str | None:
    free = placed.machine.disk_bytes
    if free is None or disk.total <= free:
        return None
    return (
        f"the run folder {placed.config.run.dir} grows to about {gib(disk.total)} (ledger "
        f"{gib(disk.ledger)}, checkpoints {gib(disk.checkpoints)}), free are {gib(free)}. Set "
        "checkpoint.keep_best=0 or checkpoint.keep_last=1, fewer run.steps, or a run.dir on a "
        "larger disk."
    )


def _ways_out(placed: Placed, changes: Sequence[Change], holds: Callable[[Placed], bool]) -> str:
    """Names changes that are each enough, or the first that are enough together."""

    def enough(some: Sequence[Change]) -> bool:
        try:
            return holds(placed.changed(some))
        except ValueError:  # of a config that does not allow them
            return False

    alone = [change for change in changes if enough([change])]
    if alone:
        return f"Set {' or '.join(f'{key}={value}' for key, value in alone[:WAYS])}."
    for count in range(2, len(changes) + 1):
        if enough(changes[:count]):
            return f"Set together {' '.join(f'{key}={value}' for key, value in changes[:count])}."
    return "No setting is enough by itself: use more or larger GPUs, or a smaller model."


def _fewer(config: Config) -> list[Change]:
    rollout, learner = config.rollout, config.learner
    return [
        (key, value)
        for key, value in (
            ("rollout.num_actors", rollout.num_actors // 2),
            ("learner.num_ranks", learner.num_ranks // 2),
            ("rollout.tensor_parallel", rollout.tensor_parallel // 2),
        )
        if value >= 1
    ]


def _for_the_rank(placed: Placed) -> list[Change]:
    learner, rollout = placed.config.learner, placed.config.rollout
    longest = rollout.max_prompt_tokens + rollout.max_response_tokens
    changes: list[Change] = []
    if not learner.gradient_checkpointing:
        changes.append(("learner.gradient_checkpointing", True))
    if placed.needs.rank.unsharded:
        changes.append(("learner.unsharded_gradient_gib", 0.0))
    if learner.microbatch_tokens > longest:
        changes.append(("learner.microbatch_tokens", max(longest, learner.microbatch_tokens // 2)))
    changes.append(("learner.num_ranks", 2 * learner.num_ranks))
    changes.append(("rollout.max_response_tokens", rollout.max_response_tokens // 2))
    return changes


def _for_the_engine(placed: Placed) -> list[Change]:
    rollout, shared = placed.config.rollout, placed.config.cluster.placement == "shared"
    changes: list[Change] = []
    over = max(gpu_bytes(placed.config, placed.needs).values()) - (placed.machine.gpu_bytes or 0)
    less = int(rollout.kv_cache_gib - over / GIB)
    if less >= 1:
        changes.append(("rollout.kv_cache_gib", float(less)))
    if not shared:
        changes.append(("rollout.tensor_parallel", 2 * rollout.tensor_parallel))
    return changes


def _for_the_host(config: Config) -> list[Change]:
    changes = _fewer(config)
    if not config.cluster.gpus_per_rank:
        halved = config.rollout.kv_cache_gib / 2
        changes = [
            ("learner.microbatch_tokens", max(1, config.learner.microbatch_tokens // 2)),
            ("rollout.kv_cache_gib", halved),
            *changes,
        ]
    return changes


def gib(count: float) -> str:
    return f"{count / GIB:,.2f} GiB" if count < 100 * GIB else f"{count / GIB:,.0f} GiB"


def _rounded_up(value: float) -> str:
    return f"{-(-value * 10 // 1) / 10:g}"
