"""Which keys a resumed run may change, and what a change means for what was drawn before it."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isentropic.config import COMPUTES_NOTHING, flat, is_under

STEPS = "run.steps"
SCHEDULE = "learner.lr_schedule"
LEDGER = "accounting.ledger"
MAY_CHANGE = (
    *COMPUTES_NOTHING,
    "resume",
    "run.dry",
    "run.dir",
    "run.label",
    "run.preset",
    "checkpoint.stop_within_s",
)
# Keys that need permission, but say only who computes, how it is split, or what is measured beside
# it: what was drawn before the change is what would be drawn after it.
SAME_DRAWS = (
    "run.name",
    "checkpoint",
    "evaluation",
    "accounting.p_split",
    "accounting.recheck_share",
    "accounting.counterfactuals",
    "rollout.num_actors",
    "rollout.tensor_parallel",
    "rollout.max_num_seqs",
    "rollout.kv_cache_gib",
    "rollout.timeout_s",
    "learner.num_ranks",
    "learner.replicas",
    "learner.context_parallel",
    "learner.microbatch_tokens",
    "learner.gradient_checkpointing",
    "learner.compile",
    "learner.deterministic",
    "learner.vocab_chunk",
    "learner.head",
    "learner.unsharded_gradient_gib",
    "learner.balance",
    "learner.timeout_s",
    "learner.max_skipped_updates",
    "rewards.batch_size",
    "rewards.max_errors_in_a_row",
    "oger.cache",
    "shaping.cache",
)
# How tokens are sampled: one way for all of a rollout.
SAMPLED_BY = tuple(
    f"{section}.{key}"
    for section in ("rollout", "sampling")
    for key in ("temperature", "top_p", "top_k")
)
# They need no permission, so that a run can go on on another machine; sums of floats are then made
# in another order, or by other arithmetic.
MACHINE = (
    "cluster.cpus_per_engine",
    "cluster.cpus_per_rank",
    "cluster.gpus_per_engine",
    "cluster.gpus_per_rank",
)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Returns dotted key -> 'key: old -> new' for keys that differ and say what is computed."""
    before = _without_nulls(flat(old))
    after = _without_nulls(flat(new))
    free = MAY_CHANGE
    if _steers(before) or _steers(after):
        # A controller with actuators reads the books: they decide what is trained.
        free = tuple(key for key in free if key != LEDGER)
    return {
        key: f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ()) != after.get(key, ()) and not is_under(key, free)
    }


def depends_on_length(changed: Collection[str], cfg: DictConfig) -> list[str]:
    """Returns what makes the first steps of a longer run other than those of a shorter one.

    It is the schedule of the learning rate, as key=value, and keys that changed because they read
    the number of steps.
    """
    schedule = OmegaConf.select(cfg, SCHEDULE)
    depends = [] if schedule == "constant" else [f"{SCHEDULE}={schedule}"]
    written = flat(OmegaConf.to_container(cfg, resolve=False))
    return depends + [key for key in changed if f"{STEPS}}}" in str(written.get(key))]


def redrawing_keys(before: Mapping[str, Any], cfg: DictConfig) -> list[str]:
    """Returns 'key: old -> new' of changes that make the next steps other than they were drawn."""
    changed = changed_keys(before, OmegaConf.to_container(cfg, resolve=True))
    if OmegaConf.select(cfg, SCHEDULE) == "constant":
        changed.pop(STEPS, None)  # keys that read it are named themselves
    return [text for key, text in changed.items() if not is_under(key, SAME_DRAWS)]


def machine_remark(before: Mapping[str, Any], today: Mapping[str, Any]) -> list[str]:
    """Returns a sentence if another number of threads or GPUs gives sums of floats other bits."""
    old, new = flat(before), flat(today)
    changed = [
        f"{key}: {old[key]} -> {new[key]}"
        for key in MACHINE
        if old.get(key) is not None
        and new.get(key) is not None
        and _threads(key, old[key]) != _threads(key, new[key])
    ]
    if not changed:
        return []
    return [
        f"{'; '.join(changed)}: sums of floats are made in another order from here on, so the run's "
        "last bits are not those of a run that was not moved."
    ]


def check_staleness(folder: Path, before: Mapping[str, Any], today: Mapping[str, Any]) -> None:
    """Raises ValueError if steps would have to be drawn from weights that are gone."""
    old, new = (flat(values).get("rollout.max_staleness", 0) for values in (before, today))
    if new > old:
        raise ValueError(
            f"rollout.max_staleness={new}, but {folder} was run with {old}: the steps after its "
            "checkpoint would be drawn from weights that it no longer has. Resume with "
            f"rollout.max_staleness={old}, or start another run: run.name=<another name>."
        )


def check_segments(folder: Path, before: Mapping[str, Any], today: Mapping[str, Any]) -> None:
    """Raises ValueError if prompts in flight would be dropped, or looked for where none are."""
    old, new = (flat(values).get("rollout.segment_tokens") for values in (before, today))
    if (old is None) != (new is None):
        words = ["null" if value is None else value for value in (new, old)]
        raise ValueError(
            f"rollout.segment_tokens={words[0]}, but {folder} was run with {words[1]}: what a step "
            "leaves in flight is part of the run, so segments cannot begin or end in its middle. "
            f"Resume with rollout.segment_tokens={words[1]}, or start another run: "
            "run.name=<another name>."
        )


def check_in_flight(folder: Path, before: Mapping[str, Any], today: Mapping[str, Any]) -> None:
    """Raises ValueError if one half of a rollout would be sampled in another way than the other.

    Its record and the learner know one temperature for all of it.
    """
    old, new = flat(before), flat(today)
    if not _carries(old) or not any(folder.glob("checkpoints/step_*")):
        return  # without a checkpoint all is drawn again
    changed = {
        key: f"{key}={new[key]}, but {folder} was run with {old[key]}"
        for key in SAMPLED_BY
        if key in old and key in new and old[key] != new[key]
    }
    if changed:
        raise ValueError(
            f"{'; '.join(changed.values())}: rollouts that are in flight (rollout.segment_tokens) "
            "were begun with the one and would be finished with the other. Resume with "
            f"{' '.join(f'{key}={old[key]}' for key in changed)}, or start another run: "
            "run.name=<another name>."
        )


def _carries(values: Mapping[str, Any]) -> bool:
    """Returns True if a run leaves rollouts in flight from step to step."""
    if values.get("rollout.segment_tokens") is None:
        return False
    per_step = values.get("rollout.prompts_per_step")
    return (values.get("rollout.prompts_in_flight") or math.inf) != per_step


def _threads(key: str, value: float) -> float:
    """Whole CPUs, at least one, are what a process has as OMP_NUM_THREADS."""
    return max(1, int(value)) if "cpus" in key else value


def _steers(values: Mapping[str, Any]) -> bool:
    return any(
        key.startswith("steering.actuators.") and value is not None for key, value in values.items()
    )


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Drop loss terms that are null: an absent one is off too, and older configs have the nulls."""
    return {
        key: value
        for key, value in values.items()
        if value is not None or not is_under(key, ("terms",))
    }
