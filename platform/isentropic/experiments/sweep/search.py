"""A search as it goes: batches of runs, what became of each, and who is ended early."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isentropic.checks import nearest
from isentropic.experiments.run.stopping import RelayedStopping
from isentropic.experiments.sweep.ledger import FAILED, OVER, PRUNED, SweepLedger
from isentropic.experiments.sweep.plan import Composer, Trial
from isentropic.experiments.sweep.suggest import (
    Judge,
    Outcome,
    SearchPlan,
    extremes,
    overrides_of_point,
    suggest,
)
from isentropic.metrics.report.reading import is_number
from isentropic.metrics.sinks.jsonl import read_lines


class Search:
    """Suggests the runs of a sweep, batch by batch, and reads how they ended.

    Attributes:
        trials: all runs suggested so far, in order.
        extremes: runs at all ends of the space, which are not made.
        gave_up: why no further run is suggested, although `count` was not reached; "" if it was.
    """

    def __init__(self, plan: SearchPlan, composer: Composer) -> None:
        """Check that runs at all ends of the space could start; nothing is written.

        Raises:
            ValueError: one that could not, with its overrides; a metric that no run would have.
        """
        self.plan = plan
        self.trials: list[Trial] = []
        self.gave_up = ""
        self._composer = composer
        self._past: list[Outcome] = []
        self._batch: list[tuple[dict[str, Any], Trial]] = []
        self._points: dict[str, dict[str, Any]] = {}  # by the digest of their run
        self._tried: set[str] = set()
        self._refused: list[str] = []  # why points of the space made no run
        self.extremes = [
            self._composer.trial(overrides_of_point(self.plan, point))
            for point in extremes(self.plan)
        ]
        for trial in self.extremes:
            _check_evaluated(self.plan.metric, trial)

    def first_batch(self) -> list[Trial]:
        """Return the runs that a new search begins with."""
        if not self._batch:
            self._suggest_batch()
        if not self._batch:
            raise ValueError(f"no point of the search can start: {self._refused[0]}")
        return [trial for _, trial in self._batch]

    def next_batch(self, ledger: SweepLedger) -> list[Trial]:
        """Return the runs to make next, once those before have ended; none: the search is over.

        Raises:
            ValueError: the ledger has runs that this search does not make.
        """
        while True:
            waiting = self._waiting(ledger)
            if waiting:
                self._tried |= {trial.digest for trial in waiting}
                return waiting
            self._past += [self._outcome(point, trial, ledger) for point, trial in self._batch]
            if self._batch and not any(outcome.curve for outcome in self._past):
                rows = [ledger.rows[trial.digest] for _, trial in self._batch]
                reasons = [row["message"] for row in rows if row.get("message")]
                self.gave_up = (
                    f"no run of the search's first {len(self._past)} finished, so there is nothing "
                    f"to learn from: {reasons[0] if reasons else 'see logs/'}"
                )
                self._batch = []
                return []
            self._suggest_batch()
            if not self._batch:
                self._check_known(ledger)
                return []

    def judge(self, trial: Trial) -> "Watch":
        """Return what watches a run of the batch."""
        return Watch(self.plan, trial, Judge(self.plan, self._past, self._points[trial.digest]))

    def best(self, ledger: SweepLedger) -> tuple[float, Trial] | None:
        """Return the best number and its run; those that were pruned do not count."""
        ended = [
            (self.plan.number_of(curve), trial)
            for trial in self.trials
            if ledger.state(trial.digest) in OVER
            and ledger.state(trial.digest) != PRUNED
            and (curve := curve_of(self.plan, trial))
        ]
        best = max if self.plan.goal == "max" else min
        return best(ended, key=lambda each: each[0]) if ended else None

    def summary(self, ledger: SweepLedger) -> str:
        """Return how the search ended, in a sentence."""
        if self.gave_up:
            return self.gave_up
        states = [
            ledger.state(trial.digest) for trial in {t.digest: t for t in self.trials}.values()
        ]
        counts = ", ".join(
            f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state
        )
        if self._refused:
            counts += f", {len(self._refused)} that cannot start (the first: {self._refused[0]})"
        best = self.best(ledger)
        if best is None:
            return f"search: {counts or 'no run'}; no run finished yet"
        value, trial = best
        point = " ".join(overrides_of_point(self.plan, self._points[trial.digest]))
        return (
            f"search: {counts}. Best {self.plan.metric} ({self.plan.value}) {value:.4g}: {point}\n"
            f"{trial.config.run.dir}"
        )

    def _suggest_batch(self) -> None:
        """Suggest the next batch from how the earlier ones ended; none if `count` is reached."""
        batch: list[tuple[dict[str, Any], Trial]] = []
        while len(batch) < min(self.plan.batch, self.plan.count - len(self._past)):
            point = suggest(self.plan, self._past, [before for before, _ in batch])
            try:
                trial = self._composer.trial(overrides_of_point(self.plan, point))
            except ValueError as error:  # values that are each allowed, and not together
                self._refused.append(str(error))
                self._past.append(Outcome(point=point, curve={}, was_pruned=False))
                continue
            self._points.setdefault(trial.digest, point)
            batch.append((point, trial))
        self._batch = batch
        self.trials += [trial for _, trial in batch]

    def _waiting(self, ledger: SweepLedger) -> list[Trial]:
        """Return the runs of the batch that are to be made, each once."""
        states = {trial.digest: ledger.state(trial.digest) for _, trial in self._batch}
        # The next batch was built on how this one ended: a run that failed stays a failed one then.
        later = ledger.rows.keys() - {trial.digest for trial in self.trials}
        if any(state not in (*OVER, FAILED) for state in states.values()):
            self._check_known(ledger)
        waiting = {
            trial.digest: trial
            for _, trial in self._batch
            if states[trial.digest] not in OVER
            and trial.digest not in self._tried
            and not (later and states[trial.digest] == FAILED)
        }
        return list(waiting.values())

    def _check_known(self, ledger: SweepLedger) -> None:
        """Refuse runs that are not suggested again: what follows would be built on other ones."""
        known = {trial.digest for trial in self.trials}
        others = [row["run"] for digest, row in ledger.rows.items() if digest not in known]
        if others:
            raise ValueError(
                f"the search does not suggest the run {others[0]} again, which it has made. "
                "Another version of optuna, or a changed run folder, is the usual cause. Go back to "
                "that version, or start another search: name=<another>."
            )

    def _outcome(self, point: Mapping[str, Any], trial: Trial, ledger: SweepLedger) -> Outcome:
        state = ledger.state(trial.digest)
        curve = curve_of(self.plan, trial) if state in OVER else {}
        return Outcome(point=point, curve=curve, was_pruned=state == PRUNED)


class Watch:
    """Takes each line of a run, and ends it if the search has seen enough.

    Attributes:
        pruned_at: the step after which it was ended; None if it was not.
        problem: why the run is of no use to the search; "" if it is.
    """

    def __init__(self, plan: SearchPlan, trial: Trial, judge: Judge) -> None:
        self.pruned_at: int | None = None
        self.problem = ""
        self._plan = plan
        self._trial = trial
        self._judge = judge
        self._stopping: RelayedStopping | None = None
        self._seen: dict[str, None] = {}  # keys of the lines so far
        self._last = 0
        # A run that goes on has been judged by these lines before.
        for line in read_lines(Path(trial.config.run.dir) / "metrics.jsonl")[0]:
            self.log(line["step"], line)

    def stop_by(self, stopping: RelayedStopping) -> None:
        """Give it what ends the run."""
        self._stopping = stopping
        if self.pruned_at is not None:
            stopping.end(f"pruned at step {self.pruned_at}")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take a line of the run: this is one of its logs. A step that a resume repeats is known."""
        self._seen |= dict.fromkeys(metrics)
        value = metrics.get(self._plan.metric)
        if step >= 1 and self._plan.metric not in self._seen:
            self.problem = _no_metric(self._plan.metric, self._seen)
            self._end("the search's metric is in none of its lines")
        if step <= self._last or not is_number(value) or step >= self._trial.config.run.steps:
            return
        self._last = step
        if self.pruned_at is None and self._judge.ends(step, value):
            self.pruned_at = step
            self._end(f"pruned at step {step}")

    def log_alarm(self, record: Mapping[str, Any]) -> None:
        """Take an alarm, which says nothing to a search."""

    def _end(self, reason: str) -> None:
        if self._stopping is not None:
            self._stopping.end(reason)


def curve_of(plan: SearchPlan, trial: Trial) -> dict[int, float]:
    """Return the metric of a run by step, from the first step on."""
    lines = read_lines(Path(trial.config.run.dir) / "metrics.jsonl")[0]
    return {
        line["step"]: float(line[plan.metric])
        for line in lines
        if line["step"] >= 1 and is_number(line.get(plan.metric))
    }


def _no_metric(metric: str, seen: Sequence[str] | Mapping[str, None]) -> str:
    return (
        f"search.metric={metric} is in no line of the run's first step.{nearest(metric, seen)} A "
        "search needs a metric that is there from step 0 or 1 on; docs/metrics.md lists all."
    )


def _check_evaluated(metric: str, trial: Trial) -> None:
    if metric.startswith("eval/") and not trial.config.evaluation.every:
        raise ValueError(
            f"search.metric={metric}, but evaluation.every=0: no run would have it. Set "
            "evaluation.every, or search by reward/mean."
        )
