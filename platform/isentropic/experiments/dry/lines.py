"""The plan of a run, as lines of text."""

import os
from collections.abc import Sequence

from transformers import PretrainedConfig

from isentropic.actors.placement import plan
from isentropic.config import Config
from isentropic.experiments.dry.fit import ARTICLE, Placed, gib, node_bytes, store_bytes
from isentropic.experiments.dry.memory import cache_bytes_per_token, gpu_bytes, object_store
from isentropic.experiments.dry.work import (
    ANSWER_SHARE,
    DECODE_SHARE,
    EVALUATION_SHARE,
    MFU,
    Disk,
    Times,
    Work,
    estimate_times,
)
from isentropic.learner.estimate import RankBytes, count_trained
from isentropic.learner.model import count_parameters

INDENT = " " * 11
HOUR = 3600


def model_line(config: Config, model: PretrainedConfig) -> str:
    text = model.get_text_config(decoder=True)
    lora = config.learner.lora
    adapters = ""
    if lora is not None:
        trained = count_trained(model, lora) / 1e6
        adapters = f"; trained are adapters of rank {lora.rank}, {trained:,.2f} M parameters"
    return (
        f"model      {config.model.name} ({config.model.path}): "
        f"{count_parameters(model) / 1e6:,.1f} M parameters, "
        f"{model.model_type}, {text.num_hidden_layers} layers, vocabulary {text.vocab_size}, "
        f"window used {config.model.max_length} tokens{adapters}"
    )


def step_lines(config: Config) -> list[str]:
    rollout, learner = config.rollout, config.learner
    slots = {
        name: getattr(config, name).name
        for name in ("objective", "filter", "advantage", "sampling", "reduction")
    }
    return [
        f"method     {', '.join(f'{slot} {choice}' for slot, choice in slots.items())}",
        f"step       {rollout.prompts_per_step} prompts x {rollout.group_size} samples, at most "
        f"{rollout.max_response_tokens} tokens each; {learner.updates_per_rollout} updates",
        f"run        {config.run.steps} steps, seed {config.seed}, in {config.run.dir}",
    ]


def plan_lines(placed: Placed, disk: Disk, *, fits: bool, unseen: Sequence[str] = ()) -> list[str]:
    """Placement, memory by GPU and node, answers and tokens, disk, time.

    Args:
        unseen: what is not on this machine, so that nobody looked whether it is right.
    """
    lines = [*_placement(placed), *_rank(placed), *_engine(placed), *_gpu(placed), *_nodes(placed)]
    lines += [*_work(placed.config, placed.work), _disk(placed, disk), *_time(placed)]
    verdict = "fits" if fits else "DOES NOT FIT"
    not_seen = f" ({' and '.join(unseen)} not seen)" if unseen else ""
    return [*lines, f"verdict    {verdict}{not_seen}, {placed.machine.name}"]


def _placement(placed: Placed) -> list[str]:
    config = placed.config
    layout = plan(config.cluster, config.rollout, config.learner)
    gpus = sum(bundle.get("GPU", 0) for bundle in layout.bundles)
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    where = address or "a Ray of this machine"
    few = not address and layout.num_cpus > (os.cpu_count() or 1)
    shared = " (processes share the cores)" if few else ""
    lines = [
        f"placement  {config.rollout.num_actors} engine(s) (tensor parallel "
        f"{config.rollout.tensor_parallel}), {config.learner.num_ranks} learner ranks, "
        f"{config.cluster.placement}, on {where}",
        f"{INDENT}needs {layout.num_cpus:g} logical CPUs{shared} and {gpus:g} GPUs; "
        f"{placed.machine.name}",
    ]
    if placed.loads and placed.machine.nodes and placed.machine.nodes > 1:
        loads = (
            f"node {number}: {load.engines} engines, {load.ranks} ranks"
            for number, load in enumerate(placed.loads, start=1)
        )
        lines.append(f"{INDENT}{'; '.join(loads)} (cluster.strategy={config.cluster.strategy})")
    return lines


def _rank(placed: Placed) -> list[str]:
    rank = placed.needs.rank
    checkpointed = placed.config.learner.gradient_checkpointing
    recomputed = "" if checkpointed else "no "
    lines = [
        f"memory     per rank {gib(rank.total)} at the peak of an update: {_parts(rank)}",
        f"{INDENT}at once, the largest of: activations {gib(rank.activations)} "
        f"({recomputed}gradient checkpointing) with logits' tiles {gib(rank.logits)} or a layer's "
        f"backward pass {gib(rank.layer)}; gradients of both ends {gib(rank.ends)}",
    ]
    if rank.books:
        lines.append(
            f"{INDENT}after the updates that the entropy ledger measures: weights, moments, copies "
            f"{gib(rank.books)}, a forward pass in float32 or a sum in float64 {gib(rank.scoring)}"
        )
    return lines


def _parts(rank: RankBytes) -> str:
    parts = {
        "weights": rank.weights,
        "moments": rank.optimizer,
        "gradients": rank.gradients,
        "frozen model": rank.reference,
        "gathered weights": rank.gathered,
        "unsharded gradients": rank.unsharded,
    }
    return ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)


def _engine(placed: Placed) -> list[str]:
    config, needs = placed.config, placed.needs
    length = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    tokens = needs.cache_tokens
    at_once = "" if tokens is None else f": {tokens // length} full-length responses at once"
    return [
        f"{INDENT}per engine {gib(needs.engine)} on each device: weights "
        f"{gib(needs.engine_weights)}, cache {gib(needs.engine_cache)}{at_once}"
    ]


def _gpu(placed: Placed) -> list[str]:
    if not placed.config.cluster.gpus_per_rank:
        return []
    capacity = placed.machine.gpu_bytes
    of = "" if capacity is None else f" of {gib(capacity)}"
    each = (
        f"of {ARTICLE[whose]} {whose} about {gib(size)}{of}"
        for whose, size in gpu_bytes(placed.config, placed.needs).items()
    )
    return [f"gpu        {'; '.join(each)}, with context and workspace"]


def _nodes(placed: Placed) -> list[str]:
    """One line for each kind of node: those that need the same are one kind."""
    capacity = placed.machine.host_bytes
    of = "" if capacity is None else f" of {gib(capacity)}"
    kinds: dict[str, list[int]] = {}
    for number, parts in enumerate(node_bytes(placed), start=1):
        if parts:
            listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
            kinds.setdefault(f"about {gib(sum(parts.values()))}{of}: {listed}", []).append(number)
    lines = [
        f"{'host' if not index else '':<11}node {', '.join(map(str, numbers))} {text}"
        for index, (text, numbers) in enumerate(kinds.items())
    ]
    store = store_bytes(placed)
    has = "" if store is None else f", Ray takes {gib(store)}"
    shm = f"{INDENT}/dev/shm per node {gib(object_store(placed.config, placed.needs))} for the weights{has}"
    return [*lines, shm]


def _work(config: Config, work: Work) -> list[str]:
    drawn = f"{work.prompts} prompts, {work.answers} answers drawn at most"
    lines = [
        f"work       per step {drawn}, {work.trained} trained on; at most "
        f"{work.most_tokens / 1e6:,.2f} M tokens, "
        f"{work.drawn_tokens / 1e6:,.2f} M of answers if a mean one has {ANSWER_SHARE:.0%} of the "
        "limit"
    ]
    return [*lines, *evaluation_lines(config, work)]


def evaluation_lines(config: Config, work: Work) -> list[str]:
    """How much of all that the engines draw is drawn to evaluate.

    Counted in answers, as if those to held-out prompts were as long as those that are trained on.
    """
    if not work.evaluations:
        return ["evaluation none"]
    answers = work.evaluation_answers * work.evaluations
    share = answers / (answers + work.answers * config.run.steps)
    lines = [
        f"evaluation {work.evaluation_answers} answers, {work.evaluations} times: {share:.0%} of all "
        "that is drawn"
    ]
    if share > EVALUATION_SHARE:
        lines.append(
            f"{INDENT}MORE THAN {EVALUATION_SHARE:.0%}: training waits for it. Raise "
            "evaluation.every, or lower evaluation.prompts or evaluation.samples"
        )
    return lines


def _disk(placed: Placed, disk: Disk) -> str:
    free = placed.machine.disk_bytes
    of = "" if free is None else f" of {gib(free)} free"
    return (
        f"disk       about {gib(disk.total)}{of} for the whole run: ledger {gib(disk.ledger)}, "
        f"checkpoints {gib(disk.checkpoints)}"
    )


def _time(placed: Placed) -> list[str]:
    times = find_times(placed)
    if times is None:
        return []
    return [
        f"time       ESTIMATE on {placed.machine.gpu}: step {times.step:,.0f} s (rollouts "
        f"{times.rollout:,.0f}, learner {times.learner:,.0f}, sync {times.sync:,.0f}), evaluation "
        f"{times.evaluation:,.0f} s, run {times.run / HOUR:,.0f} hours",
        f"{INDENT}assumed: MFU {MFU:.0%}, decoding at {DECODE_SHARE:.0%} of the memory's speed, "
        f"answers of {ANSWER_SHARE:.0%} of the limit; only the MFU was measured, at 1.5 B",
    ]


def find_times(placed: Placed) -> Times | None:
    """The time estimate; None on CPUs and on unknown GPUs."""
    return estimate_times(
        placed.config,
        placed.model,
        placed.work,
        gpu=placed.machine.gpu,
        cache=cache_bytes_per_token(placed.model, placed.config),
    )
