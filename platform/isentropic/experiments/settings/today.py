"""The day that a run's chat templates read as today.

Some templates write the date into every prompt. A run reads the day of its first start, which its
config.yaml keeps as `run.date`, so that a resume or a replay on another day gives the same tokens.
"""

from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

CONFIG = "config.yaml"  # of a run folder


def pin_date(cfg: DictConfig, raw: dict[str, Any]) -> None:
    """Sets `run.date` in both, if it is null: the day that the run's folder keeps, else today."""
    run = raw.get("run")
    if not isinstance(run, dict) or run.get("date", "") is not None or not run.get("dir"):
        return
    run["date"] = _first_day(Path(str(run["dir"])))
    OmegaConf.update(cfg, "run.date", run["date"])


def _first_day(folder: Path) -> str | None:
    """None for a run of a version that asked the clock at every start: it goes on as it began."""
    today = date.today().isoformat()
    try:
        return OmegaConf.select(OmegaConf.load(folder / CONFIG), "run.date")
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError, ValueError):
        return today  # a new folder; or a damaged file, which is refused where it is compared
