"""Chat text to tokens and back, through the tokenizer's own chat template."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import numpy as np

from isentropic.images import Images
from isentropic.records import FinishReason, Ints, Prompt, Rollout

PLACE = "<image>"  # in a prompt's text, where an image stands
MARK = "mark-of-a-turn"  # stands for a turn's text to see what the template writes around it


class Chat:
    """What the loop needs of a tokenizer: prompts in, turns out, and the text between turns.

    Args:
        tokenizer: of transformers, with a chat template.
        images: reads the images of prompts; None: the model reads text only.
        end_ids: tokens that end a turn, besides the tokenizer's own.
        today: the date that a template may write into a prompt; None: the day it is asked. A run
            gives the day of its first start, so that a resume reads the same tokens.
        vocab_size: tokens that the model has; None: not known.
    """

    def __init__(
        self,
        tokenizer: Any,
        images: Images | None = None,
        *,
        end_ids: Iterable[int] = (),
        today: date | None = None,
        vocab_size: int | None = None,
    ) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                "the model's tokenizer has no chat template, so prompts cannot be written in the "
                "form it was trained on. Use an instruction-tuned model, or add `chat_template` to "
                "its tokenizer_config.json."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the model's tokenizer has no eos_token, so no turn could end. Name it in the "
                "model's tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.images = images
        self.vocab_size = vocab_size
        self.eos_token_id: int = tokenizer.eos_token_id
        end_ids = {self.eos_token_id, *end_ids}
        self._end_tokens = tokenizer.convert_ids_to_tokens(sorted(end_ids))
        padding = [] if tokenizer.pad_token_id is None else [tokenizer.pad_token_id]
        self._unread = np.array([*end_ids, *padding])
        self._backend = _backend(tokenizer)
        self._today = today

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as the template writes it, ready for the model to answer."""
        return self._render(self._messages(prompt), answer_next=True)

    def prompt_ids(self, prompt: Prompt) -> Ints:
        """[T] tokens of the prompt's text; one for each token of an image."""
        tokens = self._encode(self.prompt_text(prompt))
        return self.images.expand(tokens, prompt.media, prompt.prompt_id) if self.images else tokens

    def reply_ids(self, prompt: Prompt, reply: str, finish_reason: FinishReason) -> Ints:
        """[T] tokens between two turns: the first one's end if the policy did not write it, the
        reply, the cue to answer.

        The text is what the template writes behind the first turn. What it writes in front of that
        turn may change once another message follows (reasoning models drop the turn's thinking), so
        nothing here is cut out by its length.

        Raises:
            ValueError: the template does not show the turn, or the reply.
        """
        mark = MARK
        while mark in reply or any(mark in message["content"] for message in prompt.messages):
            mark += "-"
        turn = {"role": "assistant", "content": mark}
        text = self._render(
            (*self._messages(prompt), turn, {"role": "user", "content": reply}), answer_next=True
        )
        _, shown, between = text.partition(mark)
        if not shown or reply.strip() not in between:
            raise ValueError(
                "the model's chat template does not write a conversation turn by turn: the "
                f"{'reply' if shown else 'policy'}'s text is missing from it, got {text[-200:]!r}. "
                "Use a task of one turn, or a model whose template shows every message."
            )
        if finish_reason == "stop":
            end = next((token for token in self._end_tokens if between.startswith(token)), "")
            between = between.removeprefix(end)
        return self._encode(between)

    def turn_texts(self, rollout: Rollout) -> list[str]:
        """The policy's turns, as `decode` writes them; those that were decoded before are kept."""
        if rollout.texts:
            return list(rollout.texts)
        return self.decode([rollout.token_ids[start:end] for start, end in rollout.turns])

    def decode(self, turns: Sequence[Ints]) -> list[str]:
        """Returns the texts without tokens that end or pad a turn.

        Other special tokens, such as tags around an answer, are part of what was said.
        """
        said = [turn[~np.isin(turn, self._unread)].tolist() for turn in turns]
        if self._backend is not None:
            return self._backend.decode_batch(said, skip_special_tokens=False)
        return self.tokenizer.batch_decode(said, skip_special_tokens=False)

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Puts images where the text says so, else in front of the user's first message."""
        if not prompt.media:
            return list(prompt.messages)
        if self.images is None:
            raise ValueError(
                f"prompt {prompt.prompt_id} carries an image ({prompt.media[0]}), but the model "
                "reads text alone. Choose one of Qwen2-VL or Qwen2.5-VL, or for the text without "
                "its "
                "images: task.image_column=null."
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
        outside = {} if self._today is None else {"strftime_now": self._today.strftime}
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer_next, **outside
            )
        except Exception as error:  # the template is a program: it raises what it likes
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the model's chat template refuses messages of the roles {roles}: "
                f"{type(error).__name__}: {error}. If it takes no system message: "
                "task.system_prompt=null, and write its text into task.suffix; else repair "
                "`chat_template` in the model's tokenizer_config.json or chat_template.jinja."
            ) from error

    def _encode(self, text: str) -> Ints:
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


def _backend(tokenizer: Any) -> Any | None:
    """The tokenizers library's own object, if it alone writes this tokenizer's texts.

    It takes half the time of transformers' `batch_decode`, and lets other threads run meanwhile.
    """
    # Here: reward workers, which have no tokenizer, import this file too.
    from transformers import PreTrainedTokenizerFast as plain

    own = ("batch_decode", "decode", "_decode")  # that a class may have of its own
    if (
        isinstance(tokenizer, plain)
        and not tokenizer.clean_up_tokenization_spaces
        and all(getattr(type(tokenizer), name) is getattr(plain, name) for name in own)
    ):
        return tokenizer.backend_tokenizer
    return None
