"""Hydra's errors in our words: what is wrong, what is allowed, the nearest valid name."""

import re
import shlex
from collections.abc import Sequence
from typing import Any, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from isentropic.checks import nearest
from isentropic.config import RENAMED, flat
from isentropic.experiments.settings.annotations import annotation, members
from isentropic.experiments.settings.conf import choices, compose_raw, groups

# Why a task takes no reward of the user's own; others have no fields that it could read.
WITHOUT_REWARD = {
    "calculator": "an episode has several turns, and a reward gets one response",
    "environment": "an episode is a game, which pays itself",
    "own": "its class has a grade",
}
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*?)'\n1\. To use it", re.DOTALL)
NO_KEY = re.compile(r"Could not (?:override|append|delete)[^'\n]*'([^'=\n]+)")

# What other libraries call our keys: the spelling is far from ours, the meaning is the same.
SYNONYMS = {
    "learning_rate": "learner.lr",
    "adam_epsilon": "learner.adam_eps",
    "epsilon": "learner.adam_eps",
    "warmup_steps": "learner.warmup_updates",
    "max_grad_clip": "learner.max_grad_norm",
    "grad_clip": "learner.max_grad_norm",
    "epochs": "learner.updates_per_rollout",
    "num_epochs": "learner.updates_per_rollout",
    "ppo_epochs": "learner.updates_per_rollout",
    "num_iterations": "learner.updates_per_rollout",
    "mini_batch_size": "learner.updates_per_rollout",
    "minibatch_size": "learner.updates_per_rollout",
    "micro_batch_size": "learner.microbatch_tokens",
    "per_device_train_batch_size": "learner.microbatch_tokens",
    "world_size": "learner.num_ranks",
    "batch_size": "rollout.prompts_per_step",
    "train_batch_size": "rollout.prompts_per_step",
    "rollout_batch_size": "rollout.prompts_per_step",
    "num_generations": "rollout.group_size",
    "n": "rollout.group_size",
    "num_samples": "rollout.group_size",
    "num_return_sequences": "rollout.group_size",
    "max_new_tokens": "rollout.max_response_tokens",
    "max_tokens": "rollout.max_response_tokens",
    "max_completion_length": "rollout.max_response_tokens",
    "max_response_length": "rollout.max_response_tokens",
    "response_length": "rollout.max_response_tokens",
    "max_prompt_length": "rollout.max_prompt_tokens",
    "max_seq_len": "model.max_length",
    "max_model_len": "model.max_length",
    "context_length": "model.max_length",
    "model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "clip_eps": "objective.clip_low",
    "clip_range": "objective.clip_low",
    "clip_ratio": "objective.clip_low",
    "clip_ratio_low": "objective.clip_low",
    "clip_eps_low": "objective.clip_low",
    "clip_ratio_high": "objective.clip_high",
    "clip_eps_high": "objective.clip_high",
    "kl_coef": "terms.kl.coef",
    "kl_beta": "terms.kl.coef",
    "kl_loss_coef": "terms.kl.coef",
    "ent_coef": "terms.entropy_bonus.coef",
    "entropy_coef": "terms.entropy_bonus.coef",
    "entropy_coeff": "terms.entropy_bonus.coef",
    "total_steps": "run.steps",
    "max_steps": "run.steps",
    "num_steps": "run.steps",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "eval_steps": "evaluation.every",
    "test_freq": "evaluation.every",
    "output_dir": "run.dir",
    "experiment_name": "run.name",
    "run_name": "run.name",
    "project_name": "tracking.project",
    "wandb_project": "tracking.project",
    # verl
    "train_files": "task.path",
    "val_files": "task.eval_path",
    "prompt_key": "task.problem_column",
    "total_training_steps": "run.steps",
    "total_epochs": "run.steps",
    "ppo_mini_batch_size": "learner.updates_per_rollout",
    "ppo_micro_batch_size": "learner.microbatch_tokens",
    "ppo_micro_batch_size_per_gpu": "learner.microbatch_tokens",
    "ppo_max_token_len_per_gpu": "learner.microbatch_tokens",
    "lr_warmup_steps": "learner.warmup_updates",
    "tensor_model_parallel_size": "rollout.tensor_parallel",
    "ulysses_sequence_parallel_size": "learner.context_parallel",
    "gpu_memory_utilization": "rollout.kv_cache_gib",
    "resume_mode": "resume",
    "loss_agg_mode": "reduction",
    "adv_estimator": "advantage",
    # TRL
    "epsilon_high": "objective.clip_high",
    "num_train_epochs": "run.steps",
    "lr_scheduler_type": "learner.lr_schedule",
    "vllm_gpu_memory_utilization": "rollout.kv_cache_gib",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel",
    "loss_type": "reduction",
    "scale_rewards": "advantage",
    "report_to": "tracking.wandb",
    # OpenRLHF
    "actor_learning_rate": "learner.lr",
    "pretrain": "model.path",
    "prompt_data": "task.path",
    "eval_dataset": "task.eval_path",
    "input_key": "task.problem_column",
    "label_key": "task.answer_column",
    "n_samples_per_prompt": "rollout.group_size",
    "micro_train_batch_size": "learner.microbatch_tokens",
    "prompt_max_len": "rollout.max_prompt_tokens",
    "generate_max_len": "rollout.max_response_tokens",
    "vllm_num_engines": "rollout.num_actors",
    "eps_clip": "objective.clip_low",
    "init_kl_coef": "terms.kl.coef",
    "advantage_estimator": "advantage",
    "save_path": "run.dir",
    "wandb_run_name": "run.name",
}
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
EXAMPLES = {bool: "true", int: "1", float: "0.5"}
CHOSEN_BY = {"terms.kl.coef": "terms=kl", "terms.entropy_bonus.coef": "terms=entropy_bonus"}
CHOSEN_BY |= {
    f"task.{key}": "task=math" for key in ("path", "eval_path", "problem_column", "answer_column")
}


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """Return a message for what Hydra or OmegaConf refused, given the command line's arguments."""
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r} as an override. {_how_to_type(error.override)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(str(error.missing_cfg_file))
    match = AMBIGUOUS.match(text)
    if match:
        several = match.group(1)
        return (
            f"{several!r} gives several values, and a run takes one (--multirun runs each). "
            f"{_how_to_type(several)}"
        )
    match = NO_KEY.search(text)
    if match:
        return _no_key(match.group(1), arguments)
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return f"config: {text}{cause}"


def quoted(text: str) -> str:
    """Return `text` as Hydra reads it back to the letter, whatever it holds."""
    mark = "'" if '"' in text and "'" not in text else '"'
    # A run of backslashes means itself, unless a quote follows it: then each of them is written
    # twice.
    text = re.sub(r"(\\*)" + mark, lambda run: run[1] * 2 + "\\" + mark, text)
    text = re.sub(r"(\\+)$", lambda run: run[1] * 2, text)
    return f"{mark}{text}{mark}"


def refuse_renamed(key: str) -> None:
    """Raise ValueError for a key that has another name today."""
    if key in RENAMED:
        raise ValueError(f"{key} is now {RENAMED[key]}")


def refuse_reward(key: str, task: Any) -> None:
    """Raise ValueError for `task.reward` of a task that takes none: why, and what to do."""
    if key == "task.reward":
        why = WITHOUT_REWARD.get(task, "its prompts have no fields that a reward could read")
        raise ValueError(
            f"unknown config key 'task.reward': task={task} takes no reward of your own, because "
            f"{why}. Those that do: rows, math and its presets, reasoning_gym. For another grade "
            "write a task, 'task={file: my_task.py, class: MyTask}': see docs/extend.md."
        )


def _how_to_type(argument: str) -> str:
    """Say what a key of numbers takes; return other arguments as they must be typed in a shell."""
    key, separator, value = argument.partition("=")
    if not separator:
        return "Write key=value."
    default = flat(OmegaConf.to_container(compose_raw(), resolve=False)).get(key.lstrip("+"))
    if kinds := _kinds(key, default):  # a text in quotes could only fail there
        example = f"{key}={_example(key, default)}"
        return f"{key} must be {kinds}, got {value!r}. Type it so: {example}"
    in_quotes = quoted(value)
    if isinstance(default, list) and "[" not in value:
        value = f"[{value}]"
    if value.startswith("[") and value.endswith("]"):
        in_quotes = f"[{','.join(quoted(part.strip()) for part in value[1:-1].split(','))}]"
    for candidate in (f"{key}={in_quotes}", f"{key}={quoted(value)}"):
        try:
            OverridesParser.create().parse_override(candidate)
            return f"Type it so: {shlex.quote(candidate)}"
        except HydraException:
            continue
    return "Write key=value, and put quotes around lists and spaces: 'method=[papo,uec_rl]'."


def _kinds(key: str, default: Any) -> str:
    """Say what a key takes if that is no text: "a number or null"; "" for other keys."""
    if type(default) in KINDS:
        return KINDS[type(default)]
    kinds = members(annotation(key))
    if not any(kind in KINDS for kind in kinds) or {*kinds} - {*KINDS, type(None)}:
        return ""
    return " or ".join(KINDS.get(kind, "null") for kind in kinds)


def _example(key: str, default: Any) -> str:
    if default is not None:
        return str(default).lower()
    kinds = members(annotation(key))
    return "null" if type(None) in kinds else EXAMPLES[kinds[0]]


def _no_choice(missing: str) -> str:
    group, _, name = missing.rpartition("/")
    options = choices(group)
    allowed = ", ".join(options)
    return f"{group}={name} is not a choice. {group} may be {allowed}.{nearest(name, options)}"


def _no_key(key: str, arguments: Sequence[str]) -> str:
    key = key.partition("@")[0].strip("+~")
    if key in RENAMED:
        return f"{key} is now {RENAMED[key]}"
    composed = _composed(arguments)
    if "reward" not in (task := composed.get("task") or {}):
        refuse_reward(key, task.get("name"))
    if entry := _new_entry(key, composed):
        return f"{key} adds a name: with a plus, and all its keys in one go, like {entry}"
    if key in flat(composed):  # with some of the arguments; not with all of them
        advice = f"Leave it out, or choose the {key.partition('.')[0]} that has it."
        return f"{key} is no key of what the other arguments choose. {advice}"
    valid = list(dict.fromkeys([*groups(), *composed, *flat(composed)]))
    parent, _, name = key.rpartition(".")
    siblings = [
        other.rpartition(".")[2] for other in valid if parent and other.rpartition(".")[0] == parent
    ]
    allowed = f" {parent} has the keys {', '.join(siblings)}." if siblings else ""
    hint = _hint(key, name, valid) or " See `--cfg job` for all keys."
    return f"unknown config key {key!r}.{allowed}{hint}"


def _new_entry(key: str, composed: dict[str, Any]) -> str:
    """Return how to add an entry to a section whose names users choose; "" for other keys."""
    names = key.split(".")
    for depth in range(1, len(names) + 1):
        section = ".".join(names[:depth])
        values = OmegaConf.select(OmegaConf.create(composed), section)
        if get_origin(annotation(section)) is not dict or not values:
            continue
        if names[depth : depth + 1] and names[depth] in values:
            return ""
        name = (*names[depth:], "NAME")[0]
        example = next(entry for entry in values.values() if entry is not None)
        keys = ", ".join(f"{key}: {_yaml(value)}" for key, value in example.items())
        return shlex.quote(f"+{section}.{name}={{{keys}}}")
    return ""


def _yaml(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _hint(key: str, name: str, valid: Sequence[str]) -> str:
    """Return the key that is meant: by meaning, of the same name elsewhere, or by spelling."""
    meant = SYNONYMS.get(name)
    close = [other for other in valid if other.rpartition(".")[2] == name]
    section = key.partition(".")[0]
    if meant and (section in (name, meant.partition(".")[0]) or not close):
        close.insert(0, meant)
    if not close:
        return nearest(key, valid)
    choice = f" (with {CHOSEN_BY[meant]})" if meant in CHOSEN_BY and meant not in valid else ""
    return f" Did you mean {' or '.join(map(repr, close[:3]))}?{choice}"


def _composed(arguments: Sequence[str]) -> dict[str, Any]:
    """Compose those choices of the command line that compose: what the user could have meant."""
    overrides: list[str] = []
    config = compose_raw()
    for argument in arguments:
        try:
            OverridesParser.create().parse_override(argument)
            config = compose_raw([*overrides, argument])
        except HydraException:
            continue
        overrides.append(argument)
    return OmegaConf.to_container(config, resolve=False)
