"""The data of a run as model and reward see them: first prompts, golds, what answers are paid."""

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial

from isentropic.records import Prompt, is_right
from isentropic.tasks.base import FORMS, Task
from isentropic.tasks.chat import Chat
from isentropic.tasks.grading.outcome import Outcome, parts_of, reason_of
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers
from isentropic.tasks.own.trial import NO_MORE, is_more

PROMPTS = 2  # shown, the first one whole
TEXT, IDS, ANSWER = 600, 24, 80  # characters and ids shown; of longer ones both ends
INDENT = " " * 11


Grade = Callable[[Prompt, list[str]], list[Outcome]]


def data_lines(
    name: str, task: Task, chat: Chat, rewards: RewardsConfig, *, bad_rows: int, too_long: int
) -> list[str]:
    """Sizes of the data, then the first prompts with golds and rewards.

    Args:
        task: the prompts that fit.
        rewards: of the workers that check the answers, as a run's do.
        bad_rows, too_long: how many were left out of it.
    """
    counts = {"bad rows left out": bad_rows, "prompts too long, left out": too_long}
    sizes = [f"{task.size('train')} train, {task.size('eval')} held out"]
    sizes += [f"{what}: {count}" for what, count in counts.items() if count]
    lines = [f"data       {name}: {'; '.join(sizes)}"]
    prompts = [task.prompt("train", index) for index in range(min(PROMPTS, task.size("train")))]
    for number, prompt in enumerate(prompts, start=1):
        lines += _prompt_lines(number, prompt, chat)
    return [*lines, *_reward_lines(prompts, partial(_graded, task, chat, rewards))]


def _prompt_lines(number: int, prompt: Prompt, chat: Chat) -> list[str]:
    ids = chat.prompt_ids(prompt)
    text = chat.tokenizer.decode(ids)
    shown = ids.tolist()
    if len(shown) > IDS:
        shown = [*shown[: IDS // 2], "...", *shown[-IDS // 2 :]]
    return [
        f"prompt {number}   {prompt.prompt_id}, {len(ids)} tokens, "
        f"gold {_quoted(prompt.answer, ANSWER)}",
        INDENT + _quoted(text, len(text) if number == 1 else TEXT),
        INDENT + " ".join(map(str, shown)),
    ]


def _reward_lines(prompts: list[Prompt], grade: Grade) -> list[str]:
    """What the first prompt's gold, another answer and none would be paid."""
    prompt = prompts[0]
    if not prompt.answer:
        return _lines_without_gold(
            prompt, grade
        )  # only the reward, or the game, knows what is right
    others = [other.answer for other in prompts if other.answer != prompt.answer]
    wrong = others[0] if others else f"not {prompt.answer}"
    responses = [form.format(answer) for answer in (prompt.answer, wrong) for form in FORMS]
    paid = dict(zip([*responses, ""], grade(prompt, [*responses, ""]), strict=True))
    # Of the forms that are paid best the first is shown.
    numbers = {
        form: value
        for form in FORMS
        if isinstance(value := paid[form.format(prompt.answer)], float)
    }
    best = max(numbers, key=lambda form: numbers[form], default=FORMS[0])
    answers = {"right": best.format(prompt.answer), "wrong": best.format(wrong), "empty": ""}
    rewards = {name: paid[text] for name, text in answers.items()}
    lines = _paid_lines(answers, rewards)
    if not is_more(rewards["right"], rewards["wrong"], rewards["empty"]):
        lines.append(f"{INDENT}{NO_MORE}")
    elif isinstance(rewards["right"], float) and not is_right(rewards["right"], prompt):
        lines.append(
            f"{INDENT}A RIGHT ANSWER DOES NOT COUNT AS RIGHT in eval/* and group/*: that takes "
            f"{prompt.reward_right:g} (task.reward_right)."
        )
    return lines


def _lines_without_gold(prompt: Prompt, grade: Grade) -> list[str]:
    """What some answer and none would be paid."""
    answers = {"some": "The answer is 1.", "empty": ""}
    paid = grade(prompt, list(answers.values()))
    return _paid_lines(answers, dict(zip(answers, paid, strict=True)))


def _paid_lines(answers: Mapping[str, str], rewards: Mapping[str, Outcome]) -> list[str]:
    lines = [
        f"{INDENT}{name} answer {_quoted(text, ANSWER)}: {_said(rewards[name])}"
        for name, text in answers.items()
    ]
    return [f"{'rewards':<11}{lines[0].strip()}", *lines[1:]]


def _said(outcome: Outcome) -> str:
    """A reward with its parts, or what went wrong."""
    parts = ", ".join(f"{name} {value:g}" for name, value in parts_of(outcome).items())
    if parts:
        return f"{float(outcome):g} ({parts})"
    reason = reason_of(outcome)
    return f"{outcome}, {reason}" if reason else str(outcome)


def _graded(
    task: Task, chat: Chat, config: RewardsConfig, prompt: Prompt, responses: list[str]
) -> list[Outcome]:
    """Rewards of the responses, made where a run makes them; what went wrong instead of one.

    Golds come from other people's files: a check that a run keeps behind the wall must not get out
    of it here.
    """
    if not task.isolated:
        return [_reward(task, prompt, response) for response in responses]
    workers = RewardWorkers(task, chat, config)
    try:
        return asyncio.run(workers.check([(prompt, (response,)) for response in responses]))
    finally:
        workers.close()


def _reward(task: Task, prompt: Prompt, response: str) -> Outcome:
    try:
        return float(task.grade(prompt, [response]))
    except Exception as error:  # of the task's own code: shown, as the run would count it
        return f"raises {type(error).__name__}: {str(error)[:ANSWER]}"


def _quoted(text: str, limit: int) -> str:
    """On one line, with its special characters visible, both ends of what is too long."""
    if len(text) > limit:
        text = f"{text[: limit * 3 // 4]} [...] {text[-limit // 4 :]}"
    return json.dumps(text, ensure_ascii=False)
