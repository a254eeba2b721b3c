"""Chat text to tokens and back, through the tokenizer's own chat template."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from isentropic.records import FinishReason, Ints, Prompt, Rollout

MARK = "mark-of-a-turn"  # stands for a turn's text where the template around it is wanted


class Chat:
    """What the loop needs of a tokenizer: prompts in, turns out, and the text between turns."""

    def __init__(self, tokenizer) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                "the model's tokenizer has no chat template, so prompts cannot be written in the form it was trained "
                "on. Use an instruction-tuned model, or add `chat_template` to its tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.eos_token_id: int = tokenizer.eos_token_id

    def prompt_ids(self, prompt: Prompt) -> Ints:
        """[T] tokens of the prompt, ready for the model to answer."""
        return self._encode(self._render(prompt.messages, answer_next=True))

    def reply_ids(self, prompt: Prompt, reply: str, finish_reason: FinishReason) -> Ints:
        """[T] tokens between two turns: the first one's end where the policy did not write it, the reply, the cue."""
        before = self._render((*prompt.messages, {"role": "assistant", "content": MARK}), answer_next=False)
        after = self._render(
            (*prompt.messages, {"role": "assistant", "content": MARK}, {"role": "user", "content": reply}),
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
        return self.tokenizer.batch_decode([turn.tolist() for turn in turns], skip_special_tokens=True)

    def _render(self, messages: Sequence[dict[str, str]], *, answer_next: bool) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)

    def _encode(self, text: str) -> Ints:
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


@lru_cache(maxsize=4)
def load_chat(model_path: str, trust_remote_code: bool = False) -> Chat:
    """The Chat of a model folder or name."""
    from transformers import AutoTokenizer

    return Chat(AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code))
