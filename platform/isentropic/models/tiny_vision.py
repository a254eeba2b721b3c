"""The embedded model that reads images: a random Qwen2.5-VL of less than a million parameters, one token a character.

It has learned nothing. It shows that images reach engine and learner alike, and costs seconds on a CPU.
"""

import string
from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from isentropic.models.tiny import character_tokenizer

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHARACTERS = [
    *string.digits,
    *string.ascii_lowercase,
    *" ?.,",
]  # few, so that a random model writes numbers at times
PATCH, MERGE = 14, 2  # an image token shows 28 x 28 pixels
WINDOW = 256
SEED = 0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_vision_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character, three roles, and the marks of images."""
    return character_tokenizer(CHARACTERS, marks=VISION, chat_template=CHAT_TEMPLATE)


def build_vision_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Random weights, from a generator of their own. Heads of 32: vLLM's attention on CPUs takes no smaller ones."""
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": WINDOW,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": 2 * PATCH * MERGE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 128,
        },
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Qwen2_5_VLForConditionalGeneration(config)
        with (
            torch.no_grad()
        ):  # away from the uniform distribution, and from images that all look alike
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def write_vision_model(folder: Path) -> None:
    """An ordinary Hugging Face folder, as that of Qwen2.5-VL: weights, tokenizer, the image processor's settings."""
    tokenizer = build_vision_tokenizer()
    build_vision_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        min_pixels=(PATCH * MERGE) ** 2,
        max_pixels=224**2,
    )
    processor.save_pretrained(folder)
