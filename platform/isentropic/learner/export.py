"""Writes the trained model as a Hugging Face folder."""

import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from isentropic.config import ModelConfig
from isentropic.images import reads_images
from isentropic.models.pretrained import load_tokenizer

TOKENIZER_FILES = (
    *("*token*.json", "tokenizer.model", "vocab.*", "merges.txt", "chat_template*", "spiece.model"),
    "*processor_config.json",  # of images
)


def write_folder(
    folder: Path, lm: PreTrainedModel, weights: dict[str, Tensor], model: ModelConfig
) -> None:
    """Writes safetensors, config, generation config and, if the model has one, its tokenizer.

    Args:
        weights: full tensors by their Hugging Face names, a tied output layer once.
        model: the source of the tokenizer.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(_as_published(lm, weights), folder)
    config = lm.config
    config.dtype = next(iter(weights.values())).dtype
    config.architectures = [type(lm).__name__.removeprefix("FSDP")]
    config.save_pretrained(folder)
    if lm.can_generate():
        lm.generation_config.save_pretrained(folder)
    _write_tokenizer(folder, model, reads_images(config))


def _as_published(lm: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes experts apart: transformers stacks them as it loads, files have them one by one."""
    if not any(".experts." in name for name in weights):
        return weights
    apart = revert_weight_conversion(lm, weights)
    # Parts of a stack share its memory, and safetensors refuses tensors that share.
    return {name: tensor.clone().contiguous() for name, tensor in apart.items()}


def _write_tokenizer(folder: Path, model: ModelConfig, with_images: bool) -> None:
    """Copies a folder's tokenizer files as they are; loads and saves that of a Hub model."""
    source = Path(model.path)
    if not source.is_dir():
        load_tokenizer(model).save_pretrained(folder)
        if with_images:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
                Qwen2VLImageProcessorPil,
            )

            Qwen2VLImageProcessorPil.from_pretrained(
                model.path, revision=model.revision
            ).save_pretrained(folder)
        return
    for path in (path for pattern in TOKENIZER_FILES for path in source.glob(pattern)):
        shutil.copyfile(path, folder / path.name)
