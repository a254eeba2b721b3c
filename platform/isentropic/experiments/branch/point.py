"""One branch point: the state after a step, the same updates under each setting, and what is measured afterwards."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isentropic.experiments.branch.arms import Arm
from isentropic.experiments.branch.learner import replay_learner
from isentropic.experiments.branch.once_per_state import OncePerState
from isentropic.experiments.branch.replayer import Replayer, walk_to, without_panel
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.metrics.entropy import first_wave
from isentropic.records import Rollout, RolloutKey, TokenScores

UPDATES = {  # name of a branch's number -> that of the step's line
    "clip_frac": "clip/frac",
    "clip_low_frac": "clip/low_frac",
    "clip_high_frac": "clip/high_frac",
    "drift": "drift/total",
    "grad_norm": "grad_norm/mean",
}
LOG_RATIO_LIMIT = 20.0
Scores = dict[RolloutKey, TokenScores]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how it is measured.

    Attributes:
        exact: as many ranks as the run had; else one, which differs from the run by rounding.
        contexts: rollouts to measure on, at most: of the step trained on, and of each of two others.
        orders: ways to put the step's prompts into updates, each the same for all settings; a row is their mean. A
            small change of an update moves the branch by chance too, and that chance averages out.
    """

    run: RecordedRun
    settings: tuple[Arm, ...]
    exact: bool
    contexts: int
    orders: int


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Where a point's branches are measured: rollouts of the run, the same for every setting."""

    trained: tuple[Rollout, ...]  # of the step that the branches make
    held_out: tuple[Rollout, ...] = field(default=())  # of neighbouring steps: other prompts

    @property
    def rollouts(self) -> list[Rollout]:
        return [*self.trained, *self.held_out]


class Brancher:
    """Makes the branches of one point after another; a point's rows do not depend on those made before."""

    def __init__(self, about: Comparison, prepared: Prepared, learner: OncePerState) -> None:
        self._about, self._prepared, self._learner = about, prepared, learner
        self._base = Replayer(without_panel(about.run.config), learner, prepared)
        self._branched = False

    async def at(self, point: int) -> Rows:
        """A row a setting, of the branches from the state after step `point`. Points come in rising order."""
        if self._branched:  # the learner is where the last branch left it
            await self._base.configure()
            await self._learner.recall()
        run = self._about.run
        await walk_to(run, self._base, point)
        await self._learner.remember()
        self._branched = True
        where = contexts_of(run, point, self._about.contexts)
        before = await self._base.score(where.rollouts)
        rows = []
        for setting in self._about.settings:
            made = [
                await self._branch(setting, where, before, order)
                for order in range(self._about.orders)
            ]
            named = {"step": point, "setting": setting.label, "run": run.folder.resolve().name}
            rows.append(
                named | {key: float(np.mean([each[key] for each in made])) for key in made[0]}
            )
        return rows

    async def _branch(
        self, setting: Arm, where: Contexts, before: Scores, order: int
    ) -> dict[str, float]:
        """One setting from the state that the learner remembers."""
        own = Replayer(without_panel(setting.config), self._learner, self._prepared, order=order)
        own.follow(self._base)
        await own.configure()
        await self._learner.recall()
        line = await own.report(await own.train(self._about.run.batch(self._base.step + 1)))
        after = await own.score(where.rollouts)
        return measured(where, before, after) | {
            name: line[key] for name, key in UPDATES.items() if key in line
        }


@asynccontextmanager
async def brancher(about: Comparison, prepared: Prepared) -> AsyncIterator[Brancher]:
    """With a learner of its own."""
    config = about.run.config
    reference = (
        any(each.config.terms.kl is not None for each in about.settings)
        or config.terms.kl is not None
    )
    async with replay_learner(
        config, prepared.model, exact=about.exact, reference=reference
    ) as ranks:
        yield Brancher(about, prepared, OncePerState(ranks))


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
    return row | {
        "kl_k1": float((old - new).mean()),
        "kl_k3": float((np.expm1(log_ratio) - log_ratio).mean()),
    }


def expected_reward(scores: Scores, rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Mean task reward of the policy on the prompts of recorded rollouts, and the share of them that still counts.

    No engine draws anew: each rollout weighs pi(response) / mu(response), mu being the policy that wrote it
    (self-normalised importance sampling), so the reward is meaningful while the policies are close: while the effective
    share, (sum w)^2 / (n sum w^2), is not small. The rollouts must be ones that no branch was trained on.
    """
    log_ratio = [
        np.sum(scores[each.key].logprob - each.rollout_logprob, dtype=np.float64)
        for each in rollouts
    ]
    weight = np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    reward = np.array([each.reward for each in rollouts], dtype=np.float64)
    return float(weight @ reward / weight.sum()), float(
        weight.sum() ** 2 / (len(weight) * (weight @ weight))
    )


def contexts_of(run: RecordedRun, point: int, limit: int) -> Contexts:
    """Rollouts of the step after the point; and of the next two (at the ledger's end: of those before).

    Effects of one step are small: the more contexts that no branch trained on, the less they drown in chance.
    """
    neighbours = [step for step in (point + 2, point + 3, point, point - 1) if step in run.steps][
        :2
    ]
    held_out = [
        each for step in neighbours for each in _spread(first_wave(run.batch(step).rollouts), limit)
    ]
    return Contexts(
        trained=_spread(first_wave(run.batch(point + 1).rollouts), limit), held_out=tuple(held_out)
    )


def _spread(rollouts: Sequence[Rollout], limit: int) -> tuple[Rollout, ...]:
    """At most `limit` rollouts with a response, evenly over the canonical order."""
    ordered = [
        each for each in sorted(rollouts, key=lambda each: each.key) if each.num_response_tokens
    ]
    if len(ordered) <= limit:
        return tuple(ordered)
    return tuple(ordered[int(index)] for index in np.linspace(0, len(ordered) - 1, limit).round())


def _tokens(scores: Scores, rollouts: Sequence[Rollout], name: str) -> np.ndarray:
    return np.concatenate([getattr(scores[each.key], name) for each in rollouts]).astype(np.float64)
