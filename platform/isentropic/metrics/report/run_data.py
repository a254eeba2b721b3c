"""A run folder as the report sees it: config, lines, alarms, and what is said about damage."""

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from isentropic.config import flat, method_name, with_current_keys
from isentropic.metrics.entropy import START_ENTROPY
from isentropic.metrics.report.reading import is_number, read_json, read_rows, whole, words

STILL_GOING_S = 15 * 60  # a run whose last line is younger is taken to be going on
VERSIONS = ("policy_version", "eval/policy_version")


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What one run has left so far. Lines are in the order of their steps; line 0 is the start."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    lines: list[dict[str, Any]]
    alarms: list[dict[str, Any]]  # raised and cleared
    notes: list[str] = field(default_factory=list)  # damage that a reader must know of
    age_s: float = math.inf  # of the newest line
    _curves: dict[tuple[str, bool], list[tuple[int, int, float]]] = field(
        default_factory=dict, repr=False, init=False, compare=False
    )  # a copy with other lines has its own

    @property
    def name(self) -> str:
        return words(self.setting("run.name") or self.folder.name)

    @property
    def method(self) -> str:
        """Returns what the method is called: its presets; "" if the config does not say."""
        return method_name(self.config)

    @property
    def planned_steps(self) -> int | None:
        """Returns the number of steps that the config asks for; None if it does not say."""
        return whole(self.setting("run.steps")) or None

    @cached_property
    def held_out_prompts(self) -> int | None:
        """Returns how many prompts an evaluation has: as the config says, if there are so many.

        None if neither the config nor data.json says it.
        """
        asked = whole(self.setting("evaluation.prompts"))
        data = None
        with suppress(ValueError):  # damaged: the config's number is all that is known
            data = read_json(self.folder / "data.json")
        there = whole((data.get("eval") or {}).get("prompts")) if isinstance(data, dict) else None
        return min((each for each in (asked, there) if each), default=None)

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Lines of steps; the start, which is about held-out prompts, is left out."""
        return [line for line in self.lines if line["step"] > 0]

    @property
    def raised(self) -> list[dict[str, Any]]:
        return [alarm for alarm in self.alarms if alarm.get("state") == "raised"]

    @property
    def last_step(self) -> int:
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def status(self) -> str:
        """finished | stopped by alarm | still going | not finished, with the reason behind it."""
        planned = self.planned_steps
        if planned and self.last_step >= planned:
            return "finished"
        stops = [alarm for alarm in self.raised if alarm.get("action") == "stop"]
        if stops and stops[-1].get("step", 0) >= self.last_step:
            return f"stopped by alarm: {stops[-1].get('rule', 'unnamed').replace('_', ' ')}"
        where = f"step {self.last_step}" + (f" of {planned}" if planned else "")
        if self.age_s < STILL_GOING_S:
            return f"still going: {where}"
        return f"not finished: {where}"

    def setting(self, key: str) -> Any:
        """Returns the config's value under a dotted key; None if it has none."""
        return flat(self.config).get(key)

    def curve(self, key: str, *, start: bool = False) -> list[tuple[int, int, float]]:
        """Returns (policy_version, step, value) of each line whose `key` is a finite number.

        start: line 0 is taken along.
        """
        if (key, start) not in self._curves:
            version = "eval/policy_version" if key.startswith("eval/") else "policy_version"
            self._curves[key, start] = [
                (
                    line.get(version, line.get("policy_version", line["step"])),
                    line["step"],
                    line[key],
                )
                for line in (self.lines if start else self.steps)
                if is_number(line.get(key))
            ]
        return self._curves[key, start]

    def values(self, key: str, *, start: bool = False) -> list[float]:
        return [value for _, _, value in self.curve(key, start=start)]

    def has(self, key: str) -> bool:
        return bool(self.curve(key))

    @cached_property
    def zeros(self) -> list[str]:
        """Names of the metrics that are 0 in every step that has them: no chart shows them."""
        return [key for key in self.metrics if not any(self.values(key, start=True))]

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics with a finite number in some step, in the order of the lines."""
        return list(
            {key: None for line in self.steps for key, value in line.items() if is_number(value)}
        )


def read_run(folder: Path, *, ended: bool = False) -> RunData:
    """Read a run folder; a run that is still going, empty, or torn in its last line is fine.

    Args:
        folder: the run folder.
        ended: the caller knows that the run is over; else the age of its last line tells.

    Raises:
        ValueError: a line other than the last is damaged, or a file of lines cannot be read.
    """
    metrics = folder / "metrics.jsonl"
    notes: list[str] = []
    rows, torn = read_rows(metrics)
    if torn:
        notes.append(
            "The last line of metrics.jsonl is torn (the run was killed, or writes it now); "
            "it is left out."
        )
    alarms, torn = read_rows(folder / "alarms.jsonl")
    if torn:
        notes.append("The last line of alarms.jsonl is torn; it is left out.")
    return RunData(
        folder=folder,
        config=_config(folder / "config.yaml", notes),
        environment=_environment(folder / "environment.json", notes),
        lines=_lines(rows, notes),
        alarms=[_alarm(alarm) for alarm in alarms if isinstance(alarm, dict)],
        notes=notes,
        age_s=time.time() - metrics.stat().st_mtime if metrics.exists() and not ended else math.inf,
    )


def _lines(rows: list[Any], notes: list[str]) -> list[dict[str, Any]]:
    """Returns the lines by step, whose steps and versions are whole numbers.

    A version that is none is taken out, so that the step stands in for it.
    """
    lines: dict[int, dict[str, Any]] = {}
    num_without_step = 0
    for row in rows:
        step = whole(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            num_without_step += 1
            continue
        versions = {key: whole(row[key]) for key in VERSIONS if key in row}
        line = row | {"step": step} | versions
        if None in versions.values():
            line = {key: value for key, value in line.items() if versions.get(key, 0) is not None}
        if step == 0 and "entropy/mean" in line:  # runs of version 0.1 called it that
            line[START_ENTROPY] = line.pop("entropy/mean")
        lines[step] = line
    if num_without_step:
        notes.append(
            f"Lines of metrics.jsonl without a step (a whole number, 0 or more): "
            f"{num_without_step}; they are left out."
        )
    return [lines[step] for step in sorted(lines)]


def _alarm(alarm: dict[str, Any]) -> dict[str, Any]:
    """Returns the alarm with words for values; the step is a whole number or not there."""
    texts = {key: words(value) for key, value in alarm.items() if value is not None}
    step = whole(alarm.get("step"))
    return texts | {"step": step} if step is not None else texts


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not os.path.lexists(path):
        notes.append("There is no config.yaml: settings are left out.")
        return {}
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        text = path.read_text(encoding="utf-8")
        # Aliases of aliases make gigabytes of a few lines.
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it has YAML aliases, and no run writes any")
        config = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(config, dict):
            raise ValueError("it is no mapping")
        return with_current_keys(config)
    except Exception as error:  # any parser's; a report of the curves is worth more than a refusal
        reason = " ".join(str(error).split())[:120]
        notes.append(f"config.yaml cannot be read ({reason}): settings are left out.")
        return {}


def _environment(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        environment = read_json(path)
        if not isinstance(environment, dict | None):
            raise ValueError("it is not an object")
    except ValueError:
        notes.append("environment.json cannot be read: date and git state are left out.")
        return {}
    return environment or {}
