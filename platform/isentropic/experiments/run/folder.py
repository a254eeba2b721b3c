"""The folder a run writes to: who may use it, and the config and environment that it keeps.

runs/<name>/
  config.yaml        the resolved config
  environment.json   versions, git state, machine; of earlier starts: environment.1.json, ...
  metrics.jsonl, updates.jsonl, rollouts/, checkpoints/, alarms.jsonl, report.html   from the layers that make them
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isentropic.config import Config
from isentropic.durable import write_text_durably
from isentropic.experiments.run.environment import environment
from isentropic.experiments.settings.keys import flat, is_under

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
MAY_CHANGE = (
    "resume",
    "run.dry",
    "run.dir",
    "run.label",
    "tracking",
    "cluster",
)  # say nothing about what is computed


def has_run(folder: Path) -> bool:
    """True where a run has left something to go on from; one that failed before its first line has not."""
    lines = folder / "metrics.jsonl"
    return (lines.exists() and lines.stat().st_size > 0) or any(
        folder.glob("rollouts/step_*.parquet")
    )


def check_run_folder(config: Config, cfg: DictConfig) -> None:
    """Refuses a folder that this run may not use. Writes nothing.

    Raises:
        ValueError: the folder has a run and resume=never, has other files, cannot be written, or has a run whose
            config differs in keys that `resume.allow_changes` does not name.
    """
    folder = Path(config.run.dir)
    _check_writable(folder)
    if not has_run(folder):
        others = (
            [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            if folder.is_dir()
            else []
        )
        if others and not (folder / CONFIG).exists():
            raise ValueError(
                f"run.dir={folder} has files that are not a run's ({', '.join(sorted(others)[:3])}). "
                "Choose an empty or a new folder: run.name=<another> or run.dir=<another>."
            )
        return
    if config.resume.mode == "never":
        raise ValueError(
            f"{folder} already has a run. To go on with it: resume=auto. To start another: run.name=<another name>."
        )
    changed = changed_keys(read_config(folder), OmegaConf.to_container(cfg, resolve=True))
    refused = [change for change in changed if not is_under(change, config.resume.allow_changes)]
    if refused:
        raise ValueError(
            f"{folder} was run with another config: {'; '.join(changed[key] for key in refused)}. Give the values of "
            f"{folder / CONFIG}, or allow the change: 'resume.allow_changes=[{','.join(refused)}]'."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The config that the folder's run was given. ValueError where it is missing or damaged."""
    path = folder / CONFIG
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
        if isinstance(values, dict) and values:
            return values
        reason = "it holds no keys"
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"{path} cannot be read ({reason}). It is what the run is compared with: restore it, or start another run with "
        "run.name=<another>."
    )


def write_run_folder(config: Config, cfg: DictConfig) -> Path:
    """Makes the folder, writes config and environment (no secrets: neither holds any), and returns its path."""
    folder = Path(config.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = folder / ENVIRONMENT
    if earlier.exists():
        count = len(list(folder.glob("environment.*.json")))
        earlier.rename(folder / f"environment.{count + 1}.json")
    write_text_durably(folder / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
    write_text_durably(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
    return folder


def remove_torn(folder: Path) -> None:
    """Removes what a killed run was writing: files and checkpoints that never got their names."""
    for path in (*folder.glob(".tmp-*"), *folder.glob("*/.tmp-*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> 'key: old -> new', for all keys that differ and that say what is computed."""
    before, after = _without_nulls(flat(old)), _without_nulls(flat(new))
    return {
        key: f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ()) != after.get(key, ()) and not is_under(key, MAY_CHANGE)
    }


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Drop loss terms that are null: an absent one is off too, and older configs have the nulls."""
    return {
        key: value
        for key, value in values.items()
        if value is not None or not is_under(key, ("terms",))
    }


def _check_writable(folder: Path) -> None:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(
            f"run.dir={folder} cannot be made: {existing} is a file. Choose another run.dir."
        )
    try:
        probe = existing / ".isentropic-write-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"run.dir={folder} cannot be written: {existing}: {error.strerror}. Choose another run.dir."
        ) from error
