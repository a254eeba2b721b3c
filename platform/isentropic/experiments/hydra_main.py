"""Hydra in front of a job: composes the config, loads it, and runs the job on it.

This file imports neither torch nor Ray, so `--cfg job`, `--help` and a misspelled key answer at
once.
"""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from isentropic.checks import refuse_secrets
from isentropic.config import Config
from isentropic.experiments.program import DONE, begin, exit_code
from isentropic.experiments.settings.conf import (
    CONF,
    CONFIG_DIR,
    refuse_ambiguous,
    search_path,
    take_config_dirs,
)
from isentropic.experiments.settings.errors import explain
from isentropic.experiments.settings.options import HELP, refuse_two_methods
from isentropic.experiments.settings.overrides import for_hydra, refuse_nothing
from isentropic.experiments.settings.presets import check_presets, name_presets
from isentropic.experiments.started import as_started
from isentropic.experiments.sweep.names import name_sweep_job

GO_ON = "go on with resume=auto"
Job = Callable[[Config, DictConfig], int | None]


def hydra_main(job: Job) -> Callable[..., int]:
    """Make `job(config, cfg)` a program: `cfg` is the composed config that the run folder keeps.

    The program returns what the job returns, and the codes of `program` for its errors; what Hydra
    refuses is bad input. The jobs of a multirun go on if one of them fails; the highest code
    counts.
    """

    def main() -> int:
        begin()
        # Before the imports, which take seconds; --help and --cfg print only what they were asked.
        if not any(_is_flag(argument) for argument in sys.argv[1:]):
            print("reading the config", file=sys.stderr, flush=True)
        return exit_code(lambda: _run_hydra(job), go_on=GO_ON)

    return main


def _is_flag(argument: str) -> bool:
    return argument.startswith("-") and argument.partition("=")[0] not in CONFIG_DIR


def _run_hydra(job: Job) -> int:
    refuse_secrets(sys.argv[1:])
    arguments = take_config_dirs(sys.argv[1:])
    refuse_two_methods(arguments)
    codes: list[int] = []

    def task(cfg: DictConfig) -> None:
        # An error that left this function would end the multirun, and Hydra would print its own
        # traceback.
        codes.append(exit_code(lambda: _load_and_run(job, cfg), go_on=GO_ON, folder=_folder(cfg)))

    # What fails before the task comes to us as it is, not as Hydra's own message and exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    given = for_hydra(arguments)
    sys.argv[1:] = [*given, *search_path()]
    program = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)
    try:
        if set(arguments) & set(HELP):
            _print_help(program)
        else:
            program()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(explain(error, given)) from error
    return max(codes, default=DONE)


def _print_help(program: Callable[[], None]) -> None:
    """Print what Hydra prints before it exits, with commands as the reader would type them."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            program()
    finally:
        print(as_started(text.getvalue().rstrip()))


def _folder(cfg: DictConfig) -> Path | None:
    """Return the run's folder; None for what is no path, which `load` refuses."""
    return Path(cfg.run.dir) if isinstance(cfg.run.dir, str) else None


def _load_and_run(job: Job, cfg: DictConfig) -> int | None:
    if not cfg.run.dry:
        print(f"{cfg.run.name}: loading libraries", file=sys.stderr, flush=True)
    from isentropic.experiments.settings.load import load  # torch: after Hydra's own checks

    settings = HydraConfig.get()
    refuse_ambiguous(settings.overrides.task)
    refuse_nothing(settings.overrides.task, cfg)
    check_presets(settings)
    name_presets(cfg, settings)
    if settings.mode == RunMode.MULTIRUN:
        name_sweep_job(cfg, settings, sys.argv[1:])
    return job(load(cfg), cfg)
