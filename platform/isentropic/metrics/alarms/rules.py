"""The conditions of alarm rules: when a curve counts as wrong."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from isentropic.checks import check_choice, check_range

KINDS = ("below", "above", "stall", "non_finite")
BASELINES = ("none", "start", "recent")


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """One rule; the values live in conf/alarms/.

    below, above   metric < or > limit, `patience` steps in a row. The limit is `value` (baseline
                   none), or `value` times the mean of the first `window` steps (start), or times
                   the median of the last `window` steps (recent; needs half of them).
    stall          the mean of the last `window` steps is not `value` above that of the window
                   before, and is below `ceiling` (above it there is nothing left to gain).
    non_finite     the metric is NaN or infinite.
    """

    metric: str
    kind: str
    value: float | None
    baseline: str
    window: int  # steps
    ceiling: float | None
    patience: int  # steps in a row before the alarm is raised
    level: str  # warning | error
    action: str  # none | checkpoint | stop: what the run does when the alarm is raised
    unit: str  # printed behind the numbers

    def check(self, name: str) -> None:
        """Refuses values that make no rule; the message names the rule `name`."""
        key = f"alarms.rules.{name}"
        check_choice(f"{key}.kind", self.kind, KINDS)
        check_choice(f"{key}.baseline", self.baseline, BASELINES)
        check_choice(f"{key}.level", self.level, ("warning", "error"))
        check_choice(f"{key}.action", self.action, ("none", "checkpoint", "stop"))
        for field in ("window", "patience"):
            check_range(f"{key}.{field}", getattr(self, field), at_least=1)
            if type(getattr(self, field)) is not int:
                raise ValueError(
                    f"{key}.{field} counts steps, got {getattr(self, field)!r}. "
                    "Give a whole number."
                )
        if self.kind != "non_finite":
            if self.value is None:
                raise ValueError(
                    f"{key}.value must be a number for kind {self.kind!r}, got null. "
                    "Give the threshold."
                )
            check_range(f"{key}.value", self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A rule's judgement of one step."""

    holds: bool
    value: float
    limit: float | None
    reason: str


class RuleState:
    """A rule with its memory: past values, and since when its condition holds."""

    def __init__(self, rule: AlarmRule) -> None:
        self.rule = rule
        self.start: list[float] = []  # the first `window` values
        self.recent: deque[float] = deque(maxlen=2 * rule.window)
        self.since_step: int | None = None
        self.steps_held = 0
        self.raised = False

    def judge(self, value: float) -> Verdict | None:
        """Judges a step's value against the past, then remembers it.

        None if nothing was measured: that neither starts nor ends a condition.
        """
        rule = self.rule
        if rule.kind == "non_finite":
            bad = not math.isfinite(value)
            return Verdict(holds=bad, value=value, limit=None, reason="which is not finite")
        if not math.isfinite(value):
            return None
        verdict = self._stall(value) if rule.kind == "stall" else self._against_limit(value)
        self.remember([value])
        return verdict

    def remember(self, values: Iterable[Any]) -> None:
        """Takes values of past steps, in their order; what is no finite number is left out."""
        for value in values:
            if isinstance(value, int | float) and math.isfinite(value):
                self.recent.append(value)
                if len(self.start) < self.rule.window:
                    self.start.append(value)

    def _against_limit(self, value: float) -> Verdict:
        limit, words = self._limit()
        if limit is None:
            return Verdict(holds=False, value=value, limit=None, reason="")
        holds = value < limit if self.rule.kind == "below" else value > limit
        return Verdict(holds=holds, value=value, limit=limit, reason=f"{self.rule.kind} {words}")

    def _limit(self) -> tuple[float | None, str]:
        rule = self.rule
        if rule.baseline == "none":
            return rule.value, f"{rule.value:g}{_unit(rule)}"
        base, meaning = self._from_start() if rule.baseline == "start" else self._from_recent()
        if base is None:
            return None, ""
        limit = rule.value * base
        return limit, f"{limit:.4g}{_unit(rule)} = {rule.value:g} x {base:.4g} ({meaning})"

    def _from_start(self) -> tuple[float | None, str]:
        """Returns the mean of the first `window` values; None until all are there."""
        if len(self.start) < self.rule.window:
            return None, ""
        return fmean(self.start), "its value at the start"

    def _from_recent(self) -> tuple[float | None, str]:
        """Returns the median of the last `window` values; None until half of them are there."""
        past = list(self.recent)[-self.rule.window :]
        if len(past) < (self.rule.window + 1) // 2:
            return None, ""
        return median(past), f"its median of the last {len(past)} steps"

    def _stall(self, value: float) -> Verdict:
        window = self.rule.window
        values = [*self.recent, value][-2 * window :]
        if len(values) < 2 * window:
            return Verdict(holds=False, value=value, limit=None, reason="")
        before, now = fmean(values[:window]), fmean(values[window:])
        limit = before + self.rule.value
        left_to_gain = self.rule.ceiling is None or now < self.rule.ceiling
        reason = (
            f"on average over the last {window} steps, not above "
            f"{limit:.4g}{_unit(self.rule)} ({before:.4g} before)"
        )
        return Verdict(holds=left_to_gain and now <= limit, value=now, limit=limit, reason=reason)

    def fits(self, state: Mapping[str, Any] | None) -> bool:
        """Tells whether a state is of a rule that judges as this one does."""
        # Checkpoints of before version 0.2 do not say what they judged.
        return state is not None and state.get("judges", self._judges()) == self._judges()

    def _judges(self) -> list[Any]:
        rule = self.rule
        return [rule.metric, rule.kind, rule.value, rule.baseline, rule.window, rule.ceiling]

    def state_dict(self) -> dict[str, Any]:
        return {
            "judges": self._judges(),
            "start": list(self.start),
            "recent": list(self.recent),
            "since_step": self.since_step,
            "steps_held": self.steps_held,
            "raised": self.raised,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = list(state["start"])
        self.recent = deque(state["recent"], maxlen=2 * self.rule.window)
        self.since_step = state["since_step"]
        self.steps_held = state["steps_held"]
        self.raised = state["raised"]


def _unit(rule: AlarmRule) -> str:
    return f" {rule.unit}" if rule.unit else ""
