"""From one state, the same updates under each setting: what a coefficient does, with everything else equal.

Between runs of different settings everything differs after a step: rollouts, weights, chance. Here weights,
optimizer, rollouts, order and seeds are the same, and the entropy after the step is measured on the same contexts, so
the differences are the setting's own. specs/ce_gppo.md 4.4, T3.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.durable import write_text_durably
from isentropic.experiments.branch_learner import OncePerState
from isentropic.experiments.branch_settings import Setting
from isentropic.experiments.prepare import Prepared
from isentropic.experiments.replay import Replayer, walk_to, without_panel
from isentropic.experiments.replay_learner import replay_learner
from isentropic.experiments.replay_run import RecordedRun
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.report.branches import BRANCHES
from isentropic.metrics.sinks import plain, read_lines
from isentropic.records import Rollout, RolloutKey, TokenScores

SETTINGS = "settings.json"  # in the branch folder: label -> overrides, objective
UPDATES = {  # name of a branch's number -> that of the step's line
    "clip_frac": "clip/frac",
    "clip_low_frac": "clip/low_frac",
    "clip_high_frac": "clip/high_frac",
    "drift": "drift/total",
    "grad_norm": "grad_norm/mean",
}
LOG_RATIO_LIMIT = 20.0
Scores = dict[RolloutKey, TokenScores]


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Where a point's branches are measured: rollouts of the run, the same for every setting."""

    trained: tuple[Rollout, ...]  # of the step that the branches make
    held_out: tuple[Rollout, ...] = field(default=())  # of neighbouring steps: other prompts

    @property
    def rollouts(self) -> list[Rollout]:
        return [*self.trained, *self.held_out]


async def branch(
    run: RecordedRun,
    prepared: Prepared,
    settings: Sequence[Setting],
    points: Sequence[int],
    out: Path,
    *,
    exact: bool,
    contexts: int,
    orders: int,
    say: Callable[[str], None],
) -> None:
    """Appends a row for each point and setting to out/branches.jsonl; points that are there are not made again.

    Args:
        points: steps; the branches start from the state after each.
        exact: as many ranks as the run had; else one, which differs from the run by rounding.
        contexts: rollouts to measure on, at most: of the step trained on, and of each of two others.
        orders: ways to put the step's prompts into updates, each the same for all settings; a row is their mean. A
            small change of an update moves the branch by chance too, and that chance averages out.
    """
    done = begin(out, settings, orders)
    reference = any(setting.config.terms.kl is not None for setting in settings) or run.config.terms.kl is not None
    async with replay_learner(run.config, prepared.model, exact=exact, reference=reference) as ranks:
        learner = OncePerState(ranks)
        base = Replayer(without_panel(run.config), learner, prepared)
        for number, point in enumerate(sorted(set(points) - done), start=1):
            if number > 1:  # the learner is where the last branch left it
                await base.configure()
                await learner.recall()
            await walk_to(run, base, point)
            await learner.remember()
            where = contexts_of(run, point, contexts)
            before = await base.score(where.rollouts)
            rows = []
            for setting in settings:
                made = [await _one(run, prepared, learner, base, setting, where, before, n) for n in range(orders)]
                named = {"step": point, "setting": setting.label, "run": run.folder.resolve().name}
                rows.append(named | {key: float(np.mean([each[key] for each in made])) for key in made[0]})
            append(out, rows)
            told = ", ".join(f"{row['setting']}: {row['entropy']:.4f}" for row in rows)
            say(f"after step {point} ({number}/{len(set(points) - done)})  entropy  {told}")


async def _one(
    run: RecordedRun,
    prepared: Prepared,
    learner: OncePerState,
    base: Replayer,
    setting: Setting,
    where: Contexts,
    before: Scores,
    order: int,
) -> dict[str, float]:
    """One setting from the state that the learner remembers."""
    own = Replayer(without_panel(setting.config), learner, prepared, order=order)
    own.follow(base)
    await own.configure()
    await learner.recall()
    line = await own.report(await own.train(run.batch(base.step + 1)))
    after = await own.score(where.rollouts)
    return measured(where, before, after) | {name: line[key] for name, key in UPDATES.items() if key in line}


def measured(where: Contexts, before: Scores, after: Scores) -> dict[str, float]:
    """Entropy after the updates, KL(branch point || after) by k1 and k3, in nats a token over the contexts; reward."""
    old, new = (_tokens(scores, where.rollouts, "logprob") for scores in (before, after))
    log_ratio = np.clip(new - old, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    row = {
        "entropy": float(_tokens(after, where.rollouts, "entropy").mean()),
        "entropy_trained": float(_tokens(after, where.trained, "entropy").mean()),
    }
    if where.held_out:
        row["entropy_held_out"] = float(_tokens(after, where.held_out, "entropy").mean())
        row["reward"], row["reward_effective"] = expected_reward(after, where.held_out)
    return row | {"kl_k1": float((old - new).mean()), "kl_k3": float((np.expm1(log_ratio) - log_ratio).mean())}


def expected_reward(scores: Scores, rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Mean task reward of the policy on the prompts of recorded rollouts, and the share of them that still counts.

    No engine draws anew: each rollout weighs pi(response) / mu(response), mu being the policy that wrote it
    (self-normalised importance sampling), so the reward is meaningful while the policies are close: while the effective
    share, (sum w)^2 / (n sum w^2), is not small. The rollouts must be ones that no branch was trained on.
    """
    log_ratio = [np.sum(scores[each.key].logprob - each.rollout_logprob, dtype=np.float64) for each in rollouts]
    weight = np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    reward = np.array([each.reward for each in rollouts], dtype=np.float64)
    return float(weight @ reward / weight.sum()), float(weight.sum() ** 2 / (len(weight) * (weight @ weight)))


def contexts_of(run: RecordedRun, point: int, limit: int) -> Contexts:
    """Rollouts of the step after the point; and of the next two (at the ledger's end: of those before).

    Effects of one step are small: the more contexts that no branch trained on, the less they drown in chance.
    """
    neighbours = [step for step in (point + 2, point + 3, point, point - 1) if step in run.steps][:2]
    held_out = [each for step in neighbours for each in _spread(first_wave(run.batch(step).rollouts), limit)]
    return Contexts(trained=_spread(first_wave(run.batch(point + 1).rollouts), limit), held_out=tuple(held_out))


def begin(out: Path, settings: Sequence[Setting], orders: int) -> set[int]:
    """Writes the settings, or checks those that are there; the points that have a row of every setting.

    Raises:
        ValueError: the folder has branches of other settings.
    """
    told = {
        each.label: {"overrides": each.overrides, "objective": _objective(each), "orders": orders} for each in settings
    }
    text = json.dumps(plain(told), indent=1, default=str) + "\n"
    path = out / SETTINGS
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} has branches of other settings ({path}). Choose another folder: out=<folder>.")
    out.mkdir(parents=True, exist_ok=True)
    write_text_durably(path, text)
    rows, torn = read_lines(out / BRANCHES)
    by_point: dict[int, set[str]] = {}
    for row in rows:
        by_point.setdefault(row["step"], set()).add(row["setting"])
    done = {point for point, labels in by_point.items() if labels == set(told)}
    kept = [row for row in rows if row["step"] in done]
    if torn or len(kept) < len(rows):  # a killed process leaves a point half written: it is made again
        write_text_durably(out / BRANCHES, "".join(json.dumps(row) + "\n" for row in kept))
    return done


def append(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    with (out / BRANCHES).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)


def _objective(setting: Setting) -> dict[str, Any]:
    """Name and coefficients, as plain values."""
    objective = setting.config.objective
    values = {name: value for name, value in vars(objective).items() if isinstance(value, str | int | float | None)}
    return values | {"terms": repr(setting.config.terms)}


def _spread(rollouts: Sequence[Rollout], limit: int) -> tuple[Rollout, ...]:
    """At most `limit` rollouts with a response, evenly over the canonical order."""
    ordered = [each for each in sorted(rollouts, key=lambda each: each.key) if each.num_response_tokens]
    if len(ordered) <= limit:
        return tuple(ordered)
    return tuple(ordered[int(index)] for index in np.linspace(0, len(ordered) - 1, limit).round())


def _tokens(scores: Scores, rollouts: Sequence[Rollout], name: str) -> np.ndarray:
    return np.concatenate([getattr(scores[each.key], name) for each in rollouts]).astype(np.float64)
