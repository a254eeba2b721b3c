"""What a run is going to do and to need, worked out without starting anything: `run.dry=true`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from isentropic.actors.placement import plan
from isentropic.checks import within_window
from isentropic.config import Config, ModelConfig
from isentropic.controller.method import Method
from isentropic.experiments.dry.fit import Placed, find_problems
from isentropic.experiments.dry.lines import model_line, plan_lines, step_lines
from isentropic.experiments.dry.machines import Machine, find_machine
from isentropic.experiments.dry.memory import loaded_whole
from isentropic.experiments.dry.preview import data_lines
from isentropic.experiments.dry.work import find_disk, find_work
from isentropic.experiments.run.folder import check_data
from isentropic.experiments.run.prepare import (
    check_engine_runs,
    check_engine_starts,
    check_learner_runs,
    fit_prompts,
    held_out_note,
    make_task,
)
from isentropic.experiments.settings.checks import check_devices, remarks
from isentropic.learner.model import check_rope, read_config
from isentropic.models.pretrained import load_chat
from isentropic.models.source import EMBEDDED, check_model, model_folder
from isentropic.models.tiny import TinySizes, build_model, build_tokenizer
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.data.digest import DataDigest
from isentropic.tasks.own.trial import NO_MORE, try_reward


class Findings:
    """Lines of the plan, and all that the run would be refused for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[str] = []
        self.unseen: list[str] = []  # what the plan had to do without: model, data

    @contextmanager
    def collecting(self, *, elsewhere: str | None = None) -> Iterator[None]:
        """Keeps a ValueError as a problem; as a line, if it is about what another machine has.

        Args:
            elsewhere: what that is.
        """
        try:
            yield
        except ValueError as error:
            if elsewhere:
                self.unseen.append(elsewhere)
                self.lines.append(f"not here   {error}")
            else:
                self.problems.append(str(error))


def describe(config: Config, machine: Machine | None = None) -> tuple[str, list[str]]:
    """Plans model, data, placement, memory, disk and time. Loads no weights, starts nothing.

    Plans for `machine` if it is given, else for what `find_machine` says.

    With `cluster.assume` model and data may lie on another machine: what is not here is said and
    not checked, and the model's sizes come from `model.shape`.

    Raises:
        ValueError: the user's own task fails. It is the first to be asked, and there is no plan
            without it.

    Returns:
        The plan as text, and what the run would be refused for: a model that is not whole,
        unreadable data, prompts that the template loses or the window cannot hold, teachers that
        are missing, an engine that cannot start or run the model, what does not fit the machine.
    """
    found = Findings()
    own = make_task(config) if config.task.name == "own" else None
    network, chat = _model_and_chat(config, found)
    with found.collecting():
        check_engine_starts(config, reads_images=chat is not None and chat.images is not None)
    task = _task(config, found, chat, own)
    data, found.lines = found.lines, []
    if network is not None:
        found.lines.append(model_line(config, network))
    found.lines += [*data, *step_lines(config)]
    found.lines += [f"remark     {remark}" for remark in remarks(config)]
    if config.cluster.assume is None:
        with found.collecting():
            check_devices(config)
    with found.collecting():
        plan(config.cluster, config.rollout, config.learner)
        if network is not None:
            _check_runs(config, found, network)
            _plan(config, found, network, task, machine or find_machine(config))
    return "\n".join(found.lines), found.problems


def _check_runs(config: Config, found: Findings, network: PretrainedConfig) -> None:
    with found.collecting():
        check_engine_runs(config, network)
    with found.collecting():
        check_learner_runs(config, network)


def _plan(
    config: Config,
    found: Findings,
    network: PretrainedConfig,
    task: Task | None,
    machine: Machine,
) -> None:
    work = find_work(config, held_out=None if task is None else task.size("eval"))
    disk = find_disk(config, network, work)
    whole = loaded_whole(config.model, network)
    placed = Placed(config=config, model=network, work=work, machine=machine, whole=whole)
    problems = find_problems(placed, disk)
    found.lines += plan_lines(placed, disk, fits=not problems, unseen=found.unseen)
    if found.problems and not problems:
        found.lines.append("           and is refused all the same, for another reason: see below")
    found.problems += problems


def _model_and_chat(config: Config, found: Findings) -> tuple[PretrainedConfig | None, Chat | None]:
    """The model's config and chat; without its files its shape from the preset, and no chat."""
    model = config.model
    elsewhere = config.cluster.assume is not None and not Path(model.path).expanduser().exists()
    network = chat = None
    with found.collecting(elsewhere="model" if elsewhere and model.shape is not None else None):
        check_model(model, config.task)
        if model.path == EMBEDDED:  # perhaps not made yet: its sizes say it all
            tokenizer = build_tokenizer()
            lm = build_model(TinySizes(**model.warm_start["sizes"]), tokenizer)
            vocab_size = lm.config.vocab_size
            return lm.config, Chat(tokenizer, today=config.run.today, vocab_size=vocab_size)
        model = replace(model, path=model_folder(model, config.task))
        network = read_config(model)
        found.lines += _other_shape(model, network)
        chat = load_chat(model, config.run.today)
    if network is None and model.shape is not None:
        with found.collecting():
            network = shaped_config(model)
    return network, chat


def shaped_config(model: ModelConfig) -> PretrainedConfig:
    """The config that `model.shape` describes. Raises ValueError if transformers knows no such."""
    shape: dict[str, Any] = model.shape or {}
    try:
        config = AutoConfig.for_model(**shape)
    except Exception as error:  # of foreign code: an unknown model_type, a missing one, a bad value
        raise ValueError(
            f"model.shape describes no model that transformers can build ({error}). It needs "
            "model_type and the sizes of the model's config.json, or null."
        ) from error
    window = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if window is not None and model.max_length > window:
        raise ValueError(
            f"model.max_length is {model.max_length}, but model.shape has a window of {window} "
            f"tokens. {within_window(window)}"
        )
    check_rope(model, config.get_text_config(decoder=True))
    return config


def _other_shape(model: ModelConfig, network: PretrainedConfig) -> list[str]:
    """Says where the preset's shape is not that of the model's files, which count."""
    text = network.get_text_config(decoder=True)
    differing = [
        f"{key}={value}, not {getattr(text, key, None)}"
        for key, value in (model.shape or {}).items()
        if not isinstance(value, dict) and key != "model_type" and getattr(text, key, None) != value
    ]
    if not differing:
        return []
    return [f"shape      model.shape is of another model, the files count: {'; '.join(differing)}"]


def _task(config: Config, found: Findings, chat: Chat | None, own: Task | None) -> Task | None:
    """Data, prompts and rewards; what is missing of the model leaves the prompts unchecked."""
    path = getattr(config.task, "path", None)
    missing = path is not None and not Path(path).expanduser().exists()
    task = None
    with found.collecting(elsewhere="data" if missing and config.cluster.assume else None):
        whole = own or make_task(config)
        if chat is None:
            sizes = f"{whole.size('train')} train, {whole.size('eval')} held out"
            found.lines.append(f"data       {config.task.name}: {sizes}; its prompts were not read")
            return whole
        digest = DataDigest(whole)
        task, dropped = fit_prompts(config, whole, chat, digest)
        note = check_data(Path(config.run.dir), digest, config.resume.allow_changes)
        # The folder of an embedded model may not be made yet; binding loads nothing of it.
        Method(config).bind(chat=chat, task=task, model_path=config.model.path)
        found.lines += data_lines(
            config.task.name,
            task,
            chat,
            config.rewards,
            bad_rows=getattr(whole, "num_skipped", 0),
            too_long=sum(dropped.values()),
        )
        found.lines += [f"resume     {note}"] if note else []
        if leak := held_out_note(config, digest):
            found.lines.append(f"held out   {leak}")
        said: list[str] = []
        try_reward(task, chat, config.rewards, warn=said.append)
        # `data_lines` has shown what a gold is paid.
        found.lines += [f"rewards    {text}" for text in said if NO_MORE not in text]
    return task
