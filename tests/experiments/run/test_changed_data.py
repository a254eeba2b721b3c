"""Neither a run nor its dry run goes on with other data than it began with."""

import asyncio

import pytest

from isentropic.experiments.dry.describe import describe
from isentropic.experiments.run.assemble import run_with
from isentropic.experiments.run.folder import data_changes, write_data
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.settings.checks import remarks
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load
from isentropic.metrics.sinks.terminal import Terminal
from isentropic.models.tiny import build_tokenizer
from isentropic.tasks import TASKS
from isentropic.tasks.chat import Chat
from isentropic.tasks.data.digest import DataDigest


def composed(folder, *overrides):
    small = ["task.train_size=4", "task.eval_size=2", "resume=auto", "tracking.wandb=disabled"]
    cfg = compose(["experiment=ce_gppo_tiny", f"run.dir={folder}", *small, *overrides])
    return load(cfg), cfg


def prepared(config):
    task = TASKS[config.task.name].make(config.task)
    data = DataDigest(task)
    for split in ("train", "eval"):
        for index in range(task.size(split)):
            data.add(split, task.prompt(split, index))
    chat = Chat(build_tokenizer())
    return Prepared(model=config.model, task=task, chat=chat, dropped={}, data=data)


@pytest.fixture
def begun(tmp_path):
    """A run of the sums of seed 0."""
    config, _ = composed(tmp_path)
    write_data(tmp_path, prepared(config).data)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    return tmp_path


def test_a_dry_run_refuses_or_says_it(begun):
    assert "resume     " not in describe(composed(begun)[0])[0]
    _, problems = describe(composed(begun, "task.seed=1")[0])
    assert any("the first is arithmetic/train" in problem for problem in problems)
    allowed = describe(composed(begun, "task.seed=1", "resume.allow_changes=[task.data]")[0])
    assert "resume     the data are not those" in allowed[0]


def test_a_kl_that_holds_nothing_is_said(tmp_path):
    kl = ["terms=kl", "terms.kl.estimator=k1"]
    text, _ = describe(composed(tmp_path, *kl)[0])
    assert "k1 holds the policy near the reference no better" in text
    assert not remarks(composed(tmp_path, "terms=kl")[0])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_learning_rate_that_may_end_before_the_run_is_said(schedule, tmp_path):
    """A queue and a buffer make more updates than the 60 * 8 that the schedule is planned for."""
    falls = f"learner.lr_schedule={schedule}"
    (remark,) = remarks(composed(tmp_path, "method=uec_rl", falls)[0])
    assert f"{falls} reaches 0 after 60 * 8 = 480 updates" in remark
    assert "learner.lr_schedule=constant" in remark
    for as_planned in (
        ["method=uec_rl"],
        [falls],
        ["method=uec_rl", falls, "uec.queue=false", "uec.replay_every=null"],
    ):
        assert not remarks(composed(tmp_path, *as_planned)[0])


def test_a_run_refuses_before_it_writes_or_starts_anything(begun):
    config, cfg = composed(begun, "task.seed=1")
    before = sorted(begun.iterdir())

    with pytest.raises(ValueError, match=r"the first is arithmetic/train"):
        asyncio.run(run_with(config, cfg, prepared(config), None, None, Terminal(1)))
    assert sorted(begun.iterdir()) == before


class NoActors(Exception):
    pass


def test_a_run_records_its_data(tmp_path):
    config, cfg = composed(tmp_path)

    class Stopping:
        def __enter__(self):
            raise NoActors

        def __exit__(self, *_):
            pass

    with pytest.raises(NoActors):
        asyncio.run(run_with(config, cfg, prepared(config), None, Stopping(), Terminal(1)))
    assert data_changes(tmp_path, prepared(config).data) == []
