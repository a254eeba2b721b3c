"""Reads a recorded run: its config, the batches of its ledger, its checkpoints and its lines."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from isentropic.config import (
    Config,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
)
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.ledger import Batch, read_batch, recorded_steps
from isentropic.experiments.run.folder import CONFIG, data_changes, read_config
from isentropic.experiments.run.own_code import with_copies
from isentropic.experiments.run.resuming.record import CHANGES, last_change
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import SECTIONS, load, typed
from isentropic.experiments.settings.presets import PRESET_SECTIONS
from isentropic.metrics.report.find import EXPECTED, find_run
from isentropic.metrics.sinks.jsonl import read_lines
from isentropic.tasks.data.digest import DataDigest

# Sections that are around a step, not in it: they say nothing about what it computes.
AROUND = (
    "run", "cluster", "weights", "evaluation", "checkpoint", "tracking", "resume", "rewards",
)  # fmt: skip
LEDGER = "rollouts"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The sections of a config that are values alone: reading them runs no code of the folder."""

    run: RunConfig
    model: ModelConfig
    rollout: RolloutConfig
    learner: LearnerConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class RecordedRun:
    """A run folder, read only."""

    folder: Path
    vocab_size: int | None = None  # of its model, once that is known: a bound of recorded tokens

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config as plain values, without a preset's own section: its readers have the values.

        Keys that say nothing about what a step computes, and that the run's version did not have
        yet, get today's. The user's own files are the copies that the run folder has.
        """
        values = with_copies(self.folder, read_config(self.folder))
        today = compose()
        around = {
            key: OmegaConf.to_container(today[key], resolve=False) | values.get(key, {})
            for key in AROUND
        }
        return {key: value for key, value in values.items() if key not in PRESET_SECTIONS} | around

    @cached_property
    def config(self) -> Config:
        """The whole config. It runs the code that the folder has a copy of: who looks takes `plain`."""
        return load(OmegaConf.create(self.values))

    @cached_property
    def plain(self) -> Plain:
        names = [field.name for field in fields(Plain)]
        return Plain(**{name: typed(name, SECTIONS[name], self.values.get(name)) for name in names})

    @cached_property
    def steps(self) -> list[int]:
        """The steps that the ledger has."""
        return recorded_steps(self.folder / LEDGER)

    @cached_property
    def lines(self) -> dict[int, dict[str, Any]]:
        """metrics.jsonl by step; a torn last line is left out."""
        return {row["step"]: row for row in read_lines(self.folder / "metrics.jsonl")[0]}

    def batch(self, step: int) -> Batch:
        """Returns what was drawn for the step. Raises ValueError if the ledger has no such step."""
        batch = read_batch(self.folder / LEDGER, step, vocab_size=self.vocab_size)
        if batch is None:
            has = f"{self.steps[0]} to {self.steps[-1]}" if self.steps else "no step"
            raise ValueError(f"{self.folder} recorded no step {step}: its ledger has {has}.")
        if step <= (since := last_change(self.folder)):
            _say_changed_config(self.folder, since)
        return batch

    def say_changed_data(self, data: DataDigest | None) -> None:
        """Prints how the task's data differ from the run's. No fault: the ledger has the prompts."""
        if data is not None and (changes := data_changes(self.folder, data)):
            print(
                f"the task's data are no longer those of the run: {'; '.join(changes)}. Trained "
                "here is what its ledger recorded.",
                file=sys.stderr,
                flush=True,
            )

    def checkpoint_before(self, step: int) -> tuple[Path, checkpoints.Manifest] | None:
        """Returns the last whole checkpoint up to `step`, or None: then go from the start."""
        for saved, checkpoint in reversed(checkpoints.listed(self.folder / CHECKPOINTS).items()):
            if saved > step:
                continue
            try:
                return checkpoint, checkpoints.verify(checkpoint)
            except checkpoints.CheckpointError:
                # An older one will do: the steps between are trained again.
                continue
        return None


@cache  # once for each run: a step is asked for more than once
def _say_changed_config(folder: Path, since: int) -> None:
    print(
        f"a resume changed the config of {folder} after step {since} (see {CHANGES}). The steps up "
        f"to it are trained here with {CONFIG}, not with config.1.yaml or what else was theirs.",
        file=sys.stderr,
        flush=True,
    )


def decoder(folder: Path) -> Callable[[Sequence[int]], str] | None:
    """Returns what turns a run's token ids into text; None if this machine lacks its tokenizer."""
    from transformers import AutoTokenizer  # seconds, and only a report with samples needs it

    from isentropic.models.pretrained import source
    from isentropic.models.source import EMBEDDED
    from isentropic.models.tiny import build_tokenizer

    try:
        # Who looks at a folder has not said that its code may run: not the task's, nor the model's.
        model = replace(RecordedRun(folder).plain.model, trust_remote_code=False)
        if model.path == EMBEDDED:
            return build_tokenizer().decode
        # A report must not wait for a network.
        return AutoTokenizer.from_pretrained(**source(model), local_files_only=True).decode
    except Exception:  # foreign files; a report without colours is worth more than none
        return None


def recorded_run(name: str) -> RecordedRun:
    """Returns the run of that name under runs/, or at that path.

    Raises:
        ValueError: there is none, or it recorded nothing to train on again.
    """
    folder = find_run(name)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is no run: it has no {CONFIG}. {EXPECTED}")
    run = RecordedRun(folder)
    if not run.steps:
        raise ValueError(
            f"{folder / LEDGER} holds no step: the run ended before its first batch was drawn."
        )
    return run
