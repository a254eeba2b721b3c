"""Metrics of a step's rollouts: reward, groups, lengths, age, segments, mismatch; engines' load."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isentropic.columns import join
from isentropic.methods.fates import Fate
from isentropic.metrics.classes import bounded_ratio
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.tokens import LOG_RATIO_LIMIT
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


def error_metrics(errors: int, rollouts: int) -> dict[str, float]:
    """Computes `reward/{errors,errors_frac}` of the checks of a step that gave no reward."""
    return {"reward/errors": errors, "reward/errors_frac": errors / rollouts if rollouts else NAN}


def _part_means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for each in parts for name in each})
    # A part that is missing counts 0, as in the reward itself; a check that failed has no parts.
    paid = [each for each in parts if each]
    return {
        f"reward/{name}_mean": float(np.mean([each.get(name, 0.0) for each in paid]))
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

    Staleness: steps between the weights that drew a token and those its training began with, over
    tokens.
    Age: steps since the one that a queued or replayed sample was drawn for, over samples; the key
    is absent if no such sample was trained on. Teachers have neither.
    """
    tokens: Counter[int] = Counter()  # by staleness
    ages: dict[str, list[int]] = {"queue": [], "replay": []}
    for sample in samples:
        rollout = sample.rollout
        if rollout.is_teacher:
            continue
        if sample.source != "new":
            ages[sample.source].append(step - rollout.step)
            continue
        for count, source_step in rollout.writers:
            # A token drawn from the weights that its own step began with has staleness 0.
            tokens[step - source_step - 1] += count
    total = sum(tokens.values())
    stale = sum(staleness * count for staleness, count in tokens.items())
    metrics = {
        "staleness/mean": stale / total if total else 0.0,
        "staleness/max": float(max(+tokens, default=0)),
    }
    return metrics | {
        f"age/{source}_mean": float(np.mean(values)) for source, values in ages.items() if values
    }


def segment_metrics(groups: Sequence[Group], step: int) -> dict[str, float]:
    """Computes `segments/{per_rollout_mean,lag_mean,lag_max}` of what the step takes.

    Lag: steps from the one that began a group to this one. {} without segments.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts if rollout.segments]
    if not rollouts:
        return {}
    lags = [step - group.begun_in for group in groups]
    return {
        "segments/per_rollout_mean": float(np.mean([len(each.segments) for each in rollouts])),
        "segments/lag_mean": float(np.mean(lags)),
        "segments/lag_max": float(max(lags)),
    }


def flight_metrics(taken: Sequence[Group], carried: Sequence[Group], step: int) -> dict[str, float]:
    """Computes what the step's phase left in flight, and the most that a rollout wrote in it.

    That is `segments/{carried_prompts,carried_finished,carried_tokens,phase_tokens_max}`. If
    nothing was drawn out longer, the last is `rollout.segment_tokens` at most.

    Args:
        taken: the groups that the step trains on.
        carried: those in flight after it.
    """
    left = [rollout for group in carried for rollout in group.rollouts]
    drawn = [rollout for group in taken for rollout in group.rollouts] + left
    return {
        "segments/carried_prompts": len(carried),
        "segments/carried_finished": sum(group.is_finished for group in carried),
        "segments/carried_tokens": sum(rollout.num_response_tokens for rollout in left),
        "segments/phase_tokens_max": max((_written_in(each, step) for each in drawn), default=0),
    }


def _written_in(rollout: Rollout, step: int) -> int:
    """Tokens that the phase of a step added to a rollout."""
    first = next((each.start for each in rollout.segments if each.step == step), None)
    return 0 if first is None else rollout.num_response_tokens - first


class LengthBias:
    """Whether short responses are trained on before long ones, over the run so far.

    Prompts whose responses are short are finished first, so of the youngest prompts only these have
    been trained on. Of the draws before the first that is still in flight none is missing. The bias
    is the mean length of all responses trained on over the mean length of those, minus 1: below 0
    if short ones are ahead. Its size is that of what is in flight over all that was drawn, so it
    must go to 0 as the run goes on.

    Its state is in the checkpoint.
    """

    def __init__(self) -> None:
        self._first = 0  # the first draw that was not trained on
        self._whole = [0, 0]  # responses and tokens of the draws before it
        self._ahead: dict[int, tuple[int, int]] = {}  # the same of each draw behind it

    def add(self, groups: Sequence[Group]) -> dict[str, float]:
        """Takes the groups of a step; {} without segments."""
        if not any(rollout.segments for group in groups for rollout in group.rollouts):
            return {}
        for group in groups:
            tokens = sum(rollout.num_response_tokens for rollout in group.rollouts)
            self._ahead[group.draw] = (len(group.rollouts), tokens)
        while self._first in self._ahead:
            responses, tokens = self._ahead.pop(self._first)
            self._whole = [self._whole[0] + responses, self._whole[1] + tokens]
            self._first += 1
        if not self._whole[1]:
            return {"segments/length_bias": NAN}
        responses = self._whole[0] + sum(count for count, _ in self._ahead.values())
        tokens = self._whole[1] + sum(count for _, count in self._ahead.values())
        mean = self._whole[1] / self._whole[0]
        return {"segments/length_bias": tokens / responses / mean - 1}

    def state_dict(self) -> dict[str, Any]:
        ahead = [[draw, *counts] for draw, counts in self._ahead.items()]
        return {"first": self._first, "whole": self._whole, "ahead": ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first = int(state["first"])
        self._whole = [int(count) for count in state["whole"]]
        self._ahead = {
            int(draw): (int(responses), int(tokens)) for draw, responses, tokens in state["ahead"]
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
    rollouts: Sequence[Rollout],
    scores: Mapping[RolloutKey, TokenScores],
    temperature: float,
    source_step: int = 0,
) -> dict[str, float]:
    """Compares the engine's logprobs with the learner's, on the tokens that the engine drew.

    Over rollouts drawn at the training temperature; of those in segments only over tokens drawn
    from the weights after `source_step`, the newest that the step has. On older ones the difference
    is the policy's own movement. The caller leaves out waves with top-p or
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
    newest = [
        rollout.source_steps == source_step if rollout.segments else slice(None) for rollout in same
    ]
    pairs = list(zip(same, newest, strict=True))
    engine = join([each.rollout_logprob[new] for each, new in pairs]).astype(np.float64)
    learner = join([scores[each.key].logprob[new] for each, new in pairs]).astype(np.float64)
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
