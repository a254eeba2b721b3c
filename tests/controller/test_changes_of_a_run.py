"""A run that is put together as jobs/train.py does it, on fakes, and resumed with a change."""

import asyncio
import io
import json
import shutil
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from isentropic.controller.storage.ledger import read_batch
from isentropic.experiments.run.assemble import run_with
from isentropic.experiments.run.folder import check_run_folder
from isentropic.experiments.run.stopping import RelayedStopping
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.metrics.sinks.terminal import Terminal

SMALL = [
    "experiment=ce_gppo_tiny",
    "tracking.wandb=disabled",
    *(f"accounting.counterfactuals.{name}=null" for name in ("dapo", "gppo", "cispo")),
    "run.steps=4",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_response_tokens=6",
    "learner.num_ranks=1",
    "learner.updates_per_rollout=2",
    "evaluation.prompts=2",
    "checkpoint.every=2",
]


@pytest.fixture
def train(fakes, tmp_path):
    """Runs, or resumes, in one folder; what was said, and how many rollouts were drawn to train on."""

    def go(*overrides, fails=False):
        cfg = compose([*SMALL, f"run.dir={tmp_path / 'run'}", *overrides])
        config = load(cfg)
        check_run_folder(config, cfg)
        pool, text = fakes["pool"](), io.StringIO()
        actors = SimpleNamespace(pool=pool, learner=fakes["learner"]())
        prepared = SimpleNamespace(
            task=fakes["task"](),
            chat=fakes["chat"](),
            model=SimpleNamespace(path="", max_length=20),
            data=None,
            attention_share=0.0,
            dropped={},
        )

        @asynccontextmanager
        async def lend(*_):
            if fails:
                raise RuntimeError("no node has a GPU")
            yield actors

        terminal = Terminal(config.run.steps, samples=2, stream=text)
        asyncio.run(run_with(config, cfg, prepared, lend, RelayedStopping(60), terminal))
        return text.getvalue(), sum(key.split == "train" for key, _ in pool.drawn)

    return go


LARGER = (
    "resume=auto",
    "rollout.group_size=8",
    "resume.allow_changes=[rollout.group_size,sampling.group_size]",
)


def test_a_change_reaches_the_next_step_and_only_if_the_start_succeeds(train, tmp_path):
    run = tmp_path / "run"
    train()
    shutil.rmtree(run / "checkpoints" / "step_000004")  # killed before it was written
    with pytest.raises(RuntimeError, match="GPU"):
        train(*LARGER, fails=True)
    with pytest.raises(RuntimeError, match="GPU"):
        train("resume=auto", fails=True)  # not refused: the folder's config is still the first

    said, drawn = train(*LARGER)
    assert drawn == 2 * 4 * 8
    assert "group_size: 4 -> 8" in said and "steps 3 to 4 were drawn before that" in said
    sizes = [len(read_batch(run / "rollouts", step).groups[0].rollouts) for step in (1, 2, 3, 4)]
    assert sizes == [4, 4, 8, 8]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4]

    shutil.rmtree(run / "checkpoints" / "step_000004")
    assert train(*LARGER)[1] == 0  # it has drawn them already
