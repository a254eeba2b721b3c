"""Loads task, model folder and chat before anything starts; refuses bad data and models."""

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from isentropic.config import Config, ModelConfig
from isentropic.learner.context_parallel import check_heads
from isentropic.learner.estimate import attention_share, count_trained, head_size
from isentropic.learner.model import check_trainable, read_config
from isentropic.metrics.sinks.tensorboard import check_tensorboard
from isentropic.models.pretrained import load_chat
from isentropic.models.source import check_model, model_folder
from isentropic.rollout import ENGINES
from isentropic.tasks import TASKS
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.data.digest import DataDigest
from isentropic.tasks.own.repeats import check_repeats
from isentropic.tasks.own.trial import try_reward
from isentropic.tasks.prompts import fitting

EXPERT_MULTIPLE = 32  # of an expert's width, in vLLM's kernel for CPUs


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The model's path is a real one here, the task's prompts all fit."""

    model: ModelConfig
    task: Task
    chat: Chat
    dropped: dict[str, int]  # prompts too long, by split
    attention_share: float = 0.0  # what microbatches are balanced by; 0: tokens
    data: DataDigest | None = None  # of all prompts, those that were dropped too


def prepare(config: Config, known: Prepared | None = None) -> Prepared:
    """Loads and checks; warm-starts the embedded model if it is not in the cache.

    Args:
        known: of a run with the same `data_key`: what it has read is not read again.

    Raises:
        ValueError: data or model that cannot be used, with what to do.
    """
    if config.tracking.tensorboard:
        check_tensorboard()
    if known is None:
        check_model(config.model, config.task)
        task = make_task(config)
        model = replace(config.model, path=model_folder(config.model, config.task))
        known = Prepared(
            model=model, task=task, chat=load_chat(model, config.run.today), dropped={}
        )
    check_engine_starts(config, reads_images=known.chat.images is not None)
    if known.data is None:
        data = DataDigest(known.task)
        task, dropped = fit_prompts(config, known.task, known.chat, data)
        known = replace(known, task=task, dropped=dropped, data=data)
    try_reward(known.task, known.chat, config.rewards)
    network = read_config(known.model)
    check_model_runs(config, network)
    share = attention_share(network) if config.learner.balance == "work" else 0.0
    return replace(known, attention_share=share)


def data_key(config: Config) -> str:
    """Returns a key: runs that have the same one read the same model and the same prompts."""
    return repr((config.model, config.task, config.rollout.max_prompt_tokens, config.run.date))


def make_task(config: Config) -> Task:
    """Makes the task; one of the user's own must give the same prompts again.

    Raises:
        ValueError: its data, or the user's code, cannot be used.
    """
    task = TASKS[config.task.name].make(config.task)
    check_repeats(config.task, task)
    return task


def fit_prompts(
    config: Config, task: Task, chat: Chat, data: DataDigest
) -> tuple[Task, dict[str, int]]:
    """Returns the task of the prompts that fit, and how many were dropped, by split.

    Adds all of them to `data`.

    Raises:
        ValueError: prompts that are too long or that the model would not read as meant.
    """
    return fitting(
        task,
        chat,
        splits=("train", "eval"),
        max_tokens=config.rollout.max_prompt_tokens,
        on_long_prompt=getattr(config.task, "on_long_prompt", "refuse"),
        seen=data.add,
    )


def held_out_note(config: Config, data: DataDigest) -> str:
    """Says how many held-out prompts are trained on; "" if none is."""
    trained_on, held_out = data.trained_on()
    if not trained_on:
        return ""
    share = "ALL" if trained_on == held_out else f"{trained_on} of {held_out}"
    path = getattr(config.task, "path", None)
    return (
        f"{share} HELD-OUT PROMPTS ARE TRAINED ON TOO: on these eval/* says what was remembered."
        + (
            f" task.eval_path is task.path, {path}; task.eval_path=null holds a share of it out."
            if path is not None and getattr(config.task, "eval_path", None) == path
            else ""
        )
    )


def check_model_runs(config: Config, model: PretrainedConfig) -> None:
    """Raises ValueError if the engine or the learner cannot run the model."""
    check_engine_runs(config, model)
    check_learner_runs(config, model)


def check_learner_runs(config: Config, model: PretrainedConfig) -> None:
    """Raises ValueError if the learner cannot train the model as the config wants it."""
    check_heads(model, config.learner.context_parallel)
    check_trainable(model, trust_remote_code=config.model.trust_remote_code)
    if config.learner.lora is not None:
        count_trained(model, config.learner.lora)


def check_engine_runs(config: Config, model: PretrainedConfig) -> None:
    """Raises ValueError if the chosen engine cannot run the model on its device."""
    text = model.get_text_config(decoder=True)
    devices = config.rollout.tensor_parallel
    heads = getattr(text, "num_attention_heads", None) or devices
    if heads % devices:
        raise ValueError(
            f"rollout.tensor_parallel={devices}: the model's {heads} attention heads cannot be "
            f"spread evenly over {devices} devices. Use a divisor of {heads}."
        )
    _check_split(text, devices)
    width = getattr(text, "moe_intermediate_size", None)
    if width and config.cluster.engine_device == "cpu" and width // devices % EXPERT_MULTIPLE:
        raise ValueError(
            f"an expert of {config.model.name} is {width // devices} wide on each device, and "
            f"vLLM's kernel for experts on a CPU takes multiples of {EXPERT_MULTIPLE}: it would "
            "pad the weights at the start, and new weights would not fit. Choose another model."
        )
    size = head_size(text)
    engine = ENGINES[config.rollout.engine]
    if why := engine.unsupported(size, config.cluster.engine_device):
        raise ValueError(why)


def _check_split(text: PretrainedConfig, devices: int) -> None:
    """Raises ValueError if vLLM cannot cut heads of keys or MLPs into equal parts."""
    keys = getattr(text, "num_key_value_heads", None) or devices
    if keys % devices and devices % keys:
        raise ValueError(
            f"rollout.tensor_parallel={devices}: the model's {keys} heads of keys can be neither "
            f"spread evenly over {devices} devices nor copied evenly to them. Use a divisor or a "
            f"multiple of {keys}."
        )
    for name in ("intermediate_size", "moe_intermediate_size"):
        inner = getattr(text, name, None)
        if isinstance(inner, int) and inner % devices:
            raise ValueError(
                f"rollout.tensor_parallel={devices}: {name} of the model is {inner}, which cannot "
                f"be spread evenly over {devices} devices. Use a divisor of {inner}."
            )


def check_engine_starts(config: Config, *, reads_images: bool) -> None:
    """Raises ValueError if the engine's packages are not installed on this machine."""
    # Engines on GPUs may start on other machines, in an image of their own.
    if config.cluster.engine_device != "cpu":
        return
    if why := ENGINES[config.rollout.engine].missing("cpu", images=reads_images):
        what = (
            f"model {config.model.name} reads images, and its engines"
            if reads_images
            else "engines"
        )
        raise ValueError(
            f"{what} (rollout.engine={config.rollout.engine}) could not start here. {why}"
        )
