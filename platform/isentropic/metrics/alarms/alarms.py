"""Alarms: rules over the step's metrics that report what was seen and since when.

An alarm may also ask for a checkpoint or a stop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from isentropic.checks import nearest
from isentropic.metrics.alarms.rules import AlarmRule, RuleState, Verdict


@dataclass(frozen=True, kw_only=True)
class AlarmsConfig:
    """Name -> rule. Rules are added, changed and removed by name."""

    rules: dict[str, Any]  # name -> the keys of `AlarmRule`; null removes a rule

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> dict[str, AlarmRule]:
        """Makes the rules, by name, and checks them."""
        built = {
            name: _build(name, values) for name, values in self.rules.items() if values is not None
        }
        for name, rule in built.items():
            rule.check(name)
        return built


def _build(name: str, values: Any) -> AlarmRule:
    if isinstance(values, AlarmRule):
        return values
    known = [field.name for field in fields(AlarmRule)]
    for key in values:
        if key not in known:
            raise ValueError(
                f"alarms.rules.{name}.{key} is no key of a rule.{nearest(key, known)} "
                f"Allowed: {known}."
            )
    missing = [key for key in known if key not in values]
    if missing:
        raise ValueError(
            f"alarms.rules.{name} lacks {', '.join(missing)}. "
            f"A rule has all of: {', '.join(known)}."
        )
    return AlarmRule(**values)


class Alarms:
    """Judges every step.

    An alarm is raised once, when its condition has held for `patience` steps, and cleared once.
    """

    def __init__(self, config: AlarmsConfig) -> None:
        self._states = {name: RuleState(rule) for name, rule in config.build().items()}

    def check(self, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns one record per alarm that this step raises or clears.

        A rule whose metric is missing, or no number, is silent. A record is a line of alarms.jsonl:
        step, policy_version, rule, state (raised | cleared), level, action, metric, value, limit,
        since_step, message.
        """
        records = []
        for name, state in self._states.items():
            value = metrics.get(state.rule.metric)
            if isinstance(value, Real):  # a number of numpy too
                record = self._check_rule(name, state, float(value), metrics)
                records += [record] if record else []
        return records

    def _check_rule(
        self, name: str, state: RuleState, value: float, metrics: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        verdict = state.judge(value)
        if verdict is None:  # a gap in a stretch is part of it, but raises nothing
            state.steps_held += state.since_step is not None
            return None
        step = int(metrics["step"])
        if verdict.holds:
            state.since_step = step if state.since_step is None else state.since_step
            state.steps_held += 1
            if not state.raised and state.steps_held >= state.rule.patience:
                state.raised = True
                return self._record(name, state, verdict, metrics, "raised")
            return None
        record = self._record(name, state, verdict, metrics, "cleared") if state.raised else None
        state.raised = False
        state.since_step = None
        state.steps_held = 0
        return record

    def _record(
        self, name: str, state: RuleState, verdict: Verdict, metrics: Mapping[str, Any], change: str
    ) -> dict[str, Any]:
        rule = state.rule
        title = name.replace("_", " ")
        seen = f"{rule.metric} is {verdict.value:.4g}{' ' + rule.unit if rule.unit else ''}"
        since = f"since step {state.since_step}"
        if change == "raised":
            message = f"{title}: {seen}, {verdict.reason}, {since}"
        else:
            message = f"{title} cleared: {seen} (it had held {since})"
        return {
            "step": int(metrics["step"]),
            "policy_version": metrics.get("policy_version"),
            "rule": name,
            "state": change,
            "level": rule.level if change == "raised" else "info",
            "action": rule.action if change == "raised" else "none",
            "metric": rule.metric,
            "value": verdict.value,
            "limit": verdict.limit,
            "since_step": state.since_step,
            "message": message,
        }

    @property
    def raised(self) -> list[str]:
        """Names of the alarms that hold now."""
        return [name for name, state in self._states.items() if state.raised]

    def state_dict(self) -> dict[str, Any]:
        return {name: state.state_dict() for name, state in self._states.items()}

    def load_state_dict(
        self, state: dict[str, Any], past: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Restores the rules that the state knows.

        Those that are new, or judge by other values than before, learn these from `past`, the lines
        of the steps before; an alarm is raised for steps from here on.
        """
        for name, rule_state in self._states.items():
            if rule_state.fits(state.get(name)):
                rule_state.load_state_dict(state[name])
            else:
                rule_state.remember(line.get(rule_state.rule.metric) for line in past)
