"""Where a run's model comes from: a folder, the Hub, or the embedded one, made on first use.

Everything that can be known without loading weights is checked here, before anything starts.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from fcntl import LOCK_EX, flock
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import __version__ as transformers_version

from isentropic.checks import nearest
from isentropic.config import ModelConfig
from isentropic.folders import CACHED, cache_folder
from isentropic.models import tiny as tiny_model
from isentropic.models import tiny_vision, warm_start
from isentropic.models.folder import check_config, check_folder, missing_folder
from isentropic.models.tiny import TinySizes
from isentropic.models.warm_start import CARD, WarmStartConfig
from isentropic.tasks import TASKS
from isentropic.tasks.arithmetic import ArithmeticConfig

EMBEDDED = "embedded"
EMBEDDED_VISION = "embedded_vision"  # reads images, has learned nothing
HUB_TIMEOUT_S = 10.0


def say(text: str) -> None:
    """Prints a line. By a name of its own: Ray's `print` cannot be sent to another process."""
    print(text, flush=True)


def model_folder(model: ModelConfig, task_config: Any) -> str:
    """Returns the path for learner and engines; makes the embedded model if it is asked for.

    Raises:
        ValueError: as `check_model`.
    """
    check_model(model, task_config)
    if model.path == EMBEDDED_VISION:
        return str(cached_vision(cache_folder()))
    if model.path != EMBEDDED:
        return str(_folder(model.path) or model.path)
    arguments = (_warm_start_config(model), task_config, cache_folder())
    if (_warm_start_folder(*arguments) / CARD).is_file():
        return str(cached_warm_start(*arguments, say))
    # In a process of its own: the memory that training has churned up would stay with the run.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return str(apart.submit(cached_warm_start, *arguments, say).result())


def check_model(model: ModelConfig, task_config: Any) -> None:
    """Raises ValueError if `model.path` is not a model that can be used, and says what to do."""
    if model.path == EMBEDDED:
        if not isinstance(task_config, ArithmeticConfig):
            raise ValueError(
                "model.path=embedded is warm-started on task=arithmetic, task=calculator or "
                "task=sorting and knows "
                f"nothing else, got task={task_config.name}. Choose one of these, or model=<a "
                f"pretrained one>."
            )
        warm_start.check_styles(_warm_start_config(model), _task_class(task_config))
        window = _warm_start_config(model).sizes.window
        if model.max_length > window:
            raise ValueError(
                f"model.max_length={model.max_length} is more than "
                f"model.warm_start.sizes.window={window}."
            )
        return
    if model.path == EMBEDDED_VISION:
        if model.max_length > tiny_vision.WINDOW:
            raise ValueError(
                f"model.max_length={model.max_length} is more than {tiny_vision.WINDOW}, the "
                f"model's "
                "window."
            )
        return
    folder = _folder(model.path)
    if folder is None:
        _check_hub_name(model)
    elif folder.exists():
        check_folder(replace(model, path=str(folder)), folder)
    else:
        siblings = [entry.name for entry in _entries(folder.parent)]
        hint = (
            " `make smollm2` (or `isentropic fetch_smollm2`) makes it."
            if model.name == "smollm2-135m"
            else ""
        )
        raise missing_folder(folder, siblings, hint)


def _folder(path: str) -> Path | None:
    """The folder that a path names, be it there or not; None for the name of a Hub model."""
    if path.startswith(CACHED):
        return cache_folder() / path.removeprefix(CACHED)
    looks_like_a_path = (
        path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith("/")
    )
    folder = Path(path).expanduser()
    return folder.absolute() if looks_like_a_path or folder.exists() else None


def _check_hub_name(model: ModelConfig) -> None:
    if model.trust_remote_code and model.revision is None:
        raise ValueError(
            f"model.trust_remote_code=true runs code of {model.path} as of the day it is loaded. "
            f"Pin "
            "what you have read: model.revision=<commit>."
        )
    from huggingface_hub import HfApi, hf_hub_download

    where = {"repo_id": model.path, "revision": model.revision}
    try:
        try:
            config = hf_hub_download(filename="config.json", local_files_only=True, **where)
        except OSError:  # not downloaded before; without a network the question ends here
            HfApi().model_info(**where, timeout=HUB_TIMEOUT_S)
            config = hf_hub_download(filename="config.json", **where)
    except Exception as error:  # bad names, no network, gated, not found: all end the same way
        folders = [
            entry.name for entry in (*Path().iterdir(), *_entries(cache_folder())) if entry.is_dir()
        ]
        raise ValueError(
            f"model.path={model.path} is neither a folder here nor a model of the Hub that can be "
            f"reached ({type(error).__name__}: {str(error).splitlines()[0]:.160})."
            f"{nearest(model.path, folders)} Give the path of a folder, e.g. "
            f"model.path=./my-model; "
            "without a network, download the model first, or use model=tiny or model=smollm2-135m "
            "(`make smollm2`, or `isentropic fetch_smollm2`)."
        ) from error
    check_config(model, Path(config))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _warm_start_config(model: ModelConfig) -> WarmStartConfig:
    if model.warm_start is None:
        raise ValueError(
            "model.path=embedded needs model.warm_start: start from model=tiny, which has it."
        )
    values = dict(model.warm_start)
    sizes = values.get("sizes")
    if not isinstance(sizes, Mapping):
        raise ValueError(f"model.warm_start.sizes is a section of keys, got {sizes!r}.")
    _check_keys("model.warm_start.", values, WarmStartConfig)
    _check_keys("model.warm_start.sizes.", sizes, TinySizes)
    return WarmStartConfig(
        **{**values, "sizes": TinySizes(**sizes), "style_weights": tuple(values["style_weights"])}
    )


def _check_keys(prefix: str, values: Mapping[str, Any], section: type) -> None:
    allowed = {field.name: field.type for field in fields(section)}
    for key, value in values.items():
        if key not in allowed:
            raise ValueError(
                f"unknown config key {prefix + key!r}; allowed here: {', '.join(allowed)}."
                f"{nearest(key, allowed)}"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if allowed[key] in (int, float) and not (
            number and (allowed[key] is float or isinstance(value, int))
        ):
            raise ValueError(
                f"{prefix}{key} must be {'a whole' if allowed[key] is int else 'a'} number, got "
                f"{value!r}."
            )
    missing = [key for key in allowed if key not in values]
    if missing:
        raise ValueError(
            f"{prefix}{missing[0]} has no value; conf/model/tiny.yaml has all of them."
        )


def cached_warm_start(
    config: WarmStartConfig,
    task_config: ArithmeticConfig,
    cache: Path,
    report: Callable[[str], None],
) -> Path:
    """Folder of the warm-started model: cached, or trained now, by one process at a time."""
    folder = _warm_start_folder(config, task_config, cache)
    task = TASKS[task_config.name].make
    _made_once(
        folder, CARD, lambda scratch: warm_start.train(config, task(task_config), scratch, report)
    )
    card = json.loads((folder / CARD).read_text())
    train, held_out = card["train"], card["eval"]
    report(
        f"model tiny: sampled accuracy {train['accuracy']:.3f} "
        f"(held out {held_out['accuracy']:.3f}), entropy {train['entropy']:.3f} nats, {folder}"
    )
    return folder


def _warm_start_folder(config: WarmStartConfig, task_config: ArithmeticConfig, cache: Path) -> Path:
    digest = hashlib.sha256(
        json.dumps(_depends_on(config, task_config), sort_keys=True).encode()
    ).hexdigest()[:16]
    return cache / f"tiny-{digest}"


def cached_vision(cache: Path) -> Path:
    """Folder of the embedded model that reads images: from the cache, or made now."""
    sources = [Path(module.__file__).read_text() for module in (tiny_model, tiny_vision)]
    about = json.dumps([*sources, torch.__version__, transformers_version])
    folder = cache / f"tiny-vision-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    _made_once(folder, "config.json", tiny_vision.write_vision_model)
    return folder


def _made_once(folder: Path, last: str, make: Callable[[Path], None]) -> None:
    """Makes `folder` unless it has the file `last`: whole or not at all, one process at a time."""
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f".{folder.name}.lock", "w") as lock:
        flock(lock, LOCK_EX)  # a second process waits, and then finds the folder
        if not (folder / last).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name.split('-')[0]}-"))
            try:
                make(scratch)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _depends_on(config: WarmStartConfig, task_config: ArithmeticConfig) -> dict:
    # The files of the task and its base class: demonstrations, and when an answer is right.
    of_task = [
        sys.modules[base.__module__]
        for base in _task_class(task_config).__mro__
        if base is not object
    ]
    sources = [Path(module.__file__).read_text() for module in (tiny_model, warm_start, *of_task)]
    return {
        "warm_start": asdict(config),
        "task": asdict(task_config),
        "sources": [hashlib.sha256(source.encode()).hexdigest() for source in sources],
        "versions": [torch.__version__, transformers_version],
    }


def _task_class(task_config: ArithmeticConfig) -> type:
    return TASKS[task_config.name].make
