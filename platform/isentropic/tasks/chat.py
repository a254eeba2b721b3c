"""Chat text to tokens and back, through the tokenizer's own chat template."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from isentropic.images import Images, load_images
from isentropic.records import FinishReason, Ints, Prompt, Rollout

PLACE = "<image>"  # in a prompt's text, where an image stands
MARK = "mark-of-a-turn"  # stands for a turn's text where the template around it is wanted


class Chat:
    """What the loop needs of a tokenizer: prompts in, turns out, and the text between turns.

    `images` reads those of prompts; None: the model reads text alone.
    """

    def __init__(self, tokenizer, images: Images | None = None) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                "the model's tokenizer has no chat template, so prompts cannot be written in the form it was trained "
                "on. Use an instruction-tuned model, or add `chat_template` to its tokenizer_config.json."
            )
        self.tokenizer, self.images = tokenizer, images
        self.eos_token_id: int = tokenizer.eos_token_id

    def prompt_ids(self, prompt: Prompt) -> Ints:
        """[T] tokens of the prompt, ready for the model to answer; one for each token of an image."""
        tokens = self._encode(self._render(self._messages(prompt), answer_next=True))
        return self.images.expand(tokens, prompt.media, prompt.prompt_id) if self.images else tokens

    def reply_ids(self, prompt: Prompt, reply: str, finish_reason: FinishReason) -> Ints:
        """[T] tokens between two turns: the first one's end where the policy did not write it, the reply, the cue."""
        messages = self._messages(prompt)
        before = self._render(
            (*messages, {"role": "assistant", "content": MARK}), answer_next=False
        )
        after = self._render(
            (*messages, {"role": "assistant", "content": MARK}, {"role": "user", "content": reply}),
            answer_next=True,
        )
        closing = before.rpartition(MARK)[2]
        if finish_reason == "stop":
            closing = closing.removeprefix(self.tokenizer.eos_token)
        return self._encode(closing + after[len(before) :])

    def turn_texts(self, rollout: Rollout) -> list[str]:
        """The policy's turns, special tokens removed."""
        return self.decode([rollout.token_ids[start:end] for start, end in rollout.turns])

    def decode(self, turns: Sequence[Ints]) -> list[str]:
        return self.tokenizer.batch_decode(
            [turn.tolist() for turn in turns], skip_special_tokens=True
        )

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        """For the template: images where the text says so, else in front of the user's first message."""
        if not prompt.media:
            return list(prompt.messages)
        if self.images is None:
            raise ValueError(
                f"prompt {prompt.prompt_id} carries an image ({prompt.media[0]}), but the model reads text alone. "
                "Choose one of Qwen2-VL or Qwen2.5-VL, or for the text without its images: task.image_column=null."
            )
        placed = any(PLACE in message["content"] for message in prompt.messages)
        messages, waiting = [], not placed
        for message in prompt.messages:
            parts: list[dict[str, str]] = []
            if waiting and message["role"] == "user":
                parts, waiting = [{"type": "image"}] * len(prompt.media), False
            for index, text in enumerate(message["content"].split(PLACE)):
                parts = (
                    parts
                    + [{"type": "image"}] * (index > 0)
                    + [{"type": "text", "text": text}] * bool(text)
                )
            messages.append(
                {**message, "content": parts if {"type": "image"} in parts else message["content"]}
            )
        return messages

    def _render(self, messages: Sequence[dict[str, Any]], *, answer_next: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next
        )

    def _encode(self, text: str) -> Ints:
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


@lru_cache(maxsize=4)
def load_chat(
    model_path: str, trust_remote_code: bool = False, image_pixels: tuple[int, int] | None = None
) -> Chat:
    """The Chat of a model folder or name; `image_pixels` as in `ModelConfig`."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    return Chat(tokenizer, load_images(model_path, config, image_pixels))
