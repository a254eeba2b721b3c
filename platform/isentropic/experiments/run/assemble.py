"""Puts a run together on Ray and drives it to its end."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from isentropic.actors.launch import Actors, start_actors, start_explained
from isentropic.actors.reward_nodes import start_reward_nodes
from isentropic.config import Config, method_name
from isentropic.controller.feed import Feed
from isentropic.controller.loop import Controller
from isentropic.controller.method import Method
from isentropic.controller.protocols import LearnerGroup, RolloutPool
from isentropic.controller.reporting import Reporter
from isentropic.controller.sampler import Sampler
from isentropic.controller.storage.resume import resume_point
from isentropic.controller.trainer import Trainer
from isentropic.experiments.program import DONE, FAULT, RESUMABLE, STOPPED_BY_ALARM
from isentropic.experiments.run.builders import make_engine, make_learner
from isentropic.experiments.run.folder import check_data, remove_torn, write_run_folder
from isentropic.experiments.run.in_thread import gets_signals, in_thread
from isentropic.experiments.run.prepare import Prepared
from isentropic.experiments.run.recorded import decoder
from isentropic.experiments.run.resuming.beginning import Beginning
from isentropic.experiments.run.stopping import SIGNALS, RelayedStopping, Stopping
from isentropic.experiments.run.supervise import Restartable, Start, supervise
from isentropic.experiments.settings.checks import remarks
from isentropic.experiments.started import as_started
from isentropic.metrics.report import write_report
from isentropic.metrics.sinks.csv import CsvSink
from isentropic.metrics.sinks.jsonl import JsonlSink, read_lines
from isentropic.metrics.sinks.tensorboard import TensorboardSink
from isentropic.metrics.sinks.terminal import Terminal, now
from isentropic.metrics.sinks.wandb import WandbSink
from isentropic.tasks.grading.rewards import RewardWorkers

FOLDERS = ("rollouts", "trained", "checkpoints", "logs")


def run(config: Config, cfg: DictConfig, prepared: Prepared) -> int:
    """Runs, or resumes, in the run folder; the exit code."""
    terminal = Terminal(config.run.steps, samples=config.evaluation.samples, stamp=now)
    within_s = config.checkpoint.stop_within_s
    if gets_signals():
        stopping = Stopping(within_s)
        return asyncio.run(run_with(config, cfg, prepared, own_actors, stopping, terminal))
    relayed = RelayedStopping(within_s)
    return in_thread(
        run_with(config, cfg, prepared, own_actors, relayed, terminal),
        interrupt=lambda: relayed.signalled(signal.SIGINT),
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
    """Runs with actors from `lend`, which get back to it; `panel` is one more log of every line."""
    method = _method(config, prepared)  # what it refuses leaves no folder behind
    note = _check_data(config, prepared)
    beginning = Beginning(config, cfg, prepared.data, terminal.say)
    folder = write_run_folder(config, cfg, prepared.data)
    for line in [*([note] if note else []), *remarks(config), *beginning.remarks]:
        terminal.say(line)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    remove_torn(folder)
    start = _start(config, prepared, folder, terminal, beginning)
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
        warn=terminal.say,
    )
    more = _more_sinks(config, folder, terminal)
    logs = [
        wandb,
        *more,
        terminal,
        Terminal(config.run.steps, samples=config.evaluation.samples, stream=text, stamp=now),
        *panel,
    ]
    metadata = {"config": plain}
    assembly = Assembly(
        config, folder, prepared, grader, logs, metadata, terminal, beginning, method
    )
    code = FAULT
    # To the very end: a signal that comes while the report is written must not cut it off.
    with stopping:
        # Closes each, even if another one cannot write its last line to a full disk.
        with ExitStack() as closing:
            closing.callback(lambda: wandb.close(exit_code=code))
            for part in (text, assembly, grader, terminal, *more):
                closing.callback(part.close)
            assembly.cut_back(start)
            terminal.banner(_banner(config, folder, prepared, wandb, start[1].step if start else 0))
            terminal.phase("starting engines and learner")
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
        folder=Path(config.run.dir),
        transport=config.weights.transport,
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
    metadata: dict[str, Any]
    terminal: Terminal
    beginning: Beginning
    method: Method | None  # of the first attempt
    record: JsonlSink | None = None

    def cut_back(self, start: Start) -> None:
        """Opens the JSONL files, cut back to the checkpoint."""
        self.close()
        self.record = JsonlSink(self.folder, resume_step=start[1].step if start else -1)

    def close(self) -> None:
        if self.record is not None:
            self.record.close()

    @asynccontextmanager
    async def grading_everywhere(self) -> AsyncIterator[None]:
        """Has answers checked on all nodes of the cluster, if the run asks for that."""
        config, task, places = self.config, self.prepared.task, []
        if config.rewards.nodes == "all" and not task.isolated:
            self.terminal.say(
                f"rewards.nodes=all changes nothing: the answers of task {config.task.name} are "
                "checked without workers, in the run's own process."
            )
        elif config.rewards.nodes == "all":
            with start_explained():
                places = await start_reward_nodes(
                    task,
                    config.rewards,
                    timeout_s=config.cluster.startup_timeout_s,
                    say=self.terminal.say,
                )
            self.grader.spread(places)
        try:
            yield
        finally:
            for place in places:
                place.close()

    def controller(self, actors: Lendable, start: Start) -> Controller:
        """Makes a controller whose state is new; `start` brings the rest."""
        self.cut_back(start)
        prepared = self.prepared
        config = self.config
        method = self.method or _method(config, prepared)
        self.method = None
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
            make_sampling=lambda step: config.sampling,
            candidates=method.candidates,
            ledger=self.folder / "rollouts",
            eval_size=prepared.task.size("eval"),
        )
        return Controller(
            config=config,
            learner=actors.learner,
            trainer=Trainer(
                config, actors.learner, method, attention_share=prepared.attention_share
            ),
            feed=feed,
            reporter=Reporter(config, self.record, self.logs),
            folder=self.folder,
            metadata=self.metadata,
            warn=self.terminal.say,
            phase=self.terminal.phase,
            begun=partial(self.beginning.begin, start),
        )


def _more_sinks(config: Config, folder: Path, terminal: Terminal) -> list[Any]:
    """Opens the records beside metrics.jsonl and W&B that were asked for."""
    tracking = config.tracking
    sinks = [(tracking.tensorboard, TensorboardSink), (tracking.csv, CsvSink)]
    return [make(folder, terminal.say) for is_asked, make in sinks if is_asked]


def _method(config: Config, prepared: Prepared) -> Method:
    method = Method(config)
    method.bind(chat=prepared.chat, task=prepared.task, model_path=prepared.model.path)
    return method


def _check_data(config: Config, prepared: Prepared) -> str | None:
    if prepared.data is None:
        return None
    return check_data(Path(config.run.dir), prepared.data, config.resume.allow_changes)


def _start(
    config: Config, prepared: Prepared, folder: Path, terminal: Terminal, beginning: Beginning
) -> Start:
    """Where the run can go on without a gap behind it; None is its first step."""
    return resume_point(
        folder,
        ahead=config.rollout.max_staleness,
        last=config.run.steps,
        warn=terminal.say,
        vocab_size=prepared.chat.vocab_size,
        in_segments=config.rollout.segment_tokens is not None,
        drawn_again=bool(beginning.changes),
    )


async def _drive(assembly: Assembly, start: Start, lend: Lend, stopping: Stopping) -> str | None:
    """Runs to the end; returns why it stopped early, or None."""
    config = assembly.config
    terminal = assembly.terminal
    try:
        async with lend(config, assembly.prepared) as actors, assembly.grading_everywhere():
            return await supervise(
                actors,
                partial(assembly.controller, actors),
                start,
                lambda: _start(
                    config, assembly.prepared, assembly.folder, terminal, assembly.beginning
                ),
                max_restarts=config.cluster.max_learner_restarts,
                stopping=stopping,
                say=terminal.say,
            )
    except asyncio.CancelledError:
        if not stopping.overdue:
            raise
        return stopping.reason
    except SystemExit as error:
        # It came in the middle of `ray.init`, whose own handler took it.
        if error.code != signal.SIGTERM:
            raise
        return signal.SIGTERM.name
    finally:
        stopping.over()


def _banner(
    config: Config, folder: Path, prepared: Prepared, wandb: WandbSink, done: int
) -> dict[str, str]:
    values = config.objective.at(max(done, 1))
    coefficients = ", ".join(
        f"{key} {value:g}" for key, value in values.items() if value is not None
    )
    task = prepared.task
    facts = {
        "run": f"{config.run.name}, seed {config.seed}, {folder}",
        "model": f"{config.model.name} ({prepared.model.path})",
        "task": f"{config.task.name}: {task.size('train')} prompts, {task.size('eval')} held out",
        "method": f"{method_name(asdict(config))} ({coefficients})",
        "actors": f"{_count(config.rollout.num_actors, 'engine')}, "
        + _count(config.learner.num_ranks, "learner rank"),
        "W&B": wandb.where,
        "go on": "the same command with resume=auto",
    }
    if dropped := sum(prepared.dropped.values()):
        facts["dropped"] = f"{dropped} prompts longer than rollout.max_prompt_tokens"
    if done:
        facts["resumed"] = f"after step {done}"
    return facts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _exit_code(stopped: str | None) -> int:
    if stopped is None:
        return DONE
    return RESUMABLE if stopped in [number.name for number in SIGNALS] else STOPPED_BY_ALARM


def _conclude(terminal: Terminal, folder: Path, stopped: str | None) -> None:
    """Writes the report and prints the summary. A report that fails does not fail the run."""
    rows, _ = read_lines(folder / "metrics.jsonl")
    facts = {"metrics": str(folder / "metrics.jsonl")}
    try:
        report = write_report([folder], folder / "report.html", ended=True, decoder=decoder)
        facts["report"] = str(report)
    except Exception as error:
        again = as_started(f"python jobs/report.py {folder}")
        facts["report"] = f"not written ({type(error).__name__}: {error}); try {again}"
    if stopped:
        facts["stopped"] = f"{stopped}; go on with resume=auto"
    terminal.summary(rows, facts)
