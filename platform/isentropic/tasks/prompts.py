"""The check that every prompt fits the window, before anything starts."""

from collections.abc import Mapping, Sequence

from isentropic.checks import check_choice
from isentropic.records import Prompt
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat

SHOWN = 10  # long prompts that an error lists


def fitting(
    task: Task, chat: Chat, *, splits: Sequence[str], max_tokens: int, on_long_prompt: str
) -> tuple[Task, dict[str, int]]:
    """The task without prompts of more than `max_tokens` tokens, and how many each split lost.

    `on_long_prompt`: 'refuse' raises ValueError with the first of them, 'drop' leaves them out.
    """
    check_choice("task.on_long_prompt", on_long_prompt, ("refuse", "drop"))
    _refuse_images(task, chat)
    kept, dropped = {}, {}
    for split in splits:
        lengths = [
            len(chat.prompt_ids(task.prompt(split, index))) for index in range(task.size(split))
        ]
        long = [index for index, length in enumerate(lengths) if length > max_tokens]
        if long and on_long_prompt == "refuse":
            shown = ", ".join(
                f"{task.prompt(split, index).prompt_id} ({lengths[index]})"
                for index in long[:SHOWN]
            )
            raise ValueError(
                f"{len(long)} of {len(lengths)} {split} prompts have more than rollout.max_prompt_tokens={max_tokens} "
                f"tokens: {shown}{', ...' if len(long) > SHOWN else ''}. Raise rollout.max_prompt_tokens (and "
                "model.max_length), or leave them out with task.on_long_prompt=drop."
            )
        kept[split] = [index for index, length in enumerate(lengths) if length <= max_tokens]
        dropped[split] = len(long)
        if not kept[split]:
            raise ValueError(
                f"no {split} prompt has at most rollout.max_prompt_tokens={max_tokens} tokens."
            )
    return (Kept(task, kept) if any(dropped.values()) else task), dropped


def _refuse_images(task: Task, chat: Chat) -> None:
    """Said once, before every prompt is written out."""
    prompt = task.prompt("train", 0)
    if prompt.media and getattr(chat, "images", None) is None:
        raise ValueError(
            f"prompt {prompt.prompt_id} carries an image ({prompt.media[0]}), and the model reads text alone: a policy "
            "would be trained on problems that it cannot see. Choose a Qwen2-VL or Qwen2.5-VL model (model.path), or "
            "for the text without its images: task.image_column=null."
        )


class Kept:
    """A task, restricted to some of its prompts. Grades as the task does."""

    def __init__(self, task: Task, indices: Mapping[str, Sequence[int]]) -> None:
        self._task, self._indices = task, indices
        self.isolated, self.max_turns = task.isolated, task.max_turns
        self.preload = getattr(task, "preload", ())

    def size(self, split: str) -> int:
        return len(self._indices[split])

    def prompt(self, split: str, index: int) -> Prompt:
        return self._task.prompt(split, self._indices[split][index])

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        return self._task.grade(prompt, turns)

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return self._task.reply(prompt, turns)
