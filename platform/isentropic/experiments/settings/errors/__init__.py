"""Hydra's errors in our words: what is wrong, what is allowed, the nearest valid name."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException

from isentropic.checks import nearest
from isentropic.config import RENAMED
from isentropic.experiments.settings.conf import choices
from isentropic.experiments.settings.errors.shell import (
    how_to_type,
    quoted,
    refuse_expanded,
)
from isentropic.experiments.settings.errors.unknown import (
    compose_what_composes,
    elsewhere,
    unknown_key,
)

__all__ = ["elsewhere", "explain", "quoted", "refuse_expanded", "refuse_renamed", "refuse_reward"]

# Why a task takes no reward of the user's own; others have no fields that it could read.
WITHOUT_REWARD = {
    "calculator": "an episode has several turns, and a reward gets one response",
    "environment": "an episode is a game, which pays itself",
    "own": "its class has a grade",
}
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*?)'\n1\. To use it", re.DOTALL)
NO_KEY = re.compile(r"Could not (?:override|append|delete)[^'\n]*'([^'=\n]+)")

# Old names that another key of ours is called today.
MISTAKEN = {
    "learner.beta1": "the beta of CE-GPPO is objective.beta1",
    "learner.beta2": "the beta of CE-GPPO is objective.beta2",
}
PPO = (
    "PPO's clipped surrogate is objective=clip, and method=grpo trains with it: there is no critic, "
    "advantages are measured within the group of a prompt"
)
ALSO_CALLED = {("objective", "ppo"): PPO, ("method", "ppo"): PPO}


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """Return a message for what Hydra or OmegaConf refused, given the command line's arguments."""
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        advice = how_to_type(error.override, arguments)
        return f"cannot read {error.override!r} as an override. {advice}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(str(error.missing_cfg_file))
    match = AMBIGUOUS.match(text)
    if match:
        several = match.group(1)
        return (
            f"{several!r} gives several values, and a run takes one (--multirun runs each). "
            f"{how_to_type(several)}"
        )
    match = NO_KEY.search(text)
    if match:
        return _no_key(match.group(1), arguments)
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return f"config: {text}{cause}"


def refuse_renamed(key: str) -> None:
    """Raise ValueError for a key that has another name today."""
    if key in RENAMED:
        raise ValueError(_renamed(key))


def refuse_reward(key: str, task: Any) -> None:
    """Raise ValueError for `task.reward` of a task that takes none: why, and what to do."""
    if key == "task.reward":
        why = WITHOUT_REWARD.get(task, "its prompts have no fields that a reward could read")
        raise ValueError(
            f"unknown config key 'task.reward': task={task} takes no reward of your own, because "
            f"{why}. Those that do: rows, math and its presets, reasoning_gym. For another grade "
            "write a task, 'task={file: my_task.py, class: MyTask}': see docs/extend.md."
        )


def _renamed(key: str) -> str:
    return f"{key} is now {RENAMED[key]}" + (f"; {MISTAKEN[key]}" if key in MISTAKEN else "")


def _no_choice(missing: str) -> str:
    group, _, name = missing.rpartition("/")
    options = choices(group)
    hint = (
        f" {ALSO_CALLED[group, name]}." if (group, name) in ALSO_CALLED else nearest(name, options)
    )
    return f"{group}={name} is not a choice. {group} may be {', '.join(options)}.{hint}"


def _no_key(key: str, arguments: Sequence[str]) -> str:
    key = key.partition("@")[0].strip("+~")
    if key in RENAMED:
        return _renamed(key)
    composed, chosen = compose_what_composes(arguments)
    if "reward" not in (task := composed.get("task") or {}):
        refuse_reward(key, task.get("name"))
    return unknown_key(key, composed, chosen)
