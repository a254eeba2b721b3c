"""Metrics of a step's rollouts: reward, groups, lengths, age, and the engine against the learner."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from isentropic.columns import join
from isentropic.methods.fates import Fate
from isentropic.metrics.classes import bounded_ratio
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.evaluation import is_right
from isentropic.objectives.loss.token_loss import LOG_RATIO_LIMIT
from isentropic.records import Group, Rollout, RolloutKey, Sample, TokenScores

NAN = float("nan")


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`reward/{mean,std}` and `group/{all_right_frac,all_wrong_frac}` of the first wave, before any filter.

    Task rewards, not shaped ones, and only the policy's own: later waves go to chosen prompts, teachers are not the
    policy, and both would bend the curve. The std is the population's, over rollouts. all_wrong: no response of the
    group got the full reward.
    """
    waves = [wave for group in groups if (wave := first_wave(group.rollouts))]
    rewards = np.array([rollout.reward for wave in waves for rollout in wave], dtype=np.float64)
    right = [[is_right(rollout) for rollout in wave] for wave in waves]
    return {
        "reward/mean": float(rewards.mean()) if len(rewards) else NAN,
        "reward/std": float(rewards.std()) if len(rewards) else NAN,
        "group/all_right_frac": float(np.mean([all(group) for group in right])) if right else NAN,
        "group/all_wrong_frac": float(np.mean([not any(group) for group in right]))
        if right
        else NAN,
    }


def response_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """`response/{tokens_mean,truncated_frac}` of the first wave."""
    own = first_wave(rollouts)
    if not own:
        return {"response/tokens_mean": NAN, "response/truncated_frac": NAN}
    return {
        "response/tokens_mean": float(np.mean([rollout.num_response_tokens for rollout in own])),
        "response/truncated_frac": float(
            np.mean([rollout.finish_reason == "length" for rollout in own])
        ),
    }


def fate_metrics(fates: Iterable[Fate], step: int, possible: Sequence[str]) -> dict[str, float]:
    """`fate/<name>_frac`: what became of the policy's rollouts of this step, all waves; the shares sum to 1.

    Teachers are left out, and so are rollouts of earlier steps that left the queue in this one.

    Args:
        possible: every fate that the method can give (`Method.possible_fates`); one that none had is 0.
    """
    drawn = [fate for fate in fates if fate.rollout.step == step and not fate.rollout.is_teacher]
    counts = Counter(fate.name for fate in drawn)
    return {f"fate/{name}_frac": counts[name] / max(len(drawn), 1) for name in possible}


def staleness_metrics(samples: Sequence[Sample], step: int) -> dict[str, float]:
    """`staleness/{mean,max}`: steps between the weights that drew a fresh sample and those it is trained from.

    Queued and replayed samples count apart, from the step they were drawn for; teachers have no age.

    `age/{queue,replay}_mean` is there where such samples were trained on.
    """
    ages: dict[str, list[int]] = {"new": [], "queue": [], "replay": []}
    for sample in samples:
        rollout = sample.rollout
        if not rollout.is_teacher:
            ages[sample.source].append(
                step - (rollout.source_step + 1 if sample.source == "new" else rollout.step)
            )
    new = ages.pop("new")
    metrics = {
        "staleness/mean": float(np.mean(new)) if new else 0.0,
        "staleness/max": float(max(new)) if new else 0.0,
    }
    return metrics | {
        f"age/{source}_mean": float(np.mean(values)) for source, values in ages.items() if values
    }


def mismatch_metrics(
    rollouts: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores], temperature: float
) -> dict[str, float]:
    """The engine's logprobs against the learner's, on the tokens that the engine drew.

    Over rollouts drawn at the training temperature. Rollouts of waves with top-p or top-k are the caller's to leave
    out: there the engine's logprob is of another distribution by intent.

        logprob_abs_max, logprob_abs_mean    |rollout_logprob - old_logprob|, nats
        k1, k3                               KL(engine || learner), w = exp(old_logprob - rollout_logprob)
        ess                                  (sum w)^2 / (n sum w^2): share of the sample that would be left
    """
    same = [
        rollout
        for rollout in rollouts
        if not rollout.is_teacher and rollout.temperature == temperature
    ]
    engine = join([rollout.rollout_logprob for rollout in same]).astype(np.float64)
    learner = join([scores[rollout.key].logprob for rollout in same]).astype(np.float64)
    if not len(engine):
        return {
            f"mismatch/{name}": NAN
            for name in ("logprob_abs_max", "logprob_abs_mean", "k1", "k3", "ess")
        }
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
    """`kl/initial`: KL(policy || reference model) by k3, over tokens that the policy drew; NaN without a reference."""
    scored = [score for score in scores if score.ref_logprob is not None]
    reference = join([score.ref_logprob for score in scored]).astype(np.float64)
    log_ratio = reference - join([score.logprob for score in scored])
    bounded = np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {"kl/initial": float((np.expm1(bounded) - bounded).mean()) if len(bounded) else NAN}
