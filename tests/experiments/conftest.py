"""A short recorded run, to replay and branch from: a real learner, a fake engine's rollouts."""

import asyncio
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

CONTROLLER = Path(__file__).resolve().parents[1] / "controller" / "conftest.py"
CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS = 5


def load_fakes():
    """The fakes of the controller's tests."""
    spec = importlib.util.spec_from_file_location("controller_fakes", CONTROLLER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compose_small(fakes, model_path, *overrides):
    """(config, its YAML) of the demo cut small, on a model folder; one rank, its own threads."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from isentropic.experiments.settings.load import load

    own = [
        f"model.path={model_path}",
        "model.warm_start=null",
        "rollout.probe_tolerance=100",
        "learner.lr=1e-2",
    ]
    own += [
        f"run.steps={STEPS}",
        "evaluation.every=0",
        "checkpoint.keep_last=9",
        "rollout.max_prompt_tokens=8",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", overrides=[*fakes.SMALL, *own, *overrides])
    return load(cfg), OmegaConf.to_yaml(cfg, resolve=True)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, tiny_model_path):
    """(folder of a run of five steps with checkpoints after 2, 4 and 5, its `Prepared`)."""
    from isentropic.experiments.branch.learner import LocalLearner, replay_learner
    from isentropic.experiments.run.prepare import Prepared
    from isentropic.metrics.sinks.jsonl import plain

    fakes = load_fakes()
    folder = tmp_path_factory.mktemp("recorded") / "run"
    folder.mkdir()
    config, text = compose_small(fakes, tiny_model_path)
    (folder / "config.yaml").write_text(text)

    class Recording(LocalLearner):
        """Gives the fake engine the same weights forever: eight tokens, equally likely."""

        async def publish(self):
            return fakes.FakeWeights(
                self._learner.policy_version, torch.zeros(fakes.VOCABULARY).double().numpy()
            )

    async def record():
        async with replay_learner(config, config.model, exact=True, reference=False) as learner:
            run = fakes.FakeRun(config=config, folder=folder, learner=Recording(learner._learner))
            await run.controller().run(None)
            return run.lines.lines

    lines = asyncio.run(record())
    rows = (json.dumps(plain({"step": step} | line)) for step, line in lines.items())
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    prepared = Prepared(
        model=replace(config.model), task=fakes.FakeTask(), chat=fakes.FakeChat(), dropped={}
    )
    return folder, prepared


@pytest.fixture(scope="session")
def run_scripts():
    """Runs scripts of jobs/ in one process: [[script, arguments], ...] -> {script: code, out, error}."""

    def run(cases, **options):
        script = str(Path(__file__).with_name("scripts.py"))
        command = [sys.executable, script, json.dumps(cases)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
