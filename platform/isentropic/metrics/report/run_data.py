"""A run folder as the report sees it: config, lines, alarms, and what is said about damage."""

import json
import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from isentropic.config import flat, with_current_keys
from isentropic.metrics.sinks.jsonl import read_lines

STILL_GOING_S = 15 * 60  # a run whose last line is younger is taken to be going on


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
        default_factory=dict, repr=False
    )

    @property
    def name(self) -> str:
        return str(self.setting("run.name") or self.folder.name)

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
        planned = self.setting("run.steps")
        if planned and self.last_step >= planned:
            return "finished"
        stops = [alarm for alarm in self.raised if alarm.get("action") == "stop"]
        if stops and stops[-1]["step"] >= self.last_step:
            return f"stopped by alarm: {stops[-1]['rule'].replace('_', ' ')}"
        where = f"step {self.last_step}" + (f" of {planned}" if planned else "")
        if self.age_s < STILL_GOING_S:
            return f"still going: {where}"
        return f"not finished: {where}"

    def setting(self, key: str) -> Any:
        """Return the config's value under a dotted key; None if there is none."""
        return flat(self.config).get(key)

    def curve(self, key: str, *, start: bool = False) -> list[tuple[int, int, float]]:
        """Return (policy_version, step, value) of finite numbers. `start` takes line 0 along."""
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
    def metrics(self) -> list[str]:
        """Return the metrics that have a finite number in some step, in the order of the lines."""
        return list(
            {key: None for line in self.steps for key, value in line.items() if is_number(value)}
        )


def read_run(folder: Path, *, ended: bool = False) -> RunData:
    """Read a run folder; a run that is still going, empty, or torn in its last line is fine.

    `ended`: the caller knows that the run is over; else the age of its last line tells.

    Raises ValueError if a line other than the last is damaged.
    """
    metrics = folder / "metrics.jsonl"
    notes = []
    lines, torn = read_lines(metrics)
    if torn:
        notes.append(
            "The last line of metrics.jsonl is torn (the run was killed, or writes it now); it is "
            "left out."
        )
    alarms, torn = read_lines(folder / "alarms.jsonl")
    if torn:
        notes.append("The last line of alarms.jsonl is torn; it is left out.")
    kept = {
        line["step"]: line
        for line in lines
        if isinstance(line, dict) and isinstance(line.get("step"), int)
    }
    return RunData(
        folder=folder,
        config=_config(folder / "config.yaml", notes),
        environment=_environment(folder / "environment.json", notes),
        lines=[kept[step] for step in sorted(kept)],
        alarms=[alarm for alarm in alarms if isinstance(alarm, dict)],
        notes=notes,
        age_s=time.time() - metrics.stat().st_mtime if metrics.exists() and not ended else math.inf,
    )


def is_number(value: Any) -> bool:
    """Return True for a finite number of a JSON file; true, false and null are none."""
    return type(value) in (int, float) and math.isfinite(value)


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        notes.append("There is no config.yaml: settings are left out.")
        return {}
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(config, dict):
            raise TypeError("it is no mapping")
        return with_current_keys(config)
    except Exception as error:  # any parser's; a report of the curves is worth more than a refusal
        notes.append(
            f"config.yaml cannot be read ({' '.join(str(error).split())[:120]}): settings are left "
            "out."
        )
        return {}


def _environment(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, OSError):
        notes.append("environment.json cannot be read: date and git state are left out.")
        return {}
