"""Is this a model's folder that can be used? Asked before anything starts, without loading weights.

Each error names the file and what to do. A cut download shows here, not after minutes on a rank.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

from isentropic.checks import nearest, within_window
from isentropic.config import ModelConfig
from isentropic.images import reads_images
from isentropic.models.pretrained import load_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
OTHER_JSON = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
    *("generation_config.json", "preprocessor_config.json"),
)
AGAIN = "Copy the file again from where the model came."
# transformers can build a causal LM of them, but their states see later tokens too.
ENCODERS = (
    *("bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert"),
    *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
    *("xmod",),
)
SHOWN = 3  # names that an error lists

Shapes = dict[str, tuple[int, ...]]


def check_folder(model: ModelConfig, folder: Path) -> None:
    """Raises ValueError if the folder is not a whole model of transformers in safetensors.

    What it lacks and a window that is too short are reported together: a copy takes hours, and the
    weights are of no use if the window is too short.
    """
    if not folder.is_dir():
        raise ValueError(
            f"model.path={folder} is a file. Give the folder that holds config.json, the tokenizer "
            "and *.safetensors."
        )
    names = {entry.name for entry in folder.iterdir()}
    if CONFIG not in names:
        raise ValueError(
            f"model.path={folder} has no config.json, so it is not a Hugging Face model folder."
        )
    lacking = [*_lacking(folder, names), *_too_long(model, _config(model, folder / CONFIG))]
    if lacking:
        raise ValueError(" ".join(lacking))
    for name in names.intersection(OTHER_JSON):
        _read_json(folder / name)
    _check_weights(folder, read_shapes(folder), *_expected_shapes(model, load_config(model)))


def _lacking(folder: Path, names: set[str]) -> Iterator[str]:
    """What a folder of a model has, and this one has not."""
    if not names.intersection(TOKENIZER_FILES):
        yield (
            f"model.path={folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}). Save the "
            "model's tokenizer into it: "
            "AutoTokenizer.from_pretrained(<origin>).save_pretrained(<folder>)."
        )
    if not any(name.endswith(".safetensors") for name in names):
        yield (
            f"model.path={folder} has no *.safetensors. Other weight files may run code when they "
            "are opened: convert them with model.save_pretrained(<folder>)."
        )


def check_config(model: ModelConfig, file: Path) -> None:
    """config.json: readable, no code of its own unless trusted, a window that is long enough."""
    for problem in _too_long(model, _config(model, file)):
        raise ValueError(problem)


def _config(model: ModelConfig, file: Path) -> dict[str, Any]:
    config = _read_json(file)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ValueError(
            f"{file} is not the config of a model: model_type is {kind!r}, not a name. {AGAIN}"
        )
    if kind in ENCODERS:
        raise ValueError(
            f"model.path={model.path} is an encoder (model_type {kind}): it cannot write text. "
            "Choose a causal language model, e.g. of model_type qwen3 or llama."
        )
    if "auto_map" in config and not model.trust_remote_code:
        raise ValueError(
            f"{model.path} (model_type {kind}) brings its own Python code, which is not run unless "
            "asked for. If you have read it: model.trust_remote_code=true with a pinned "
            "model.revision."
        )
    return config


def _too_long(model: ModelConfig, config: dict[str, Any]) -> Iterator[str]:
    window = config.get("max_position_embeddings")
    if isinstance(window, int) and model.max_length > window:
        yield (
            f"model.max_length={model.max_length} is more than the window of {model.path}, "
            f"{window}. {within_window(window)}"
        )


def read_shapes(folder: Path) -> Shapes:
    """Shape of every tensor in the folder's safetensors, from their headers.

    Raises:
        ValueError: a file is cut or damaged, or the index names a file or tensor that is not there.
    """
    index = folder / INDEX
    if index.exists():
        return _indexed_shapes(folder, index)
    if not (folder / WEIGHTS).is_file():
        found = sorted(path.name for path in folder.glob("*.safetensors"))
        raise ValueError(
            f"model.path={folder} has {', '.join(found[:SHOWN])}, but neither {WEIGHTS} nor "
            f"{INDEX}, "
            "which says where each weight is. Copy the missing file from where the model came."
        )
    return dict(_header(folder / WEIGHTS))


def _indexed_shapes(folder: Path, index: Path) -> Shapes:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(
            f"{index} has no weight_map from names of weights to names of files. {AGAIN}"
        )
    shapes: Shapes = {}
    for name in sorted(set(places.values())):
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise ValueError(
                f"{index} names the file {name!r}, which is not in {folder}. Copy it from where "
                f"the "
                "model came."
            )
        held = dict(_header(file))
        lost = sorted(key for key, place in places.items() if place == name and key not in held)
        if lost:
            raise ValueError(
                f"{file} lacks {', '.join(lost[:SHOWN])}, which {index.name} says it has: the "
                f"files "
                f"are of different models or versions. {AGAIN}"
            )
        shapes |= held
    return shapes


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Opening checks that the file is as long as its header says."""
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a dict
                yield name, tuple(tensors.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        hint = (
            " It is a pointer of Git LFS, not the file: run `git lfs pull` there."
            if size < 1000 and file.read_bytes().startswith(b"version https://git-lfs")
            else " It is cut or damaged. Copy it again from where the model came."
        )
        raise ValueError(f"{file} ({size:,} bytes) cannot be read: {error}.{hint}") from error


def _expected_shapes(model: ModelConfig, config: PretrainedConfig) -> tuple[Shapes, set[str]]:
    """Shapes of the weights that the config describes, and the names of those that are copies."""
    kind = AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            lm = kind.from_config(config, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # transformers meets sizes that do not go together unprepared
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{model.path}/{CONFIG} describes no causal language model that transformers can build "
            f"({type(error).__name__}: {reason:.200}). {AGAIN}"
        ) from error
    shapes = {name: tuple(weight.shape) for name, weight in lm.named_parameters()}
    tied = getattr(config.get_text_config(decoder=True), "tie_word_embeddings", False)
    return shapes, set(lm._tied_weights_keys or ()) if tied else set()


def _check_weights(folder: Path, found: Shapes, shapes: Shapes, tied: set[str]) -> None:
    """Shapes and names must be the model's, unless the files use names of their own altogether."""
    for name in found.keys() & shapes.keys():
        if found[name] != shapes[name]:
            raise ValueError(
                f"{folder}: the weight {name} has the shape {list(found[name])} in the "
                f"safetensors, "
                f"but {CONFIG} asks for {list(shapes[name])}: they are of different models. {AGAIN}"
            )
    missing = sorted(shapes.keys() - found.keys() - tied)
    # Names that transformers converts while it loads are neither missing nor wrong.
    if missing and found.keys() <= shapes.keys():
        size = sum(math.prod(shapes[name]) for name in missing)
        raise ValueError(
            f"{folder}: the safetensors lack {len(missing)} weights of {size:,} numbers, such as "
            f"{', '.join(missing[:SHOWN])}; they would start at random. Copy the missing files "
            f"from "
            "where the model came."
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON that can be read: {error}. {AGAIN}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {type(value).__name__}, not an object of keys. {AGAIN}")
    return value


def missing_folder(folder: Path, siblings: Iterable[str], hint: str = "") -> ValueError:
    """The error for a folder that is not there."""
    hint = hint or nearest(folder.name, siblings)
    return ValueError(
        f"model.path: there is no folder {folder}.{hint} It must be a Hugging Face model folder."
    )
