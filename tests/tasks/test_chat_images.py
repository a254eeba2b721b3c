"""Where the images of a prompt stand among its tokens."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from isentropic.images import Images
from isentropic.models.tiny import build_tokenizer
from isentropic.models.tiny_vision import build_vision_tokenizer
from isentropic.records import Prompt
from isentropic.tasks.chat import Chat

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture
def chat():
    tokenizer = build_vision_tokenizer()
    processor = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2)
    return Chat(
        tokenizer,
        Images(processor, limits=(28**2, 28**2), token_id=tokenizer.vocab["<|image_pad|>"]),
    )


@pytest.fixture
def media(tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")  # one token
    return (str(tmp_path / "a.png"),)


def prompt(*texts, media=()):
    roles = ("system", "user") if len(texts) > 1 else ("user",)
    messages = tuple(
        {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
    )
    return Prompt(prompt_id="p", messages=messages, answer="", media=media)


@pytest.mark.parametrize(
    ("texts", "count", "written"),
    [
        pytest.param(
            ("ab",), 1, f"<|user|>{IMAGE}ab<|end|><|assistant|>", id="in front of the text"
        ),
        pytest.param(
            ("ab",), 2, f"<|user|>{IMAGE}{IMAGE}ab<|end|><|assistant|>", id="both in front"
        ),
        pytest.param(
            ("a<image>b",), 1, f"<|user|>a{IMAGE}b<|end|><|assistant|>", id="where the text says"
        ),
        pytest.param(
            ("s", "ab"),
            1,
            f"<|system|>s<|end|><|user|>{IMAGE}ab<|end|><|assistant|>",
            id="the user's first message",
        ),
        pytest.param(("a image",), 0, "<|user|>a image<|end|><|assistant|>", id="no image"),
    ],
)
def test_places(chat, media, texts, count, written):
    ids = chat.prompt_ids(prompt(*texts, media=media * count))
    assert chat.tokenizer.decode(ids) == written


def test_a_text_that_holds_an_image_token_is_refused(chat):
    with pytest.raises(ValueError, match=r"prompt p with 0 image\(s\) has 1 place\(s\)"):
        chat.prompt_ids(prompt("a<|image_pad|>b"))


def test_a_reply_does_not_repeat_the_image(chat, media):
    between = chat.reply_ids(prompt("ab", media=media), "cd", "stop")
    np.testing.assert_array_equal(between, chat.reply_ids(prompt("ab"), "cd", "stop"))


def test_a_model_of_text_alone_refuses_an_image(media):
    with pytest.raises(
        ValueError, match=r"prompt p carries an image \(.*a\.png\), but the model reads text alone"
    ):
        Chat(build_tokenizer()).prompt_ids(prompt("ab", media=media))
