"""Guards the folder that a run writes to, and keeps its config and environment there.

runs/<name>/
  config.yaml        the resolved config; before a change: config.1.yaml, ...
  environment.json   versions, git state, machine; of earlier starts: environment.1.json, ...
  code/              copies of the user's own files
  data.json          digests of the task's prompts; before a change that was allowed: data.1.json, ...
  metrics.jsonl, updates.jsonl, rollouts/, checkpoints/, alarms.jsonl, report.html
                     from the layers that make them
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isentropic.config import DATA_KEY, Config, flat, is_under, with_current_keys
from isentropic.durable import write_text_durably
from isentropic.experiments.run.environment import environment
from isentropic.experiments.run.own_code import check_own_code, write_own_code
from isentropic.experiments.run.resuming.keys import (
    STEPS,
    changed_keys,
    check_in_flight,
    check_segments,
    check_staleness,
    depends_on_length,
)
from isentropic.tasks.data.digest import DataDigest

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
DATA = "data.json"


def has_run(folder: Path) -> bool:
    """Returns True if a run has left something to go on from: a first line, or a drawn step."""
    lines = folder / "metrics.jsonl"
    return (lines.exists() and lines.stat().st_size > 0) or any(
        folder.glob("rollouts/step_*.parquet")
    )


def check_run_folder(config: Config, cfg: DictConfig) -> None:
    """Refuses a folder that this run may not use. Writes nothing.

    Raises:
        ValueError: the folder has a run and resume=never, has other files, cannot be written, or
            has a run whose config, or the user's own code, differs in keys that
            `resume.allow_changes` does not name. More steps are no such difference, unless a value
            depends on their number.
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
                f"run.dir={folder} has files that are not a run's "
                f"({', '.join(sorted(others)[:3])}). Choose an empty or a new folder: "
                "run.name=<another> or run.dir=<another>."
            )
        return
    if config.resume.mode == "never":
        raise ValueError(
            f"{folder} already has a run. To go on with it: resume=auto. To start another: "
            "run.name=<another name>."
        )
    before = read_config(folder)
    today = OmegaConf.to_container(cfg, resolve=True)
    check_staleness(folder, before, today)
    check_segments(folder, before, today)
    check_in_flight(folder, before, today)
    changed = changed_keys(before, today)
    depends = depends_on_length(changed, cfg)
    if flat(today).get(STEPS, 0) > flat(before).get(STEPS, 0) and not depends:
        changed.pop(STEPS)
    refused = [change for change in changed if not is_under(change, config.resume.allow_changes)]
    if refused:
        why = f"{depends[0]} depends on {STEPS}. " if STEPS in refused and depends else ""
        raise ValueError(
            f"{folder} was run with another config: {'; '.join(changed[key] for key in refused)}. "
            f"{why}Give the values of {folder / CONFIG}, or allow the change: "
            f"'resume.allow_changes=[{','.join(refused)}]'."
        )
    check_own_code(folder, config, config.resume.allow_changes)


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the config of the folder's run; keys that came later have the value it ran with.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = folder / CONFIG
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
        if isinstance(values, dict) and values:
            return with_current_keys(values)
        reason = "it holds no keys"
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"{path} cannot be read ({reason}). It is what the run is compared with: restore it, or "
        "start another run with run.name=<another>."
    )


def check_data(folder: Path, data: DataDigest, allowed: Sequence[str]) -> str | None:
    """Refuses data that are not those of the folder's run; returns what to say, if anything.

    A change of any key of the task is a change of its data, so allowing one allows the other.

    Raises:
        ValueError: other prompts, answers or ids than those the run began with.
    """
    if not has_run(folder):
        return None
    changes = data_changes(folder, data)
    if changes is None:
        return (
            f"{folder / DATA} is missing or damaged, as in folders of earlier versions: nothing "
            "can say whether the data are still those that the run began with."
        )
    if not changes:
        return None
    what = f"the data are not those that {folder} was run with: {'; '.join(changes)}."
    if any(is_under(key, ("task",)) for key in allowed):
        return f"{what} resume.allow_changes permits it."
    raise ValueError(
        f"{what} Restore the data, allow the change ('resume.allow_changes=[{DATA_KEY}]'), or "
        "start another run: run.name=<another name>."
    )


def data_changes(folder: Path, data: DataDigest) -> list[str] | None:
    """Returns how `data` differ from those of the folder's run; None if it has no record of them."""
    try:
        return data.differences(json.loads((folder / DATA).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_data(folder: Path, data: DataDigest) -> None:
    """Writes the digests of the data; those of other data, from before a change, are kept."""
    if data_changes(folder, data) == []:
        return
    if (folder / DATA).exists():
        (folder / DATA).rename(folder / f"data.{len(list(folder.glob('data.*.json'))) + 1}.json")
    write_text_durably(folder / DATA, json.dumps(data.values()) + "\n")


def write_run_folder(config: Config, cfg: DictConfig, data: DataDigest | None = None) -> Path:
    """Makes the folder, writes config and environment (they hold no secrets), returns its path.

    A folder that has a run keeps its config, code and data until the start has succeeded
    (`resuming/beginning.py`): one that failed must not be what the run is compared with.
    """
    folder = Path(config.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = folder / ENVIRONMENT
    if earlier.exists():
        count = len(list(folder.glob("environment.*.json")))
        earlier.rename(folder / f"environment.{count + 1}.json")
    write_text_durably(folder / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
    if not has_run(folder):
        write_text_durably(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        write_own_code(folder, config)
        if data is not None:
            write_data(folder, data)
    return folder


def write_config(folder: Path, cfg: DictConfig, done: int) -> None:
    """Writes the config of a run that goes on after step `done`; another from before is kept."""
    before = read_config(folder)
    if changed_keys(before, OmegaConf.to_container(cfg, resolve=True)):
        place = folder / f"config.{len(list(folder.glob('config.*.yaml'))) + 1}.yaml"
        about = f"# The config until a resume changed it, after step {done}.\n"
        write_text_durably(place, about + (folder / CONFIG).read_text(encoding="utf-8"))
    write_text_durably(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def remove_torn(folder: Path) -> None:
    """Removes what a killed run was writing: files and checkpoints that never got their names."""
    for path in (*folder.glob(".tmp-*"), *folder.glob("*/.tmp-*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
        probe.unlink(missing_ok=True)  # another dry run may have been as quick
    except OSError as error:
        raise ValueError(
            f"run.dir={folder} cannot be written: {existing}: {error.strerror}. Choose another "
            "run.dir."
        ) from error
