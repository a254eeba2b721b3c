"""Puts a run together on Ray and drives it to its end."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from isentropic.actors.launch import Actors, start_actors
from isentropic.config import Config
from isentropic.controller.feed import Feed
from isentropic.controller.loop import Controller
from isentropic.controller.method import Method
from isentropic.controller.protocols import LearnerGroup, RolloutPool
from isentropic.controller.reporting import Reporter
from isentropic.controller.sampler import Sampler
from isentropic.controller.storage import checkpoints
from isentropic.experiments.hydra_main import DONE, FAULT, RESUMABLE, STOPPED_BY_ALARM
from isentropic.experiments.run.folder import remove_torn, write_run_folder
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.stopping import SIGNALS, Stopping
from isentropic.experiments.run.supervise import Restartable, Start, supervise
from isentropic.learner.learner import Learner
from isentropic.metrics.report import write_report
from isentropic.metrics.sinks.jsonl import JsonlSink, read_lines
from isentropic.metrics.sinks.terminal import Terminal
from isentropic.metrics.sinks.wandb import WandbSink
from isentropic.rollout.engine import Engine
from isentropic.tasks.grading.rewards import RewardWorkers

FOLDERS = ("rollouts", "trained", "checkpoints", "logs")


def run(config: Config, cfg: DictConfig, prepared: Prepared) -> int:
    """Runs, or resumes, in the run folder; the exit code."""
    stopping = Stopping(config.checkpoint.stop_within_s)
    return asyncio.run(
        run_with(config, cfg, prepared, own_actors, stopping, Terminal(config.run.steps))
    )


async def run_with(
    config: Config,
    cfg: DictConfig,
    prepared: Prepared,
    lend: "Lend",
    stopping: Stopping,
    terminal: Terminal,
    panel: Sequence[Any] = (),
) -> int:
    """A run whose actors come from `lend`, and go back to it; `panel` is told every line, beside the usual logs."""
    method = _method(config, prepared)  # what it refuses leaves no folder behind
    folder = write_run_folder(config, cfg)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    remove_torn(folder)
    start = checkpoints.latest(folder / "checkpoints", terminal.say)
    plain = OmegaConf.to_container(cfg, resolve=True)
    wandb = WandbSink(
        config.tracking, folder=folder, run_name=config.run.name, config=plain, warn=terminal.say
    )
    text = (folder / "logs" / "run.log").open("a", encoding="utf-8")
    grader = RewardWorkers(
        prepared.task,
        prepared.chat,
        config.rewards,
        say=lambda line: print(line, file=text, flush=True),
    )
    logs = [wandb, terminal, Terminal(config.run.steps, stream=text), *panel]
    assembly = Assembly(config, folder, prepared, grader, logs, {"config": plain}, terminal, method)
    stopped, code = None, FAULT
    with (
        ExitStack() as closing
    ):  # each of them, also where another one cannot write its last line to a full disk
        closing.callback(lambda: wandb.close(exit_code=code))
        for each in (text, assembly, grader, terminal):
            closing.callback(each.close)
        assembly.cut_back(start)
        terminal.banner(_banner(config, folder, prepared, wandb, start[1].step if start else 0))
        stopped = await _drive(assembly, start, lend, stopping)
        code = _exit_code(stopped)
    await asyncio.to_thread(_conclude, terminal, folder, stopped)
    return code


class Lendable(Restartable, Protocol):
    """Engines and ranks, as a run uses them."""

    pool: RolloutPool
    learner: LearnerGroup


Lend = Callable[[Config, Prepared], AbstractAsyncContextManager[Lendable]]


@asynccontextmanager
async def own_actors(config: Config, prepared: Prepared) -> AsyncIterator[Actors]:
    """Actors for one run: started for it, ended with it."""
    actors = await start_actors(
        config.cluster,
        config.rollout,
        config.learner,
        make_engine=make_engine(config, prepared),
        make_learner=make_learner(config, prepared),
    )
    try:
        yield actors
    finally:
        actors.close()


@dataclass
class Assembly:
    """What stays when the learner is restarted, and what is made anew from it."""

    config: Config
    folder: Path
    prepared: Prepared
    grader: RewardWorkers
    logs: Sequence[Any]
    about: dict[str, Any]
    terminal: Terminal
    method: Method | None  # of the first attempt
    record: JsonlSink | None = None

    def cut_back(self, start: Start) -> None:
        """The JSONL files, open, without what lies behind the checkpoint."""
        self.close()
        self.record = JsonlSink(self.folder, resume_step=start[1].step if start else -1)

    def close(self) -> None:
        if self.record is not None:
            self.record.close()

    def controller(self, actors: Lendable, start: Start) -> Controller:
        """All state is new; `start` brings the rest."""
        self.cut_back(start)
        prepared, config = self.prepared, self.config
        method, self.method = self.method or _method(config, prepared), None
        sampler = Sampler(
            task=prepared.task,
            chat=prepared.chat,
            pool=actors.pool,
            grader=self.grader,
            config=config.rollout,
            seed=config.seed,
            window=config.model.max_length,
        )
        feed = Feed(
            config=config,
            pool=actors.pool,
            sampler=sampler,
            chat=prepared.chat,
            grader=self.grader,
            make_sampling=lambda step: config.sampling.build(),
            ledger=self.folder / "rollouts",
            eval_size=prepared.task.size("eval"),
        )
        return Controller(
            config=config,
            learner=actors.learner,
            feed=feed,
            method=method,
            reporter=Reporter(config, self.record, self.logs, self.about),
            folder=self.folder,
            warn=self.terminal.say,
        )


def _method(config: Config, prepared: Prepared) -> Method:
    method = Method(config)
    method.bind(chat=prepared.chat, task=prepared.task, model_path=prepared.model.path)
    return method


async def _drive(assembly: Assembly, start: Start, lend: Lend, stopping: Stopping) -> str | None:
    """Runs to the end; why it stopped early, or None."""
    config, terminal = assembly.config, assembly.terminal
    with stopping:
        try:
            async with lend(config, assembly.prepared) as actors:
                return await supervise(
                    actors,
                    partial(assembly.controller, actors),
                    start,
                    lambda: checkpoints.latest(assembly.folder / "checkpoints", terminal.say),
                    max_restarts=config.cluster.max_learner_restarts,
                    stopping=stopping,
                    say=terminal.say,
                )
        except asyncio.CancelledError:
            if not stopping.overdue:
                raise
            return stopping.reason
        except SystemExit as error:
            if error.code != signal.SIGTERM:
                raise
            return (
                signal.SIGTERM.name
            )  # it came in the middle of `ray.init`, whose own handler took it


def make_engine(config: Config, prepared: Prepared) -> partial[Engine]:
    """What builds an engine, in its own process."""
    model = prepared.model
    return partial(
        Engine,
        model.path,
        config.rollout,
        max_length=model.max_length,
        device="cuda" if config.cluster.gpus_per_engine else "cpu",
        seed=0,  # every request brings its own
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        sleep_mode=config.cluster.placement == "shared",
        image_pixels=model.image_pixels,
    )


def make_learner(config: Config, prepared: Prepared) -> partial[Learner]:
    """What builds a rank, in its own process."""
    return partial(
        Learner,
        config=config.learner,
        model=prepared.model,
        objective=config.objective,
        terms=config.terms,
        temperature=config.rollout.temperature,
        total_updates=config.run.steps * config.learner.updates_per_rollout,
        reference=config.terms.kl is not None,
        seed=config.seed,
    )


def _banner(
    config: Config, folder: Path, prepared: Prepared, wandb: WandbSink, done: int
) -> dict[str, str]:
    objective = {
        key: value for key, value in config.objective.at(max(done, 1)).items() if value is not None
    }
    facts = {
        "run": f"{config.run.name}, seed {config.seed}, {folder}",
        "model": f"{config.model.name} ({prepared.model.path})",
        "task": f"{config.task.name}: {prepared.task.size('train')} prompts, {prepared.task.size('eval')} held out",
        "method": f"{config.objective.name} ({', '.join(f'{key} {value:g}' for key, value in objective.items())})",
        "actors": f"{config.rollout.num_actors} engines, {config.learner.num_ranks} learner ranks",
        "W&B": wandb.where,
        "go on": "the same command with resume=auto",
    }
    if dropped := sum(prepared.dropped.values()):
        facts["dropped"] = f"{dropped} prompts longer than rollout.max_prompt_tokens"
    if done:
        facts["resumed"] = f"after step {done}"
    return facts


def _exit_code(stopped: str | None) -> int:
    if stopped is None:
        return DONE
    return RESUMABLE if stopped in [number.name for number in SIGNALS] else STOPPED_BY_ALARM


def _conclude(terminal: Terminal, folder: Path, stopped: str | None) -> None:
    """Writes the report, and says what came of the run. A report that fails does not fail the run."""
    rows, _ = read_lines(folder / "metrics.jsonl")
    facts = {"metrics": str(folder / "metrics.jsonl")}
    try:
        facts["report"] = str(write_report([folder], folder / "report.html", ended=True))
    except Exception as error:
        facts["report"] = (
            f"not written ({type(error).__name__}: {error}); try python jobs/report.py {folder}"
        )
    if stopped:
        facts["stopped"] = f"{stopped}; go on with resume=auto"
    terminal.summary(rows, facts)
