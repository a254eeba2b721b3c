"""Puts a run together on Ray and drives it to its end."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from isentropic.actors.launch import Actors, start_actors
from isentropic.config import Config
from isentropic.controller import checkpoints
from isentropic.controller.drawing import Drawer
from isentropic.controller.feed import Feed
from isentropic.controller.loop import Controller
from isentropic.controller.reporting import Reporter
from isentropic.controller.teaching import Teaching
from isentropic.experiments.hydra_main import DONE, FAULT, RESUMABLE, STOPPED_BY_ALARM
from isentropic.experiments.prepare import Prepared
from isentropic.experiments.run_folder import write_run_folder
from isentropic.learner.learner import Learner
from isentropic.metrics.report import write_report
from isentropic.metrics.sinks import JsonlSink, read_lines
from isentropic.metrics.terminal import Terminal
from isentropic.metrics.wandb_sink import WandbSink
from isentropic.rollout.engine import Engine
from isentropic.tasks.rewards import RewardWorkers

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Start = tuple[Path, checkpoints.Manifest] | None
FOLDERS = ("rollouts", "trained", "checkpoints", "logs")


def run(config: Config, cfg: DictConfig, prepared: Prepared) -> int:
    """Runs, or resumes, in the run folder; the exit code."""
    teaching = Teaching(config)
    teaching.bind(chat=prepared.chat, task=prepared.task, model_path=prepared.model.path)
    folder = write_run_folder(config, cfg)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    terminal = Terminal(config.run.steps)
    start = checkpoints.latest(folder / "checkpoints", terminal.say)
    record = JsonlSink(folder, resume_step=start[1].step if start else -1)
    plain = OmegaConf.to_container(cfg, resolve=True)
    wandb = WandbSink(config.tracking, folder=folder, run_name=config.run.name, config=plain, warn=terminal.say)
    text = (folder / "logs" / "run.log").open("a", encoding="utf-8")
    reporter = Reporter(
        config, record, [wandb, terminal, Terminal(config.run.steps, stream=text)], about={"config": plain}
    )
    grader = RewardWorkers(prepared.task, prepared.chat, config.rewards)
    stopped, code = None, FAULT
    try:
        terminal.banner(_banner(config, folder, prepared, wandb, start[1].step if start else 0))
        stopped = asyncio.run(_drive(config, folder, prepared, grader, teaching, reporter, start))
        code = _exit_code(stopped)
    finally:
        terminal.close()
        grader.close()
        record.close()
        text.close()
        wandb.close(exit_code=code)
    _conclude(terminal, folder, stopped)
    return code


async def _drive(
    config: Config,
    folder: Path,
    prepared: Prepared,
    grader: RewardWorkers,
    teaching: Teaching,
    reporter: Reporter,
    start: Start,
) -> str | None:
    """Starts the actors, runs the controller; why it stopped early, or None."""
    actors = await start_actors(
        config.cluster,
        config.rollout,
        config.learner,
        make_engine=_make_engine(config, prepared),
        make_learner=_make_learner(config, prepared),
    )
    try:
        controller = _controller(config, folder, prepared, actors, grader, teaching, reporter)
        with stop_on_signal(controller):
            await controller.run(start)
        return controller.stopped
    finally:
        actors.close()


def _make_engine(config: Config, prepared: Prepared) -> partial[Engine]:
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
    )


def _make_learner(config: Config, prepared: Prepared) -> partial[Learner]:
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


def _controller(
    config: Config,
    folder: Path,
    prepared: Prepared,
    actors: Actors,
    grader: RewardWorkers,
    teaching: Teaching,
    reporter: Reporter,
) -> Controller:
    drawer = Drawer(
        task=prepared.task,
        chat=prepared.chat,
        pool=actors.pool,
        grader=grader,
        config=config.rollout,
        seed=config.seed,
        window=config.model.max_length,
    )
    feed = Feed(
        config=config,
        pool=actors.pool,
        drawer=drawer,
        chat=prepared.chat,
        grader=grader,
        make_sampling=lambda step: config.sampling.build(),
        ledger=folder / "rollouts",
        eval_size=prepared.task.size("eval"),
    )
    return Controller(
        config=config, learner=actors.learner, feed=feed, teaching=teaching, reporter=reporter, folder=folder
    )


@contextmanager
def stop_on_signal(controller: Controller) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the run after the step under way; the second Ctrl-C ends it now.

    Installed after `ray.init`, which takes SIGTERM for itself.
    """
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    pressed: set[signal.Signals] = set()

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGINT and number in pressed:
            running.cancel()
            return
        pressed.add(number)
        controller.request_stop(number.name)
        again = "; Ctrl-C again to quit now" if number == signal.SIGINT else ""
        print(f"{number.name}: saving after this step{again}", file=sys.stderr, flush=True)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _banner(config: Config, folder: Path, prepared: Prepared, wandb: WandbSink, done: int) -> dict[str, str]:
    objective = {key: value for key, value in config.objective.at(max(done, 1)).items() if value is not None}
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
        facts["report"] = f"not written ({type(error).__name__}: {error}); try python jobs/report.py {folder}"
    if stopped:
        facts["stopped"] = f"{stopped}; go on with resume=auto"
    terminal.summary(rows, facts)
