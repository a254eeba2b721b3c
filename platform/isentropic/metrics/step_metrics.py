"""Metrics of a step's rollouts: reward, groups, lengths, age, engine against learner, its load."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from isentropic.columns import join
from isentropic.methods.fates import Fate
from isentropic.metrics.classes import bounded_ratio
from isentropic.metrics.entropy import first_wave
from isentropic.objectives.loss.token_loss import LOG_RATIO_LIMIT
from isentropic.records import Group, Rollout, RolloutKey, RouterUse, Sample, TokenScores, Usage

NAN = float("nan")


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Computes `reward/{mean,std}`, `group/{all_right_frac,all_wrong_frac}`, `reward/<part>_mean`.

    Over the first wave, before any filter. Task rewards, not shaped ones, and only the policy's
    own: later waves go to chosen prompts, teachers are not the policy, and both would bend the
    curve. The std is the population's, over rollouts. all_wrong: no response of the group is
    right. A part's mean is over the rollouts that have it: a check that failed gave none.
    """
    waves = [wave for group in groups if (wave := first_wave(group.rollouts))]
    rewards = np.array([rollout.reward for wave in waves for rollout in wave], dtype=np.float64)
    right = [[rollout.is_right for rollout in wave] for wave in waves]
    if not right:
        names = ("reward/mean", "reward/std", "group/all_right_frac", "group/all_wrong_frac")
        return dict.fromkeys(names, NAN)
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "group/all_right_frac": float(np.mean([all(group) for group in right])),
        "group/all_wrong_frac": float(np.mean([not any(group) for group in right])),
        **_part_means([rollout.reward_parts for wave in waves for rollout in wave]),
    }


def _part_means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for each in parts for name in each})
    return {
        f"reward/{name}_mean": float(np.mean([each[name] for each in parts if name in each]))
        for name in names
    }


def response_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Computes `response/{tokens_mean,truncated_frac}` of the first wave."""
    first = first_wave(rollouts)
    if not first:
        return {"response/tokens_mean": NAN, "response/truncated_frac": NAN}
    truncated = [rollout.finish_reason == "length" for rollout in first]
    return {
        "response/tokens_mean": float(np.mean([rollout.num_response_tokens for rollout in first])),
        "response/truncated_frac": float(np.mean(truncated)),
    }


def fate_metrics(fates: Iterable[Fate], step: int, possible: Sequence[str]) -> dict[str, float]:
    """Computes `fate/<name>_frac`, the shares of what became of the policy's rollouts of this step.

    Over all waves; the shares sum to 1.
    Teachers are left out, and so are rollouts of earlier steps that left the queue in this one.

    Args:
        possible: every fate that the method can give (`Method.possible_fates`); one that no
            rollout had is 0.
    """
    drawn = [fate for fate in fates if fate.rollout.step == step and not fate.rollout.is_teacher]
    counts = Counter(fate.name for fate in drawn)
    return {f"fate/{name}_frac": counts[name] / max(len(drawn), 1) for name in possible}


def staleness_metrics(samples: Sequence[Sample], step: int) -> dict[str, float]:
    """Computes `staleness/{mean,max}` of fresh samples and `age/{queue,replay}_mean` of the others.

    Staleness: steps between the weights that drew a sample and those its training began with.
    Age: steps since the one that a queued or replayed sample was drawn for; the key is absent if
    no such sample was trained on. Teachers have neither.
    """
    ages: dict[str, list[int]] = {"new": [], "queue": [], "replay": []}
    for sample in samples:
        rollout = sample.rollout
        if not rollout.is_teacher:
            # A rollout drawn from the weights that its own step began with has staleness 0.
            from_step = rollout.source_step + 1 if sample.source == "new" else rollout.step
            ages[sample.source].append(step - from_step)
    new = ages.pop("new")
    metrics = {
        "staleness/mean": float(np.mean(new)) if new else 0.0,
        "staleness/max": float(max(new)) if new else 0.0,
    }
    return metrics | {
        f"age/{source}_mean": float(np.mean(values)) for source, values in ages.items() if values
    }


def usage_metrics(usage: Sequence[Usage]) -> dict[str, float]:
    """Computes `throughput/engine/*`: how full the engines were while the step was drawn.

    `_mean` is over steps of all engines, `_max` that of the fullest engine at its fullest;
    preemptions are counted over all engines, and of the one that has most. {} if no engine made a
    step: the rollouts came from the ledger.
    """
    steps = sum(engine.steps for engine in usage)
    if not steps:
        return {}
    preemptions = [engine.preemptions for engine in usage]
    return {
        "throughput/engine/cache_use_mean": sum(engine.cache_use for engine in usage) / steps,
        "throughput/engine/cache_use_max": max(engine.cache_use_max for engine in usage),
        "throughput/engine/waiting_mean": sum(engine.waiting for engine in usage) / steps,
        "throughput/engine/waiting_max": max(engine.waiting_max for engine in usage),
        "throughput/engine/preemptions": sum(preemptions),
        "throughput/engine/preemptions_max": max(preemptions),
    }


def router_metrics(use: RouterUse | None) -> dict[str, float]:
    """Computes `router/*` of an update: how sure the routers are, and how even the experts' load.

    {} without a mixture of experts, or without tokens.
    """
    if use is None or not use.tokens:
        return {}
    return {
        "router/entropy": float(use.entropy.mean() / use.tokens),
        "router/load_max": float((use.load.max(1) / use.load.mean(1)).max()),
        "router/idle_frac": float((use.load == 0).mean()),
    }


def mismatch_metrics(
    rollouts: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores], temperature: float
) -> dict[str, float]:
    """Compares the engine's logprobs with the learner's, on the tokens that the engine drew.

    Over rollouts drawn at the training temperature. The caller leaves out waves with top-p or
    top-k: there the engine's logprob is of another distribution by intent.

        logprob_abs_max, logprob_abs_mean    |rollout_logprob - old_logprob|, nats
        w                                    exp(old_logprob - rollout_logprob)
        k1, k3                               KL(engine || learner): mean of -log w, of w - 1 - log w
        ess                                  (sum w)^2 / (n sum w^2): share of the sample that
                                             would be left
    """
    same = [
        rollout
        for rollout in rollouts
        if not rollout.is_teacher and rollout.temperature == temperature
    ]
    engine = join([rollout.rollout_logprob for rollout in same]).astype(np.float64)
    learner = join([scores[rollout.key].logprob for rollout in same]).astype(np.float64)
    if not len(engine):
        names = ("logprob_abs_max", "logprob_abs_mean", "k1", "k3", "ess")
        return {f"mismatch/{name}": NAN for name in names}
    difference = learner - engine
    weight = bounded_ratio(difference)
    return {
        "mismatch/logprob_abs_max": float(np.abs(difference).max()),
        "mismatch/logprob_abs_mean": float(np.abs(difference).mean()),
        "mismatch/k1": float(-difference.mean()),
        "mismatch/k3": float((weight - 1 - np.log(weight)).mean()),
        "mismatch/ess": float(weight.sum() ** 2 / (len(weight) * (weight**2).sum())),
    }


def initial_kl(scores: Sequence[TokenScores]) -> dict[str, float]:
    """Computes `kl/initial`, KL(policy || reference) by k3 on tokens that the policy drew.

    NaN without a reference model.
    """
    scored = [score for score in scores if score.ref_logprob is not None]
    reference = join([score.ref_logprob for score in scored]).astype(np.float64)
    log_ratio = reference - join([score.logprob for score in scored])
    bounded = np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {"kl/initial": float((np.expm1(bounded) - bounded).mean()) if len(bounded) else NAN}
