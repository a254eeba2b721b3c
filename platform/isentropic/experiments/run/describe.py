"""What a run is going to do and to need, worked out without starting anything: `run.dry=true`."""

import os
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from transformers import PretrainedConfig

from isentropic.actors.placement import plan
from isentropic.config import Config
from isentropic.controller.method import Method
from isentropic.experiments.run.folder import check_data
from isentropic.experiments.run.prepare import check_engine_starts, check_model_runs, fit_prompts
from isentropic.experiments.run.preview import data_lines
from isentropic.experiments.settings.checks import remarks
from isentropic.learner.estimate import (
    RankBytes,
    count_trained,
    estimate_rank_bytes,
    head_size,
)
from isentropic.learner.model import count_parameters, read_config
from isentropic.models.pretrained import load_chat
from isentropic.models.source import EMBEDDED, check_model, model_folder
from isentropic.models.tiny import TinySizes, build_model, build_tokenizer
from isentropic.rollout.options import WORKSPACE
from isentropic.tasks import TASKS
from isentropic.tasks.chat import Chat
from isentropic.tasks.data.digest import DataDigest

GIB = 2**30
ENGINE_OVERHEAD = 2 * GIB  # imports and workspace of an engine's process; 1.8 GiB measured
RANK_OVERHEAD = GIB  # same of a learner rank
# What two processes hold of one GPU whoever's turn it is: contexts, graphs, buffers of NCCL. Rough.
SHARED_OVERHEAD = 3 * GIB
EVALUATION_SHARE = 0.25  # of all answers; more is warned of


def describe(config: Config) -> str:
    """Model, data, placement and memory, as lines of text. Loads no weights.

    Raises:
        ValueError: what the run would be refused for: a model that is not whole, unreadable data,
            prompts that the template loses or the window cannot hold, teachers that are missing,
            an engine that cannot start or run the model, resources that Ray cannot place, data
            that are no longer those of the run that it goes on with.
    """
    check_model(config.model, config.task)
    whole = TASKS[config.task.name].make(config.task)
    model, chat = _model_and_chat(config)
    check_engine_starts(config, reads_images=chat.images is not None)
    check_model_runs(config, model)
    digest = DataDigest(whole)
    task, dropped = fit_prompts(config, whole, chat, digest)
    note = check_data(Path(config.run.dir), digest, config.resume.allow_changes)
    # The folder of an embedded model may not be made yet; binding loads nothing of it.
    Method(config).bind(chat=chat, task=task, model_path=config.model.path)
    data = data_lines(
        config.task.name,
        task,
        chat,
        config.rewards,
        bad_rows=getattr(whole, "num_skipped", 0),
        too_long=sum(dropped.values()),
    )
    lines = [_model_line(config, model), *data, *_step_lines(config)]
    lines.append(evaluation_line(config, task.size("eval")))
    lines += [f"resume     {note}"] if note else []
    lines += [f"remark     {remark}" for remark in remarks(config)]
    return "\n".join([*lines, *_placement_lines(config), *_memory_lines(config, model)])


def engine_bytes(model: PretrainedConfig, config: Config) -> int:
    """Weights and key-value cache of one engine, on each of its devices."""
    width = getattr(torch, config.rollout.dtype).itemsize
    return count_parameters(model) * width // config.rollout.tensor_parallel + int(
        config.rollout.kv_cache_gib * GIB
    )


def bytes_per_gpu(rank: int, engine: int, *, shared: bool) -> int:
    """Bytes that a GPU must have for a rank and an engine: for the larger one, as they take turns.

    The side that has left a shared GPU has all its state on the host, or none; what its process
    keeps there comes on top.
    """
    if not shared:
        return max(rank, engine)
    return max(rank, int(WORKSPACE * engine)) + SHARED_OVERHEAD


def cache_tokens(model: PretrainedConfig, config: Config) -> int | None:
    """Tokens that an engine's key-value cache holds; None if the model keeps no heads in it."""
    model = model.get_text_config(decoder=True)
    head_dim = head_size(model)
    if head_dim is None:
        return None
    heads = getattr(model, "num_key_value_heads", None) or model.num_attention_heads
    width = getattr(torch, config.rollout.dtype).itemsize
    per_token = (
        2
        * model.num_hidden_layers
        * max(1, heads // config.rollout.tensor_parallel)
        * head_dim
        * width
    )
    return int(config.rollout.kv_cache_gib * GIB) // per_token


def _model_and_chat(config: Config) -> tuple[PretrainedConfig, Chat]:
    if config.model.path == EMBEDDED:  # perhaps not made yet: its sizes say it all
        tokenizer = build_tokenizer()
        lm = build_model(TinySizes(**config.model.warm_start["sizes"]), tokenizer)
        return lm.config, Chat(tokenizer, today=config.run.today, vocab_size=lm.config.vocab_size)
    model = replace(config.model, path=model_folder(config.model, config.task))
    return read_config(model), load_chat(model, config.run.today)


def _model_line(config: Config, model: PretrainedConfig) -> str:
    text = model.get_text_config(decoder=True)
    lora = config.learner.lora
    adapters = (
        ""
        if lora is None
        else f"; trained are adapters of rank {lora.rank}, "
        f"{count_trained(model, lora) / 1e6:,.2f} M parameters"
    )
    return (
        f"model      {config.model.name}: {count_parameters(model) / 1e6:,.1f} M parameters, "
        f"{model.model_type}, {text.num_hidden_layers} layers, vocabulary {text.vocab_size}, "
        f"window "
        f"used {config.model.max_length} tokens{adapters}"
    )


def _step_lines(config: Config) -> list[str]:
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


def evaluation_line(config: Config, held_out: int) -> str:
    """How much of all that the engines draw is drawn to evaluate: engines do one or the other.

    Counted in answers, as if those to held-out prompts were as long as those that are trained on.
    """
    evaluation, rollout, steps = config.evaluation, config.rollout, config.run.steps
    if not evaluation.every:
        return "evaluation none (evaluation.every=0)"
    prompts = min(evaluation.prompts, held_out)
    times = 1 + steps // evaluation.every + (steps % evaluation.every > 0)
    answers = times * prompts * evaluation.samples
    drawn = getattr(config.sampling, "draw_prompts", rollout.prompts_per_step)
    share = answers / (answers + steps * drawn * rollout.group_size)
    line = (
        f"evaluation {prompts} prompts x {evaluation.samples} samples, {times} times: {share:.0%} "
        "of all that is drawn"
    )
    if share <= EVALUATION_SHARE:
        return line
    return line + (
        f"\n           MORE THAN {EVALUATION_SHARE:.0%}: training waits for it. Raise "
        "evaluation.every, or lower evaluation.prompts or evaluation.samples"
    )


def _placement_lines(config: Config) -> list[str]:
    placed = plan(config.cluster, config.rollout, config.learner)
    gpus = sum(bundle.get("GPU", 0) for bundle in placed.bundles)
    where = config.cluster.address or os.environ.get("RAY_ADDRESS") or "a Ray of this machine"
    return [
        f"placement  {config.rollout.num_actors} engine(s) (tensor parallel "
        f"{config.rollout.tensor_parallel}), {config.learner.num_ranks} learner ranks, "
        f"{config.cluster.placement}, on {where}",
        f"           needs {placed.num_cpus:g} logical CPUs and {gpus:g} GPUs; this machine has "
        f"{os.cpu_count()} CPUs and {torch.cuda.device_count()} GPUs",
    ]


def _memory_lines(config: Config, model: PretrainedConfig) -> list[str]:
    rank = estimate_rank_bytes(model, config.learner, reference=config.terms.kl is not None)
    engine = engine_bytes(model, config)
    length = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    tokens = cache_tokens(model, config)
    at_once = "" if tokens is None else f": {tokens // length} full-length responses at once"
    lines = [
        f"memory     per rank {_gib(rank.total)} ({_parts(rank)})",
        f"           per engine {_gib(engine)} on each device, of it "
        f"{config.rollout.kv_cache_gib:g} GiB cache"
        f"{at_once}",
    ]
    if config.cluster.placement == "shared":
        away = rank.weights + rank.optimizer + rank.reference
        lines.append(f"           per rank {_gib(away)} of the host while its engine has the GPU")
    return [*lines, _verdict(config, rank.total, engine)]


def _verdict(config: Config, rank: int, engine: int) -> str:
    """Whether it fits this machine: host memory on CPUs, one device's memory on GPUs."""
    if config.cluster.gpus_per_rank:
        if not torch.cuda.is_available():
            return "           this machine has no GPU to compare with"
        capacity = torch.cuda.get_device_properties(0).total_memory
        needed = bytes_per_gpu(rank, engine, shared=config.cluster.placement == "shared")
    else:
        capacity = psutil.virtual_memory().total
        needed = config.learner.num_ranks * (rank + RANK_OVERHEAD)
        needed += config.rollout.num_actors * (engine + ENGINE_OVERHEAD)
    need = f"           about {_gib(needed)} of {_gib(capacity)}: "
    if needed <= capacity:
        return need + "fits"
    return (
        need
        + "DOES NOT FIT. Lower learner.microbatch_tokens or rollout.kv_cache_gib, or use more ranks"
    )


def _parts(rank: RankBytes) -> str:
    return (
        f"weights {_gib(rank.weights)}, optimizer {_gib(rank.optimizer)}, "
        f"activations {_gib(rank.activations)}"
    )


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
