"""What a step leaves in numbers: its line of metrics.jsonl, the rows of its updates, alarms."""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isentropic.config import Config
from isentropic.controller.probe import probe_gap, probe_max, token_gaps
from isentropic.controller.step import Evaluation, Step, Update
from isentropic.metrics.accounting import mean_over_updates, update_metrics
from isentropic.metrics.alarms.alarms import Alarms
from isentropic.metrics.classes import ClipSides, bounded_ratio, clip_sides
from isentropic.metrics.counterfactual import (
    build_counterfactuals,
    counterfactual_metrics,
    loss_fields,
)
from isentropic.metrics.entropy import START_ENTROPY, entropy_metrics, entropy_trained
from isentropic.metrics.evaluation import evaluation_metrics
from isentropic.metrics.ledger import (
    Explained,
    contributions,
    is_ledger,
    step_ledger,
    token_columns,
    update_ledger,
)
from isentropic.metrics.recheck import measured_change
from isentropic.metrics.step_metrics import (
    LengthBias,
    error_metrics,
    flight_metrics,
    initial_kl,
    mismatch_metrics,
    response_metrics,
    reward_metrics,
    router_metrics,
    segment_metrics,
    staleness_metrics,
    usage_metrics,
)
from isentropic.metrics.tokens import Array, TokenTable, token_table
from isentropic.objectives.loss.leaves import LeafResult, leaf_gradients
from isentropic.records import Rollout, RolloutKey, TokenScores

# Facts about an update: they stand in updates.jsonl, and the step's line has no mean of them.
FACTS = ("policy_version", "grad_norm", "skipped")


class Log(Protocol):
    """Where lines go: JSONL, W&B, the terminal. None of them may block or raise into the loop."""

    def log(self, step: int, metrics: dict[str, Any]) -> None: ...

    def log_alarm(self, record: dict[str, Any]) -> None: ...


class UpdateLog(Log, Protocol):
    """A log that also takes one row per optimizer step."""

    def log_updates(self, step: int, rows: list[dict[str, Any]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What the alarms ask of the loop: to end the run (and why), to save a checkpoint."""

    stop: str | None = None
    checkpoint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTokens:
    """The tokens of an update as its loss saw them, in the order of its samples."""

    table: TokenTable
    leaves: LeafResult
    push: Array  # [N] -d loss / d logprob
    of_objective: dict[str, Array]  # [N] each: the objective's own metrics

    def sides(self, update: Update) -> ClipSides:
        """The sides of the clip, at the bounds that the update had."""
        ratio = self.of_objective.get("ratio", bounded_ratio(self.table.log_ratio))
        return clip_sides(ratio, self.table.advantage, update.coefficients, self.of_objective)

    def contribution(self, update: Update) -> Array:
        """[N] nats: each token's part of `now`; the update has books."""
        return contributions(update.books, update.learning_rate, self.push, self.d_entropy)

    @property
    def d_entropy(self) -> Array | None:
        """[N] d loss / d entropy; None if no term has the entropy in it."""
        return None if self.leaves.d_entropy is None else self.leaves.d_entropy.numpy()


@dataclass(frozen=True, slots=True)
class Account:
    """What the accounting found for one update."""

    row: dict[str, float]  # of updates.jsonl
    tokens: dict[str, NDArray] | None = None  # for attribution/; None if it has no books


def threads() -> int:
    """How many updates are accounted for at a time: a part of the CPUs that this process may use."""
    return min(8, max(1, len(os.sched_getaffinity(0)) // 4))


def update_tokens(config: Config, update: Update) -> UpdateTokens:
    """Differentiates the loss of an update by its tokens again, from what the learner returned."""
    table = token_table(
        update.samples,
        weights=update.weights,
        logprob=update.logprob,
        entropy=update.entropy,
    )
    leaves = leaf_gradients(
        config.objective,
        update.coefficients,
        loss_fields(table),
        terms=config.terms,
        term_coefficients=update.term_coefficients,
        seed=update.seed,
    )
    return UpdateTokens(
        table=table,
        leaves=leaves,
        push=-leaves.d_logprob.numpy(),
        of_objective={name: values.numpy() for name, values in leaves.metrics.items()},
    )


class Reporter:
    """Computes the metrics of every step and hands them out. Its state is in the checkpoint."""

    def __init__(self, config: Config, files: UpdateLog, logs: Sequence[Log] = ()) -> None:
        """
        Args:
            files: the JSONL files of the run folder, which also take the rows of the updates.
            logs: the others that take every line.
        """
        self._config = config
        self._files = files
        self._logs = [files, *logs]
        self._panel = build_counterfactuals(config.accounting.counterfactuals)
        self._alarms = Alarms(config.alarms)
        self._explained = Explained()
        self._length_bias = LengthBias()
        self._best: list[tuple[float, int]] = []  # (held-out avg@k, step)
        self._none_in_a_row = 0  # steps without an update
        self._threads = ThreadPoolExecutor(threads(), thread_name_prefix="accounting")

    def start(self, evaluation: Evaluation, scores: Mapping[RolloutKey, TokenScores]) -> None:
        """Writes line 0: the policy before any update, on held-out prompts.

        They are sampled at the training temperature, as the entropy of every later line. It has a
        key of its own: one curve must not hold two populations.
        """
        rollouts = [rollout for group in evaluation.start for rollout in group.rollouts]
        entropy = entropy_metrics(rollouts, scores)["entropy/mean"]
        metrics = {"policy_version": 0, START_ENTROPY: entropy}
        metrics |= response_metrics(rollouts) | self._mismatch(rollouts, scores, 0)
        self._hand_out(0, metrics | self._evaluation(0, evaluation))

    def begin(self, step: Step) -> None:
        """Begins what costs most of the line, in threads; `step` takes what they found.

        The step must be trained. Weights go to the engines meanwhile.
        """
        step.drawn = self._threads.submit(self._drawn, step)
        measured = 0
        for update in [*step.updates, *step.replayed]:
            step.accounts.append(self._threads.submit(self._account, step.step, update, measured))
            measured += update.books is not None

    def step(self, step: Step) -> Decision:
        """Writes the line of a step and the rows of its updates; what the step's alarms ask for."""
        start = time.perf_counter()
        if step.drawn is None:
            self.begin(step)
        accounts = [account.result() for account in step.accounts]
        step.attribution = [account.tokens for account in accounts if account.tokens is not None]
        rows = [account.row for account in accounts[: len(step.updates)]]
        replayed = [account.row for account in accounts[len(step.updates) :]]
        metrics: dict[str, Any] = {"policy_version": step.policy_version}
        metrics |= step.drawn.result() | self._trained(step, _made(rows)) | step.metrics
        metrics |= {
            f"replay/{name}": value
            for name, value in _means(_made(replayed)).items()
            if name.startswith("clip/")
        }
        metrics |= self._change(step)
        books = step_ledger(rows + replayed)
        metrics |= books | self._explained.add(books)
        if step.evaluation is not None:
            metrics |= self._evaluation(step.step, step.evaluation)
        metrics |= self._costs(step) | {"time/accounting_s": time.perf_counter() - start}
        self._files.log_updates(step.step, rows + replayed)
        return self._hand_out(step.step, metrics)

    def best_steps(self, count: int, among: Collection[int]) -> set[int]:
        """The steps of the best held-out scores, of those that have a checkpoint."""
        saved = [(score, step) for score, step in self._best if step in among]
        return {step for _, step in sorted(saved, reverse=True)[:count]}

    def state_dict(self) -> dict[str, Any]:
        return {
            "alarms": self._alarms.state_dict(),
            "explained": self._explained.state_dict(),
            "length_bias": self._length_bias.state_dict(),
            "best": self._best,
            "none_in_a_row": self._none_in_a_row,
        }

    def load_state_dict(
        self, state: dict[str, Any], past: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Goes on from a checkpoint; `past` are the run's lines up to it."""
        self._alarms.load_state_dict(state["alarms"], past)
        if "explained" in state:  # checkpoints of version 0.1 have no books
            self._explained.load_state_dict(state["explained"])
        if "length_bias" in state:  # same of runs before there were segments
            self._length_bias.load_state_dict(state["length_bias"])
        self._best = [(float(score), int(step)) for score, step in state["best"]]
        self._none_in_a_row = int(state.get("none_in_a_row", 0))  # old checkpoints lack it

    def _drawn(self, step: Step) -> dict[str, Any]:
        """Metrics of everything drawn, before any filter."""
        batch, scores = step.delivery.batch, step.scores
        metrics = reward_metrics(batch.groups) | entropy_metrics(batch.rollouts, scores)
        metrics |= response_metrics(batch.rollouts)
        metrics |= error_metrics(batch.reward_errors, len(batch.rollouts))
        metrics |= initial_kl([scores[rollout.key] for rollout in batch.rollouts])
        metrics |= segment_metrics(batch.groups, step.step) | self._length_bias.add(batch.groups)
        if (flight := step.delivery.flight) is not None:
            metrics |= flight_metrics(batch.groups, flight.groups, step.step)
        return metrics | self._mismatch(batch.rollouts, scores, batch.source_step)

    def _mismatch(
        self,
        rollouts: Sequence[Rollout],
        scores: Mapping[RolloutKey, TokenScores],
        source_step: int,
    ) -> dict[str, float]:
        """Compares the engines' logprobs with the learner's.

        NaN with top-p or top-k: then the engine's logprobs are of another distribution on purpose.
        """
        config = self._config.rollout
        whole = config.top_p == 1 and config.top_k == -1
        return mismatch_metrics(rollouts if whole else [], scores, config.temperature, source_step)

    def _trained(self, step: Step, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """Metrics of what was trained on: means over the updates made, and facts about all."""
        updates = [*step.updates, *step.replayed]
        metrics = entropy_trained(step.samples) | staleness_metrics(step.samples, step.step)
        means = _means(rows)
        metrics |= mean_over_updates(
            [_accounted(row) for row in rows], self._config.accounting.p_split
        )
        metrics |= {name: value for name, value in means.items() if name not in metrics}
        norms = [update.grad_norm for update in updates]
        metrics["grad_norm/mean"] = float(np.mean(norms)) if norms else float("nan")
        metrics["grad_norm/max"] = float(np.max(norms)) if norms else float("nan")
        metrics["update/count"] = len(norms)
        self._none_in_a_row = 0 if updates else self._none_in_a_row + 1
        metrics["update/none_in_a_row"] = self._none_in_a_row
        metrics["update/skipped"] = sum(update.skipped for update in updates)
        metrics["update/samples"] = len(step.samples)
        return metrics

    def _account(self, step: int, update: Update, number: int) -> Account:
        """Accounts for one update: its tokens, and the panel of other objectives.

        Args:
            number: of the step's updates with books, which one it is, or would be.
        """
        config = self._config
        coefficients = update.coefficients
        tokens = update_tokens(config, update)
        table, push, of_objective = tokens.table, tokens.push, tokens.of_objective
        p_split = config.accounting.p_split
        row: dict[str, float] = {
            "policy_version": update.policy_version,
            "loss": float(tokens.leaves.loss),
            "grad_norm": update.grad_norm,
            "skipped": update.skipped,
            "learning_rate": update.learning_rate,
        }
        row |= update_metrics(
            table,
            push=push,
            bounds=coefficients,
            p_split=p_split,
            token_metrics=of_objective,
            d_entropy=tokens.d_entropy,
        )
        row |= {
            name: float(values.mean())
            for name, values in of_objective.items()
            if name not in row and values.size
        }
        row |= counterfactual_metrics(
            table,
            push,
            self._panel,
            step=step,
            seed=update.seed,
            p_split=p_split,
            effect=None if update.books is None else self._effect(update, tokens),
        )
        row |= router_metrics(update.routers)
        if update.books is None:
            return Account(row)
        contribution = tokens.contribution(update)
        row |= update_ledger(
            table,
            update.samples,
            update.books,
            contribution,
            sides=tokens.sides(update),
            p_split=p_split,
        )
        return Account(row, token_columns(number, table, update.samples, contribution, push))

    def _effect(self, update: Update, tokens: UpdateTokens) -> Callable[[Array], float]:
        """Makes the function from a push to its nats along the real step, added terms included."""
        of_push = partial(contributions, update.books, update.learning_rate)
        config = self._config
        of_terms = 0.0
        if config.terms.on():
            alone = leaf_gradients(
                config.objective, update.coefficients, loss_fields(tokens.table), seed=update.seed
            )
            push = alone.d_logprob.numpy() - tokens.leaves.d_logprob.numpy()
            of_terms = of_push(push, tokens.d_entropy).sum()
        return lambda push: float(of_push(push, None).sum() + of_terms)

    def _change(self, step: Step) -> dict[str, float]:
        """The entropy change of the step, measured on some contexts."""
        keys = sorted(step.rechecked)
        old = {sample.rollout.key: sample.old for sample in step.samples}
        before = [old[key] for key in keys]
        return measured_change(
            [score.entropy for score in before], [step.rechecked[key].entropy for key in keys]
        )

    def _evaluation(self, step: int, evaluation: Evaluation) -> dict[str, Any]:
        rollouts = [rollout for group in evaluation.groups for rollout in group.rollouts]
        if not rollouts:
            return {}
        name = self._config.task.name
        metrics: dict[str, Any] = evaluation_metrics(
            {name: rollouts}, self._config.evaluation.samples
        )
        metrics["eval/policy_version"] = rollouts[0].policy_version
        metrics["time/eval_s"] = evaluation.seconds
        self._best.append((metrics["eval/avg_at_k"], step))
        return metrics

    def _costs(self, step: Step) -> dict[str, float]:
        """Where the time went, and how fast both sides were."""
        seconds, total = step.watch.seconds, step.watch.total
        clock, sync_s = step.delivery.clock, step.delivery.sync_s
        # On policy the loop waits while engines load, draw and are graded. That time has keys of
        # its own and must not count as waiting too.
        on_policy = self._config.rollout.max_staleness == 0
        engines = clock.rollout_s + clock.reward_s + sync_s if on_policy else 0.0
        replayed = [sample for update in step.replayed for sample in update.samples]
        trained = sum(sample.rollout.num_response_tokens for sample in [*step.samples, *replayed])
        scored = sum(len(score.logprob) for score in step.scores.values())
        worked = seconds.get("update", 0.0) + seconds.get("old_logprob", 0.0)
        mfu = step.updates[0].mfu if step.updates else None
        gaps = token_gaps(step.probe, step.scores)
        return {
            "time/step_s": total,
            "time/rollout_s": clock.rollout_s,
            "time/reward_s": clock.reward_s,
            "time/old_logprob_s": seconds.get("old_logprob", 0.0),
            "time/update_s": seconds.get("update", 0.0),
            "time/recheck_s": seconds.get("recheck", 0.0),
            "time/sync_s": sync_s + seconds.get("publish", 0.0),
            "time/wait_s": max(0.0, seconds.get("waited", 0.0) - engines),
            "time/other_s": max(0.0, total - sum(seconds.values())),
            "throughput/rollout_tok_s": clock.tokens / clock.rollout_s if clock.rollout_s else 0.0,
            "throughput/learner_tok_s": (trained + scored) / worked if worked else 0.0,
            **({"throughput/mfu": mfu} if mfu is not None else {}),
            "sync/probe_logprob_abs_max": probe_max(gaps),
            "sync/probe_gap": probe_gap(gaps),
            **{f"sync/{phase}": spent for phase, spent in step.delivery.sync.items()},
            **usage_metrics(step.delivery.usage),
        }

    def _hand_out(self, step: int, metrics: dict[str, Any]) -> Decision:
        for log in self._logs:
            log.log(step, metrics)
        records = self._alarms.check({"step": step} | metrics) if step else []
        for record in records:
            for log in self._logs:
                log.log_alarm(record)
        actions = {record["action"]: record["message"] for record in records}
        return Decision(stop=actions.get("stop"), checkpoint="checkpoint" in actions)


def _made(rows: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Leaves out skipped updates: they moved nothing, and their numbers may not be finite."""
    return [row for row in rows if not row["skipped"]]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the updates of everything but the facts; nothing for no update."""
    names = [name for name in rows[0] if name not in FACTS and not is_ledger(name)] if rows else []
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _accounted(row: Mapping[str, float]) -> dict[str, float]:
    """What the accounting computed: not the panel, not the facts about the update."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith("cf/") and name not in FACTS and not is_ledger(name)
    }
