"""Trains one run. What takes seconds to import is imported once the config holds."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from isentropic.config import Config
from isentropic.experiments.hydra_main import hydra_main
from isentropic.experiments.program import DONE


def train(config: Config, cfg: DictConfig) -> int:
    """Check everything, then run. Returns 0 done, 3 stopped by an alarm, 75 resumable."""
    from isentropic.experiments.run.folder import check_run_folder
    from isentropic.experiments.run.lock import run_lock

    with run_lock(Path(config.run.dir)):
        check_run_folder(config, cfg)
        if config.run.dry:
            from isentropic.experiments.run.describe import describe

            print(describe(config))
            return DONE
        from isentropic.actors.ray_runtime import check_address
        from isentropic.experiments.run.assemble import run
        from isentropic.experiments.run.prepare import prepare

        check_address(config.cluster)
        print(f"{config.run.name}: reading data and model", file=sys.stderr, flush=True)
        return run(config, cfg, prepare(config))


main = hydra_main(train)
