"""Checks every generator of reasoning-gym and writes what was found: the table that the task refuses by, and its page.

python tests/tasks/generators.py        writes reasoning_gym_generators.json and docs/reasoning_gym.md (minutes)
"""

import asyncio
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parents[2]
sys.path.insert(0, str(ROOT / "platform"))

from isentropic.records import Rollout, RolloutKey  # noqa: E402
from isentropic.tasks import reasoning_gym  # noqa: E402
from isentropic.tasks.grading.rewards import RewardsConfig, RewardWorkers  # noqa: E402

TABLE = ROOT / "platform" / "isentropic" / "tasks" / "reasoning_gym_generators.json"
PAGE = ROOT / "docs" / "reasoning_gym.md"
TRAIN, EVAL = 16384, 512  # the task's own sizes
INDICES = (0, TRAIN - 1, *range(7, 7000, 7))  # as many of them as are made in time
GRADED = 9  # of these, in a worker; at least so many are made
CREATE_S = 60  # seconds of one core for a data set of the task's size, at most
ITEMS_S = 2.5  # after that no further item is made
ERROR = -1.0
MALFORMED = (
    "(",
    "[[1, 2], 3]",
    "{}",
    "[]",
    "1/0",
    "2, 3 and 5",
    "a\nb",
    "λ",
    "None",
    "-1",
    "x" * 5000,
)
WORDS = ("", "xyzzy", "I do not know the answer to this question.")  # near to no right answer
PAID_WORDS = 0.5  # what a word may not be paid

# What no sample of this size shows. These are not tried.
KNOWN = {
    "codeio": "it runs programs whose results change, and some of them write files",
    "composite": "it mixes other generators: choose one of them",
    "maze": "it gives up on some items (RuntimeError: could not find a suitable cell)",
}


def unchecked(generator):
    """The task without the refusals that this script finds out."""
    task = object.__new__(reasoning_gym.ReasoningGymTask)
    task.__setstate__({"config": make_config(generator)})
    task._dataset = reasoning_gym._create(task.config, TRAIN + EVAL)
    return task


class LetterChat:
    """A token is the code of a character."""

    def turn_texts(self, rollout):
        return ["".join(map(chr, rollout.token_ids[start:end])) for start, end in rollout.turns]


def make_config(generator):
    """The task's config, past the table that it is checked against."""
    values = {"name": "reasoning_gym", "generator": generator, "params": {}, "seed": 0}
    values |= {"train_size": TRAIN, "eval_size": EVAL, "system_prompt": None, "suffix": ""}
    values |= {"answer_pattern": None, "allow_nonsense": True, "on_long_prompt": "refuse"}
    config = object.__new__(reasoning_gym.ReasoningGymConfig)
    for name, value in values.items():
        object.__setattr__(config, name, value)
    return config


def slow(signal_number, frame):
    raise TimeoutError


class Tomorrow(datetime.date):
    """A generator that looks at the calendar makes other items on another day."""

    @classmethod
    def today(cls):
        return super().today() + datetime.timedelta(days=401)


def make_items(generator):
    """Digests of the items, what is wrong with them, and the seconds of one core that they take."""
    signal.signal(signal.SIGPROF, slow)
    signal.setitimer(signal.ITIMER_PROF, CREATE_S + 20 * ITEMS_S)
    row = {"wrong": "", "digests": {}, "create_s": 0.0, "item_s": 0.0}
    try:
        started = time.process_time()
        task = unchecked(generator)
        made = time.process_time()
        prompts = {}
        for index in INDICES:
            prompts[index] = prompt = task.prompt("train", index)
            content = repr((prompt.messages, prompt.answer, prompt.metadata))
            row["digests"][str(index)] = hashlib.sha256(content.encode()).hexdigest()
            if time.process_time() - made > ITEMS_S and len(prompts) >= GRADED:
                break
        row |= {"create_s": made - started, "item_s": (time.process_time() - made) / len(prompts)}
        row["wrong"] = wrong_with(task, prompts)
    except TimeoutError:
        row["wrong"] = f"its data set takes more than {CREATE_S} s to make"
    except ValueError as error:
        row["wrong"] = f"some items cannot be made ({error.__cause__!r})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return row


def wrong_with(task, prompts):
    """Why one process alone refuses the items; '' if it does not."""
    if any(prompt.answer == "None" for prompt in prompts.values()):
        return "it does not say what a right answer is"
    again = (task._make_prompt("train", index) == prompts[index] for index in reversed(prompts))
    if not all(again):
        return "it makes another item when the same one is asked for again"
    unpaid = [prompt for prompt in prompts.values() if task.grade(prompt, [prompt.answer]) != 1]
    if unpaid:
        text = f"{len(unpaid)} of {len(prompts)} of its own right answers are not paid in full"
        return f"{text}, {unpaid[0].answer[:40]!r} for one"
    return ""


def items_in_a_process(names, hash_seed):
    """`make_items` of each generator in another process: hash seed 2 has another day and order too."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, "--items", str(hash_seed), *names],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def print_items(hash_seed, names):
    if hash_seed == 2:
        datetime.date = Tomorrow
        names = names[::-1]
    import reasoning_gym  # noqa: F401  # its own seconds are no generator's

    print("\n" + json.dumps({name: make_items(name) for name in names}))


def rollout(prompt, answer):
    return Rollout(
        key=RolloutKey("train", 0, 0, 0),
        prompt=prompt,
        token_ids=np.array([0, *map(ord, answer)]),
        turns=((1, 1 + len(answer)),),
        rollout_logprob=np.zeros(len(answer), np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
    )


def grade(task, pairs):
    """Rewards in a worker; ERROR for a check that raised, hung or died."""
    config = RewardsConfig(
        workers=2,
        timeout_s=20.0,
        deadline_s=600.0,
        memory_gib=4.0,
        batch_size=1,
        reward_on_error=ERROR,
        max_errors_in_a_row=None,
    )
    workers = RewardWorkers(task, LetterChat(), config)
    try:
        return asyncio.run(workers.grade([rollout(prompt, answer) for prompt, answer in pairs]))
    finally:
        workers.close()


def scores(generator):
    """What right answers, nonsense and malformed answers are paid in a worker."""
    task = unchecked(generator)
    prompts = [task.prompt("train", index) for index in INDICES[:GRADED]]
    texts = (*dict.fromkeys((*reasoning_gym.NONSENSE, *WORDS, *MALFORMED)),)
    pairs = [(prompt, prompt.answer) for prompt in prompts]
    pairs += [(prompt, text) for text in texts for prompt in prompts]
    rewards = grade(task, pairs)
    paid = {}
    for (prompt, text), reward in zip(pairs[len(prompts) :], rewards[len(prompts) :], strict=True):
        bound = PAID_WORDS if text in WORDS else 1.0
        counts = text in (*reasoning_gym.NONSENSE, *WORDS)
        if counts and reward >= bound and not reasoning_gym._same(text, prompt.answer):
            paid[text] = max(reward, paid.get(text, 0.0))
    return {"right": rewards[: len(prompts)], "paid": paid, "errors": rewards.count(ERROR)}


def check(names):
    """A row of the table for each generator."""
    tried = [name for name in names if name not in KNOWN]
    with ThreadPoolExecutor(2) as pool:
        two = [pool.submit(items_in_a_process, tried, hash_seed) for hash_seed in (1, 2)]
        first, second = (future.result() for future in two)
    rows = {}
    for name in names:
        if name in KNOWN:
            rows[name] = {"refused": KNOWN[name], "nonsense": "", "create_s": 0.0, "item_s": 0.0}
            continue
        refused, paid = difference(first[name], second[name]), {}
        if not refused:
            graded = scores(name)
            paid = graded["paid"]
            if set(graded["right"]) != {1.0}:
                refused = "its right answers are not paid in full in a reward worker"
        text = next(iter(paid), None)
        rows[name] = {
            "refused": refused,
            "nonsense": f"pays {paid[text]:g} for {text!r}" if paid and not refused else "",
            "create_s": round(first[name]["create_s"], 1),
            "item_s": round(max(first[name]["item_s"], second[name]["item_s"]), 3),
        }
        print(name, rows[name], file=sys.stderr, flush=True)
    return rows


def difference(first, second):
    """What is wrong with the items of two processes, or different; '' if nothing is."""
    if first["wrong"] or second["wrong"]:
        return first["wrong"] or second["wrong"]
    both = first["digests"].keys() & second["digests"].keys()
    if any(first["digests"][index] != second["digests"][index] for index in both):
        return "its items depend on PYTHONHASHSEED or on the day: another process makes others"
    return ""


def page(rows):
    """The table, for people."""
    refused = [f"| {name} | {row['refused']} |" for name, row in rows.items() if row["refused"]]
    paying = [f"| {name} | {row['nonsense']} |" for name, row in rows.items() if row["nonsense"]]
    accepted = [
        f"| {name} | {row['item_s']:.3f} | {row['create_s']:.1f} | {evaluates(name)} |"
        for name, row in rows.items()
        if not row["refused"] and not row["nonsense"]
    ]
    return PAGE_TEXT.format(
        version=version("reasoning-gym"),
        count=len(rows),
        num_accepted=len(accepted),
        indices=len(INDICES),
        graded=GRADED,
        refused="\n".join(refused),
        paying="\n".join(paying),
        accepted="\n".join(accepted),
    )


def evaluates(name):
    grammar = reasoning_gym.EVALUATE_ANSWERS.get(name)
    return grammar.__name__.replace("_", " ") if grammar else ""


PAGE_TEXT = """# Generators of reasoning-gym

`task=reasoning_gym task.generator=<name>` trains on the generators that are accepted below. This page and
`platform/isentropic/tasks/reasoning_gym_generators.json`, by which the task refuses, are written by
`python tests/tasks/generators.py` for reasoning-gym {version}; another version is refused, since its items and scores
may differ. Of {count} generators {num_accepted} are accepted as they are.

For each generator up to {indices} items (slow ones: fewer) were made, and made again in the opposite order, in two
processes with different hash seeds and dates, and their right answers graded; of {graded} items the right answer,
nonsense and malformed answers were graded in a reward worker. What is graded travels with the prompt
(`Prompt.metadata`, also in the ledger): no item is made again where it is graded. A check that raises on what a model
wrote counts as a wrong answer and in `reward/errors`.

## Refused

| generator | why |
|---|---|
{refused}

## Accepted only with task.allow_nonsense=true

Some answers that cannot be right are paid in full: a policy can learn to write them.

| generator | what it does |
|---|---|
{paying}

## Accepted

`per item` is the time that one prompt takes to make, `data set` what comes once before the first (of {train_size} items
and {eval_size} held out), both in seconds on one core. Where a grammar is named, the generator's score evaluates the
answer: only answers of that grammar reach it (`tasks/grading/plain.py`), others are wrong.

| generator | per item | data set | grammar |
|---|---|---|---|
{accepted}
""".replace("{train_size}", str(TRAIN)).replace("{eval_size}", str(EVAL))


def all_generators():
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--items"]:
        print_items(int(sys.argv[2]), sys.argv[3:])
    else:
        names = sys.argv[1:] or all_generators()
        known = json.loads(TABLE.read_text(encoding="utf-8"))["generators"]
        rows = dict(sorted({**known, **check(names)}.items()))
        table = {"version": version("reasoning-gym"), "generators": rows}
        TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page(rows), encoding="utf-8")
