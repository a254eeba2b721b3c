"""Shows rollouts of a recorded step as text: python jobs/show.py run=<name> step=17 draw=1024

Without draw= it lists the step's draws, with their rewards and what became of them. It reads the run
folder only, also of a run that is going on.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.controller.storage.ledger import FOLDERS, ledger_path, recorded_steps
from isentropic.experiments.program import program
from isentropic.experiments.settings.options import Option, Options, choice, count, flag, step, text
from isentropic.metrics.report.find import find_run
from isentropic.metrics.report.samples.tokens import Turn, pieces

KEY = ("split", "draw", "wave", "sample")
Row = dict[str, Any]

OPTIONS = Options(
    "show",
    __doc__,
    (
        Option(
            "run", "<folder or name>", "a run folder, or a name under runs/", text, required=True
        ),
        Option("step", "<number>", "the step (default: the last one recorded)", step),
        Option(
            "draw",
            "<number>",
            "all samples of one draw, a prompt in the data order",
            lambda name, value: count(name, value, at_least=0),
        ),
        Option(
            "sample",
            "<number>",
            "of these only one",
            lambda name, value: count(name, value, at_least=0),
        ),
        Option("tokens", "true|false", "true: each token with its surprise, -log p in nats", flag),
        Option(
            "split",
            "train|eval|start",
            "eval: held-out prompts; start: the answers behind eval/entropy (default: train)",
            choice(*FOLDERS),
        ),
    ),
    words="run",
)


def show(options: dict[str, Any], overrides: list[str]) -> None:
    """Print the step's draws, or the samples of one of them."""
    try:
        for line in lines(options):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # `show ... | head` has seen enough; Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lines(options: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed: of every field of the ledger, a stranger's perhaps, only text."""
    return map(_printable, _lines(options))


def _lines(options: dict[str, Any]) -> Iterator[str]:
    run = find_run(options["run"])
    path = step_file(run / FOLDERS[options.get("split", "train")], options.get("step"))
    rows = read(path)
    with_fates(rows, run / "trained" / path.name)
    yield heading(path, rows)
    if "draw" not in options and (given := options.keys() & {"sample", "tokens"}):
        raise ValueError(f"{min(given)}= is of one draw: name it with draw=.")
    if "draw" not in options:
        yield from map(summary, groups(rows))
        one = f"draw={rows[0]['draw']}"
        yield f"the samples of one draw: {one}; token by token: {one} tokens=true"
        return
    decode = None
    if options.get("tokens"):
        from isentropic.experiments.run.recorded import decoder  # transformers: seconds

        decode = decoder(run)
    yield from samples(chosen(rows, options), decode, tokens=bool(options.get("tokens")))


def step_file(folder: Path, number: int | None) -> Path:
    """Return the file of the step, or of the last one.

    Raises:
        ValueError: the folder has none.
    """
    steps = recorded_steps(folder)
    if not steps:
        raise ValueError(f"{folder} holds no step: nothing was drawn yet, or it is no run's.")
    if number is not None and number not in steps:
        some = ", ".join(map(str, steps)) if len(steps) <= 8 else f"{steps[0]} to {steps[-1]}"
        raise ValueError(f"{folder} has no step {number}. It has {some}.")
    return ledger_path(folder, steps[-1] if number is None else number)


def read(path: Path) -> list[Row]:
    """Return one row per rollout. Raises ValueError if the file is no ledger."""
    try:
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["prompt"] = json.loads(row["prompt"])
            row["key"] = tuple(row[name] for name in KEY)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as a ledger file ({error}).") from error
    return sorted(rows, key=lambda row: row["key"])


def with_fates(rows: Sequence[Row], path: Path) -> None:
    """Add what became of the rollouts, as far as `path` says it: an evaluation trains nothing."""
    if not path.is_file():
        return
    fates = {tuple(fate[name] for name in KEY): fate for fate in pq.read_table(path).to_pylist()}
    for row in rows:
        row["fate"] = fates.get(row["key"], {})


def heading(path: Path, rows: Sequence[Row]) -> str:
    """Say which step it is, and the sums over it."""
    return f"{path}: {len(rows)} rollouts{_rewards(rows)}{_fates(rows)}"


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rollouts of each draw."""
    by_draw: dict[int, list[Row]] = {}
    for row in rows:
        by_draw.setdefault(row["draw"], []).append(row)
    return list(by_draw.values())


def summary(group: Sequence[Row]) -> str:
    """Return one line about a draw."""
    prompt = group[0]["prompt"]
    question = " ".join(str(prompt["messages"][-1]["content"]).split())
    head = f"draw {group[0]['draw']:<6} {len(group):>3} samples{_rewards(group)}{_fates(group)}"
    return f"{head}  {question[:60]}"


def chosen(rows: Sequence[Row], options: dict[str, Any]) -> list[Row]:
    """Return the rows that are asked for. Raises ValueError if there are none."""
    draws = sorted({row["draw"] for row in rows})
    found = [row for row in rows if row["draw"] == options["draw"]]
    if not found:
        raise ValueError(
            f"the step has no draw {options['draw']}; it has {draws[0]} to {draws[-1]}. Leave out "
            "draw= for a list."
        )
    numbers = sorted({row["sample"] for row in found})
    if (sample := options.get("sample")) is not None and sample not in numbers:
        raise ValueError(
            f"draw {options['draw']} has no sample {sample}; it has {numbers[0]} to {numbers[-1]}."
        )
    return [row for row in found if sample in (None, row["sample"])]


def samples(
    rows: Sequence[Row], decode: Callable[[Sequence[int]], str] | None, *, tokens: bool
) -> Iterator[str]:
    """Yield the prompt, then each sample: what is known of it, its text, its tokens if asked."""
    prompt = rows[0]["prompt"]
    for message in prompt["messages"]:
        yield f"{message['role']}: {message['content']}"
    yield f"answer: {prompt['answer']}"
    for row in rows:
        yield ""
        yield facts(row)
        if not tokens:
            yield from row["response"]
            continue
        for turn in turns(row):
            yield from token_lines(turn, decode)


def facts(row: Row) -> str:
    """Return one line about a rollout: reward, fate, advantage, length, how it ended."""
    length = sum(end - start for start, end in row["turns"])
    parts = [f"sample {row['sample']}", f"reward {_number(row['reward'])}"]
    fate = row.get("fate") or {}
    if fate.get("fate"):
        parts.append(str(fate["fate"]))
    if fate.get("advantage") is not None:
        parts.append(f"advantage {fate['advantage']:+.3f}")
    parts += [f"{length} tokens", str(row["finish_reason"]), f"temperature {row['temperature']:g}"]
    parts += [f"wave {row['wave']}"] if row["wave"] else []
    parts += [row["origin"]] if row["origin"] != "policy" else []
    return "  ".join(parts)


def turns(row: Row) -> list[Turn]:
    """Return the tokens of each turn, with their surprise."""
    found, at = [], 0
    for start, end in row["turns"]:
        logprobs = row["rollout_logprob"][at : at + end - start]
        found.append(Turn(ids=row["token_ids"][start:end], values=[-value for value in logprobs]))
        at += end - start
    return found


def token_lines(turn: Turn, decode: Callable[[Sequence[int]], str] | None) -> Iterator[str]:
    """Yield a line per token: its text, or its id if this machine lacks the tokenizer."""
    texts = (
        ((str(token), value) for token, value in zip(turn.ids, turn.values, strict=True))
        if decode is None
        else pieces(decode, turn)
    )
    for part, value in texts:
        yield f"{'' if value is None else format(value, '9.4f'):>9}  {part!r}"


def _rewards(rows: Sequence[Row]) -> str:
    known = [row["reward"] for row in rows if row["reward"] == row["reward"]]
    return f", reward {sum(known) / len(known):.3f}" if known else ""


def _fates(rows: Sequence[Row]) -> str:
    counts = Counter(row["fate"]["fate"] for row in rows if (row.get("fate") or {}).get("fate"))
    return "".join(f", {count} {name}" for name, count in counts.most_common())


def _number(value: float) -> str:
    return "unknown" if value != value else f"{value:g}"


def _printable(written: str) -> str:
    """Make a text safe to print: it may hold codes that move a terminal's cursor."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in written)


main = program(show, OPTIONS)
