"""One branch point: a state, the same updates from it under each setting, what they came to."""

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
from isentropic.metrics.tokens import LOG_RATIO_LIMIT
from isentropic.objectives.loss.needs import needs_reference
from isentropic.records import Rollout, RolloutKey, TokenScores

UPDATES = {  # name of a branch's number -> that of the step's line
    "clip_frac": "clip/frac",
    "clip_low_frac": "clip/low_frac",
    "clip_high_frac": "clip/high_frac",
    "drift": "drift/total",
    "grad_norm": "grad_norm/mean",
}
Scores = dict[RolloutKey, TokenScores]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how it is measured.

    Attributes:
        exact: as many ranks as the run had; else one, which differs from the run by rounding.
        contexts: rollouts to measure on, at most: of the step trained on, and of two others each.
        orders: ways to put the step's prompts into updates, each the same for all settings. A row
            is their mean: a small change of an update moves the branch by chance too, and that
            chance averages out.
    """

    run: RecordedRun
    settings: tuple[Arm, ...]
    exact: bool
    contexts: int
    orders: int

    @property
    def run_name(self) -> str:
        """What rows call the run."""
        return self.run.folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Where a point's branches are measured: rollouts of the run, the same for every setting."""

    trained: tuple[Rollout, ...]  # of the step that the branches make
    held_out: tuple[Rollout, ...] = field(default=())  # of neighbouring steps: other prompts

    @property
    def rollouts(self) -> list[Rollout]:
        return [*self.trained, *self.held_out]


class Brancher:
    """Makes the branches of one point after another; no point's rows depend on earlier points."""

    def __init__(self, comparison: Comparison, prepared: Prepared, learner: OncePerState) -> None:
        self._comparison = comparison
        self._prepared = prepared
        self._learner = learner
        self._base = Replayer(without_panel(comparison.run.config), learner, prepared)
        self._branched = False

    async def at(self, point: int) -> Rows:
        """One row per setting, of the branches from the state after step `point`.

        Points come in rising order.
        """
        # The last branch left the learner elsewhere: it goes back to the point where that began.
        if self._branched:
            await self._base.configure()
            await self._learner.recall()
        run = self._comparison.run
        await walk_to(run, self._base, point)
        await self._learner.remember()
        self._branched = True
        contexts = contexts_of(run, point, self._comparison.contexts)
        before = await self._base.score(contexts.rollouts)
        rows = []
        for setting in self._comparison.settings:
            branches = [
                await self._branch(setting, contexts, before, order)
                for order in range(self._comparison.orders)
            ]
            row = {"step": point, "setting": setting.label, "run": self._comparison.run_name}
            row |= {key: float(np.mean([one[key] for one in branches])) for key in branches[0]}
            rows.append(row)
        return rows

    async def _branch(
        self, setting: Arm, contexts: Contexts, before: Scores, order: int
    ) -> dict[str, float]:
        """Makes one branch from the state that the learner remembers, and measures it."""
        replayer = Replayer(
            without_panel(setting.config), self._learner, self._prepared, order=order
        )
        replayer.follow(self._base)
        await replayer.configure()
        await self._learner.recall()
        step = await replayer.train(self._comparison.run.batch(self._base.step + 1))
        line = await replayer.report(step)
        after = await replayer.score(contexts.rollouts)
        return measured(contexts, before, after) | {
            name: line[key] for name, key in UPDATES.items() if key in line
        }


@asynccontextmanager
async def brancher(comparison: Comparison, prepared: Prepared) -> AsyncIterator[Brancher]:
    """A brancher with its own learner, which lives as long as the context."""
    config = comparison.run.config
    configs = [config, *(setting.config for setting in comparison.settings)]
    reference = any(needs_reference(config.objective, config.terms) for config in configs)
    async with replay_learner(
        config, prepared.model, exact=comparison.exact, reference=reference
    ) as ranks:
        yield Brancher(comparison, prepared, OncePerState(ranks))


def measured(contexts: Contexts, before: Scores, after: Scores) -> dict[str, float]:
    """The numbers of a branch: entropy after the updates, KL(branch point || after), reward.

    Entropy and KL (estimators k1 and k3) are in nats per token over the contexts.
    """
    old = _tokens(before, contexts.rollouts, "logprob")
    new = _tokens(after, contexts.rollouts, "logprob")
    log_ratio = np.clip(new - old, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    row = {
        "entropy": float(_tokens(after, contexts.rollouts, "entropy").mean()),
        "entropy_trained": float(_tokens(after, contexts.trained, "entropy").mean()),
    }
    if contexts.held_out:
        row["entropy_held_out"] = float(_tokens(after, contexts.held_out, "entropy").mean())
        row["reward"], row["reward_effective"] = expected_reward(after, contexts.held_out)
    return row | {
        "kl_k1": float((old - new).mean()),
        "kl_k3": float((np.expm1(log_ratio) - log_ratio).mean()),
    }


def expected_reward(scores: Scores, rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Mean task reward of the policy on recorded rollouts, and the share of them that counts.

    No engine draws anew: each rollout weighs pi(response) / mu(response), mu being the policy that
    wrote it (self-normalised importance sampling). The reward means something while the policies
    are close, that is, while the effective share (sum w)^2 / (n sum w^2) is not small. The rollouts
    must be ones that no branch was trained on.
    """
    log_ratio = [
        np.sum(scores[rollout.key].logprob - rollout.rollout_logprob, dtype=np.float64)
        for rollout in rollouts
    ]
    weight = np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    reward = np.array([rollout.reward for rollout in rollouts], dtype=np.float64)
    mean = weight @ reward / weight.sum()
    effective = weight.sum() ** 2 / (len(weight) * (weight @ weight))
    return float(mean), float(effective)


def contexts_of(run: RecordedRun, point: int, limit: int) -> Contexts:
    """Rollouts of the step after the point and of the two steps after that.

    At the ledger's end earlier steps take the place of those that are missing. The effects of one
    step are small: the more contexts that no branch trained on, the less they drown in chance.
    """

    def spread(step: int) -> tuple[Rollout, ...]:
        return _spread(first_wave(run.batch(step).rollouts), limit)

    others = [step for step in (point + 2, point + 3, point, point - 1) if step in run.steps]
    held_out = [rollout for step in others[:2] for rollout in spread(step)]
    return Contexts(trained=spread(point + 1), held_out=tuple(held_out))


def _spread(rollouts: Sequence[Rollout], limit: int) -> tuple[Rollout, ...]:
    """At most `limit` rollouts with a response, evenly over the canonical order."""
    written = [rollout for rollout in rollouts if rollout.num_response_tokens]
    ordered = sorted(written, key=lambda rollout: rollout.key)
    if len(ordered) <= limit:
        return tuple(ordered)
    return tuple(ordered[int(index)] for index in np.linspace(0, len(ordered) - 1, limit).round())


def _tokens(scores: Scores, rollouts: Sequence[Rollout], name: str) -> np.ndarray:
    values = [getattr(scores[rollout.key], name) for rollout in rollouts]
    return np.concatenate(values).astype(np.float64)
