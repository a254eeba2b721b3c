"""Trains one run. What takes seconds to import is imported once the config holds."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from isentropic.config import Config
from isentropic.experiments.hydra_main import hydra_main
from isentropic.experiments.program import DONE


def train(config: Config, cfg: DictConfig) -> int:
    """Check everything, then run. Returns 0 done, 3 stopped by an alarm, 75 resumable."""
    if config.run.dry:
        return _dry(config, cfg)
    from isentropic.experiments.run.folder import check_run_folder
    from isentropic.experiments.run.lock import run_lock

    with run_lock(Path(config.run.dir)):
        check_run_folder(config, cfg)
        from isentropic.actors.ray_runtime import check_address
        from isentropic.experiments.run.assemble import run
        from isentropic.experiments.run.prepare import held_out_note, prepare

        check_address(config.cluster)
        print(f"{config.run.name}: reading data and model", file=sys.stderr, flush=True)
        prepared = prepare(config)
        if prepared.data and (note := held_out_note(config, prepared.data)):
            print(f"{config.run.name}: {note}", file=sys.stderr, flush=True)
        return run(config, cfg, prepared)


def _dry(config: Config, cfg: DictConfig) -> int:
    """Print the plan; raise ValueError with everything that a run would be refused for.

    It takes no lock: several may look at once, and at a run that is going on.
    """
    from isentropic.experiments.dry.describe import describe
    from isentropic.experiments.dry.machines import ask_cluster
    from isentropic.experiments.run.folder import check_run_folder
    from isentropic.experiments.run.resuming.beginning import Beginning

    text, problems = describe(config, ask_cluster(config))
    print(text, flush=True)
    try:
        check_run_folder(config, cfg)
        for line in Beginning(config, cfg, None, print).outlook:
            print(f"resume     {line}", flush=True)
    except ValueError as error:
        problems.append(str(error))
    if len(problems) > 1:
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, start=1))
        raise ValueError(f"the run would be refused, for {len(problems)} reasons:\n{listed}")
    if problems:
        raise ValueError(problems[0])
    return DONE


main = hydra_main(train)
