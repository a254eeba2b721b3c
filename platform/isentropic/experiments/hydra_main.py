"""Hydra in front of a job: composes the config, loads it, and turns bad input into a short message and exit code 2.

This file imports neither torch nor Ray, so `--cfg job`, `--help` and a misspelled key answer at once.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from isentropic.config import Config
from isentropic.durable import NO_ROOM
from isentropic.experiments.settings.errors import explain
from isentropic.experiments.settings.presets import check_presets
from isentropic.experiments.sweep.names import name_sweep_job
from isentropic.folders import use_durable_folders

CONF = Path(__file__).resolve().parents[3] / "conf"
PACKAGE = Path(__file__).resolve().parents[1]

DONE, FAULT, BAD_INPUT, STOPPED_BY_ALARM, RESUMABLE, INTERRUPTED = 0, 1, 2, 3, 75, 130  # exit codes

Job = Callable[[Config, DictConfig], int | None]


def hydra_main(job: Job) -> Callable[[], None]:
    """Makes `job(config, cfg)` a program: `cfg` is the composed config that the run folder keeps.

    The program exits with what the job returns (None is 0), with 2 on bad input, and with 1 and a traceback on a
    fault. Bad input is what Hydra refuses, and any ValueError that our own code raises. The jobs of a multirun go on
    when one of them fails; the highest code counts.
    """

    def program() -> None:
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit(RESUMABLE)
        )  # the run has its own answer, while it lasts
        codes: list[int] = []

        def task(
            cfg: DictConfig,
        ) -> None:  # raises nothing: Hydra would print its own story and exit with 1
            codes.append(run_job(job, cfg))

        use_durable_folders()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # what fails before the task comes to us as it is
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
        except (HydraException, OmegaConfBaseException) as error:
            codes.append(refuse(explain(error, CONF, sys.argv[1:])))
        sys.exit(max(codes, default=DONE))

    return program


def run_job(job: Job, cfg: DictConfig) -> int:
    """Loads the config and runs the job on it; the exit code."""
    from isentropic.experiments.settings.load import load  # with torch: after Hydra's own checks

    try:
        settings = HydraConfig.get()
        check_presets(settings)
        if settings.mode == RunMode.MULTIRUN:
            name_sweep_job(cfg, settings, sys.argv[1:])
        return job(load(cfg), cfg) or DONE
    except ValueError as error:
        if is_ours(error):
            return refuse(str(error))
        traceback.print_exc()
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C before the first step, or twice
        print("interrupted; go on with resume=auto", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            print(_full(Path(cfg.run.dir)), file=sys.stderr)
    return FAULT


def _full(folder: Path) -> str:
    """What to do where the disk is full."""
    places = {
        str(place): shutil.disk_usage(place).free / 2**20
        for place in (folder, tempfile.gettempdir())
    }
    told = ", ".join(f"{free:.0f} MiB are free in {place}" for place, free in places.items())
    return f"a disk is full: {told}. Make room; what the run has written is whole, and resume=auto goes on with it."


def refuse(message: str) -> int:
    """Says what the user gave that cannot be run; the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT


def is_ours(error: BaseException) -> bool:
    """True where the exception was raised by this package's own code, not by a library it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)
