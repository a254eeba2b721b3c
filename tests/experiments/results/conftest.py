"""Run folders of a part as its runs leave them: config as planned, numbers from a formula."""

import json

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from isentropic.experiments.sweep.ledger import DONE


def write_run(planned, entropy, *, steps=60, books=2, score=0.3):
    """Write what a run of the part leaves; `entropy` is that of the first step, and falls."""
    folder, rng = planned.folder, np.random.default_rng(planned.seed)
    folder.mkdir(parents=True)
    config = OmegaConf.to_container(planned.trial.cfg, resolve=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    git = {"commit": "abcdef0123456789", "dirty": planned.seed == 1}
    environment = {"cpus": 2, "memory_gib": 8.0, "gpus": [], "platform": "Linux-6", "git": git}
    (folder / "environment.json").write_text(json.dumps(environment))
    lines = [{"step": 0, "policy_version": 0, "eval/avg_at_k": score, "eval/pass_at_k": 0.6}]
    for step in range(1, steps + 1):
        height = entropy * (1 - 0.5 * step / steps) + 0.003 * rng.normal()
        line = {"step": step, "policy_version": 8 * (step - 1), "entropy/mean": height}
        line |= {"clip/frac": 0.01, "kl/k1": 1e-3, "grad_norm/max": 0.5, "update/skipped": 0.0}
        line |= {"reward/mean": 0.5, "time/step_s": 2.0}
        if step % books == 0:
            signs = {"pa_hp": -1, "pa_lp": 1, "na_hp": 1, "na_lp": -1, "zero_adv": 0}
            line |= {f"ledger/{name}": 0.001 * sign for name, sign in signs.items()}
        if step % 10 == 0:
            line |= {"eval/avg_at_k": 1.0 - height, "eval/pass_at_k": 0.9}
        lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rollouts").mkdir()
    (folder / "tokens.json").write_text(json.dumps([0] * steps))


@pytest.fixture(scope="session")
def finish():
    """Mark planned runs as over, with folders whose entropy `start` gives by label."""

    def finish(runs, ledger, start, seconds=120.0):
        for run in runs:
            if ledger.state(run.trial.digest) is None:
                write_run(run, start[run.label] + 0.01 * run.seed, score=0.3 + 0.01 * run.seed)
                ledger.write(
                    run.trial.digest, run=run.trial.name, state=DONE, attempts=1, seconds=seconds
                )

    return finish
