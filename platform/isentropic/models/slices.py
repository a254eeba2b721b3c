"""Reads a sharded model's weights from safetensors: each rank its own slices, nothing else.

A rank that loaded the whole model first would hold 4 bytes per parameter on the host, on every
rank: 244 GB per node of eight ranks at 7 B.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from isentropic.config import ModelConfig
from isentropic.models.adapters import stored_name
from isentropic.models.folder import INDEX, WEIGHTS, read_shapes

# What a copy to float32 turns into the number that was meant; an integer or an 8-bit float goes
# with scales that stand elsewhere.
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


class Place(NamedTuple):
    """Where a weight is stored."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str


def find_places(model: ModelConfig, lm: PreTrainedModel) -> dict[str, Place] | None:
    """Finds each weight of `lm`, which may be on meta, in the model's files.

    A tied weight has one place, under its first name. Returns None if the files cannot be read by
    slices: transformers computes some weights from others as it loads (fused experts, quantised
    weights), or the files lack weights or hold them in other shapes.

    Raises:
        ValueError: a file is missing, cut or damaged, or the Hub cannot be reached.
    """
    held = _held(weights_folder(model))
    weights = _stored(lm)
    renamings = get_model_conversion_mapping(lm)
    converters = [each for each in renamings if isinstance(each, WeightConverter)]
    renamings = [each for each in renamings if not isinstance(each, WeightConverter)]
    places: dict[str, Place] = {}
    for place in held.values():
        name, converted = place.name, None
        if name not in weights:
            name, converted = rename_source_key(
                name, renamings, converters, lm.base_model_prefix, weights
            )
        if converted is not None:
            return None
        places[name] = place
    fits = all(
        name in places
        and places[name].shape == tuple(tensor.shape)
        and places[name].dtype in PLAIN_DTYPES
        for name, tensor in weights.items()
    )
    # Files that hold both names of a tied weight may hold two different ones.
    both = places.keys() & lm.all_tied_weights_keys.keys()
    quantised = getattr(lm.config, "quantization_config", None) is not None
    return places if fits and not both and not quantised else None


@torch.no_grad()
def read_slices(lm: PreTrainedModel, places: Mapping[str, Place]) -> None:
    """Fills a sharded model, its memory allocated, from the files; no collectives.

    Weights are cast to the model's dtype as they are copied. Buffers that no file holds (rotary
    frequencies) are made anew by the model's own rule.
    """
    for name, tensor in _stored(lm).items():
        _read(tensor, places[name])
        # transformers leaves such a tensor alone when it initialises what was not loaded.
        tensor._is_hf_initialized = True
    lm.initialize_weights()


def weights_folder(model: ModelConfig) -> Path:
    """Returns the folder with the model's safetensors, downloaded first if it is a Hub name.

    Raises:
        ValueError: the Hub cannot be reached and the files are not in its cache.
    """
    if Path(model.path).is_dir():
        return Path(model.path)
    try:
        # The index first: some repositories hold the same weights twice, in other files too.
        folder = Path(snapshot_download(model.path, revision=model.revision, allow_patterns=INDEX))
        snapshot_download(
            model.path, revision=model.revision, allow_patterns=[INDEX, *_file_names(folder)]
        )
    except Exception as error:  # no network, gated, not found: all end the same way
        raise ValueError(
            f"model.path={model.path}: its safetensors cannot be downloaded from the Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]:.160}). Download them on every "
            "node first (`hf download`), or give the path of a folder that all nodes share."
        ) from error
    if not any((folder / name).is_file() for name in _file_names(folder)):
        raise ValueError(
            f"model.path={model.path} has no *.safetensors. Other weight files may run code when "
            "they are opened: convert them with model.save_pretrained(<folder>) and give the "
            "folder."
        )
    return folder


def _file_names(folder: Path) -> list[str]:
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))


def _held(folder: Path) -> dict[str, Place]:
    read_shapes(folder)  # says what is wrong with a file that is missing, cut or damaged
    held = {}
    for name in _file_names(folder):
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  not a dict
                tensor = file.get_slice(key)
                held[key] = Place(folder / name, key, tuple(tensor.get_shape()), tensor.get_dtype())
    return held


def _stored(lm: PreTrainedModel) -> dict[str, Tensor]:
    """Maps names to what a model's files hold: parameters, tied ones once, and buffers."""
    unstored = {name for name, _ in lm.named_non_persistent_buffers()}
    buffers = {name: tensor for name, tensor in lm.named_buffers() if name not in unstored}
    named = dict(lm.named_parameters()) | buffers
    return {stored: each for name, each in named.items() if (stored := stored_name(name))}


def _read(tensor: Tensor, place: Place) -> None:
    local, start = tensor.detach(), (0,) * tensor.ndim
    if isinstance(tensor, DTensor):
        _, start = compute_local_shape_and_global_offset(
            tensor.shape, tensor.device_mesh, tensor.placements
        )
        local = local.to_local()
    if not local.numel():
        return
    rows = tuple(
        slice(begin, begin + length) for begin, length in zip(start, local.shape, strict=True)
    )
    # Opened anew for each: an open file keeps every page that was read in memory.
    with safe_open(place.file, framework="pt") as file:
        local.copy_(file.get_slice(place.name)[rows] if rows else file.get_tensor(place.name))
