"""The checks of prompts, before anything starts: what the model reads, and that all of it fits.

Making every prompt once can take from milliseconds to hours, which the task decides; what takes
longer than a few seconds is announced.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isentropic.checks import check_choice
from isentropic.records import Ints, Prompt
from isentropic.tasks.base import Task, reward_of
from isentropic.tasks.chat import PLACE, Chat
from isentropic.tasks.progress import announced, say_on_stderr

SHOWN = 10  # long prompts that an error lists
EXAMPLE = "That is not the answer."  # a reply of an environment, to try the template on


def fitting(
    task: Task,
    chat: Chat,
    *,
    splits: Sequence[str],
    max_tokens: int,
    on_long_prompt: str,
    say: Callable[[str], None] = say_on_stderr,
    seen: Callable[[str, Prompt], None] = lambda split, prompt: None,
) -> tuple[Task, dict[str, int]]:
    """The task without prompts of more than `max_tokens` tokens, and how many each split lost.

    `seen` gets each split and prompt, in order, the long ones too.

    Raises:
        ValueError: `on_long_prompt` is 'refuse' and a prompt is longer ('drop' leaves it out); or
            the model would not read the prompts as they are meant, as `check_reading`.
    """
    check_choice("task.on_long_prompt", on_long_prompt, ("refuse", "drop"))
    kept, dropped = {}, {}
    for split in splits:
        check_reading(task, chat, task.prompt(split, 0))
        kept[split], long = [], []
        for index in announced(range(task.size(split)), f"checking {split} prompts", say):
            prompt = task.prompt(split, index)
            ids = chat.prompt_ids(prompt)
            seen(split, prompt)
            _check_ids(chat, prompt, ids)
            if len(ids) <= max_tokens:
                kept[split].append(index)
            else:
                long.append(f"{prompt.prompt_id} ({len(ids)})")
        shown = f"{', '.join(long[:SHOWN])}{', ...' if len(long) > SHOWN else ''}"
        if long and on_long_prompt == "refuse":
            raise ValueError(
                f"{len(long)} of {task.size(split)} {split} prompts have more than "
                f"rollout.max_prompt_tokens={max_tokens} tokens: {shown}. Raise "
                "rollout.max_prompt_tokens (and model.max_length), or leave them out with "
                "task.on_long_prompt=drop."
            )
        dropped[split] = len(long)
        if not kept[split]:
            raise ValueError(
                f"no {split} prompt has at most rollout.max_prompt_tokens={max_tokens} tokens: "
                f"{shown or 'there are none'}. Raise rollout.max_prompt_tokens (and "
                "model.max_length), or give other problems."
            )
    return (Kept(task, kept) if any(dropped.values()) else task), dropped


def check_reading(task: Task, chat: Chat, prompt: Prompt) -> None:
    """Raises ValueError if the model would not read `prompt`: an image, or a text, that is lost.

    A template that swallows the problem, or writes nothing, trains a policy on problems that it
    cannot see.
    """
    if prompt.media and chat.images is None:
        raise ValueError(
            f"prompt {prompt.prompt_id} carries an image ({prompt.media[0]}), and the model reads "
            "text alone: a policy would be trained on problems that it cannot see. Choose a "
            "Qwen2-VL "
            "or Qwen2.5-VL model (model.path), or for the text without its images: "
            "task.image_column=null."
        )
    text = " ".join(chat.prompt_text(prompt).split())
    for message in prompt.messages:
        for part in message["content"].split(PLACE) if prompt.media else [message["content"]]:
            if " ".join(part.split()) not in text:
                raise ValueError(
                    f"the model's chat template loses the {message['role']} message of prompt "
                    f"{prompt.prompt_id}: it writes {text[:200]!r}, without {part[:80]!r}. Repair "
                    "`chat_template` in the model's tokenizer_config.json or chat_template.jinja"
                    + (", or set task.system_prompt=null." if message["role"] == "system" else ".")
                )
    if task.max_turns > 1:
        chat.reply_ids(prompt, EXAMPLE, "stop")


def _check_ids(chat: Chat, prompt: Prompt, ids: Ints) -> None:
    if len(ids) == 0:
        raise ValueError(
            f"the model's chat template writes nothing for prompt {prompt.prompt_id}. Repair "
            "`chat_template` in the model's tokenizer_config.json or chat_template.jinja."
        )
    highest = int(ids.max())
    if chat.vocab_size is not None and highest >= chat.vocab_size:
        raise ValueError(
            f"prompt {prompt.prompt_id} has the token {highest} "
            f"({chat.tokenizer.convert_ids_to_tokens(highest)!r}), but the model has only the "
            f"tokens "
            f"0 to {chat.vocab_size - 1}: tokenizer and model do not belong together. Save the "
            "tokenizer that the model was trained with into its folder."
        )


class Kept:
    """A task, restricted to some of its prompts. Grades as the task does."""

    def __init__(self, task: Task, indices: Mapping[str, Sequence[int]]) -> None:
        self._task = task
        self._indices = indices
        self.isolated = task.isolated
        self.max_turns = task.max_turns
        self.preload = getattr(task, "preload", ())
        self.place = getattr(task, "place", "")
        self.runs_code = getattr(task, "runs_code", False)

    def __getattr__(self, name: str) -> Any:
        # Only what a task may have or lack; a copy asks for `_task` before it is there.
        if name not in ("grade_together", "enter_worker", "enter_server", "evaluator"):
            raise AttributeError(name)
        return getattr(self._task, name)

    def size(self, split: str) -> int:
        return len(self._indices[split])

    def prompt(self, split: str, index: int) -> Prompt:
        return self._task.prompt(split, self._indices[split][index])

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        return self._task.grade(prompt, turns)

    def grade_truncated(self, prompt: Prompt, turns: Sequence[str]) -> float:
        return reward_of(self._task, prompt, turns, truncated=True)

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return self._task.reply(prompt, turns)
