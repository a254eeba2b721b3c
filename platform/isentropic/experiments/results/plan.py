"""The runs of parts: each named after what it computes, so that no part trains another's again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isentropic.config import COMPUTES_NOTHING, flat, is_under, keys_that_came_later
from isentropic.experiments.results.parts import Part
from isentropic.experiments.settings.load import load
from isentropic.experiments.settings.overrides import read_preset, short_override
from isentropic.experiments.sweep.ledger import OVER, SweepLedger
from isentropic.experiments.sweep.plan import Named, SweepPlan, Trial, compose_trials, plan_of

FOLDER = "results"  # under the folder of all runs
ANYWHERE = "results"  # stands for a run's folder while its digest is made
# Keys that name a run, or say where it is or by whom it is computed, and nothing of what comes out of it.
NOTHING_OF_IT = (
    *("run.name", "run.dir", "run.label", "run.preset", "run.date", "resume"),
    *(key for key in COMPUTES_NOTHING if key != "accounting.ledger"),
)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a part: what the part calls its setting, and the run that may serve others too."""

    label: str
    overrides: tuple[str, ...]  # of its command line, seed included
    trial: Trial

    @property
    def folder(self) -> Path:
        return Path(self.trial.config.run.dir)

    @property
    def seed(self) -> int:
        return self.trial.config.seed


def planned_runs(part: Part, folder: Path) -> list[Planned]:
    """Compose the runs of a part under `folder`; nothing is written.

    Raises:
        ValueError: a run that could not start, with its overrides.
    """
    plan = plan_of_part(part)
    trials = compose_trials(plan, folder, early_stop=False)
    points = points_of(plan)
    assert len(points) == len(trials), f"{part.name} has a run twice"
    return [
        Planned(label=label, overrides=trial.overrides, trial=shared(trial, folder))
        for (label, _), trial in zip(points, trials, strict=True)
    ]


def plan_of_part(part: Part) -> SweepPlan:
    """Return the plan of a part's runs: a setting of its preset may change what the part sets."""
    preset = read_preset(part.sweep)
    return plan_of(preset | {"overrides": [*(preset.get("overrides") or []), *part.overrides]}, ())


def points_of(plan: SweepPlan) -> list[Named]:
    """Return label and overrides of each run; without names, the swept values are the label."""
    return [
        (name or ", ".join(map(short_override, _without_seed(own))) or "the run", own)
        for name, own in plan.points()
    ]


def _without_seed(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("seed=")]


def shared(trial: Trial, folder: Path) -> Trial:
    """Return the trial in the folder that belongs to what it computes, under no part's label."""
    digest = digest_of(trial.cfg)
    name = f"{trial.config.objective.name}-seed_{trial.config.seed}-{digest}"
    cfg = _placed(trial.cfg, name, str(folder / name))
    run = replace(trial.config.run, name=name, dir=str(folder / name), label=None)
    # Loading takes a tenth of a second: only for a run that has its own folder in another key.
    config = load(cfg) if _names_folder(trial.cfg) else replace(trial.config, run=run)
    return replace(trial, name=name, digest=digest, cfg=cfg, config=config)


def moved(runs: Iterable[Planned], folder: Path) -> list[Planned]:
    """Return the same runs under another folder."""
    return [replace(run, trial=shared(run.trial, folder)) for run in runs]


def digest_of(cfg: DictConfig) -> str:
    """Return a digest of all keys that say what is computed: two equal ones are the same run.

    A key that came later is left out while it has the value that says what runs did before it:
    they stay the runs that they are when the platform gets another key.
    """
    values = OmegaConf.to_container(_placed(cfg, ANYWHERE, ANYWHERE), resolve=True)
    before = keys_that_came_later(values)
    told = {
        key: value
        for key, value in flat(values).items()
        if not is_under(key, NOTHING_OF_IT) and (key not in before or before[key] != value)
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _placed(cfg: DictConfig, name: str, folder: str) -> DictConfig:
    values = OmegaConf.to_container(cfg, resolve=False)
    values["run"] |= {"name": name, "dir": folder, "label": None}
    return OmegaConf.create(values)


def _names_folder(cfg: DictConfig) -> bool:
    written = flat(OmegaConf.to_container(cfg, resolve=False))
    return any("${run." in str(value) for key, value in written.items() if key != "run.dir")


def to_do(runs: Iterable[Planned], ledger: SweepLedger | None) -> list[Trial]:
    """Return the trials that are not over, each once; without a ledger nothing ever started."""
    trials = {run.trial.digest: run.trial for run in runs}
    return [trial for digest, trial in trials.items() if _state(ledger, digest) not in OVER]


def _state(ledger: SweepLedger | None, digest: str) -> str | None:
    return None if ledger is None else ledger.state(digest)


def over(runs: Sequence[Planned], ledger: SweepLedger) -> list[Planned]:
    """Return the runs that are over."""
    return [run for run in runs if ledger.state(run.trial.digest) in OVER]


def settings_of(runs: Sequence[Planned]) -> dict[str, list[Planned]]:
    """Return the runs by label, in the order of the sweep, each setting's by seed."""
    found: dict[str, list[Planned]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return {label: sorted(same, key=lambda run: run.seed) for label, same in found.items()}


def seeds_of(runs: Sequence[Planned]) -> list[Any]:
    return sorted({run.seed for run in runs})
