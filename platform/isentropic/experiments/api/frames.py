"""Data frames of what a run folder records: lines, rollouts, tokens."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.checks import check_choice, nearest
from isentropic.controller.storage.ledger import FOLDERS, ledger_path, recorded_steps
from isentropic.experiments.api.arguments import is_whole
from isentropic.experiments.run.recorded import LEDGER, decoder
from isentropic.metrics.report.samples.tokens import Turn, pieces

KEY = ["split", "draw", "wave", "sample"]
ROLLOUT = [
    "finish_reason", "origin", "temperature", "policy_version", "source_step", "seed", "prompt_id",
]  # fmt: skip
FATE = ["fate", "shaped_reward", "advantage", "old_logprob", "old_entropy"]
# Of a token that is trained on in several updates, the contributions are added up.
TOKEN = ["old_logprob", "old_entropy", "sensitivity", "advantage"]


def by_step(lines: Sequence[Mapping[str, Any]], *more: str) -> pd.DataFrame:
    """Make a frame of lines, indexed by step (and more)."""
    index = ["step", *more]
    frame = pd.DataFrame.from_records(list(lines))
    return frame.set_index(index) if len(frame) else pd.DataFrame(index=pd.Index([], name="step"))


def rollout_frame(run: Path, step: int, split: str) -> pd.DataFrame:
    """Make the frame of `Run.rollouts`."""
    check_choice("split", split, tuple(FOLDERS))
    table = read_step(run / FOLDERS[split], step, "recorded")
    prompts = [json.loads(text) for text in table.pop("prompt")]
    frame = table[KEY].copy()
    frame["prompt"] = [_question(prompt) for prompt in prompts]
    frame["answer"] = [prompt["answer"] for prompt in prompts]
    frame["response"] = ["\n".join(turns) for turns in table["response"]]
    frame["reward"] = table["reward"]
    frame["tokens"] = [len(logprobs) for logprobs in table["rollout_logprob"]]
    frame[ROLLOUT] = table[ROLLOUT]
    trained = run / "trained"
    if split == "train" and step in recorded_steps(
        trained
    ):  # the ledger may be ahead of the training
        fates = read_step(trained, step, "trained")
        frame = frame.merge(fates[[*KEY, *(c for c in FATE if c in fates)]], on=KEY, how="left")
    return frame


def token_frame(
    run: Path, step: int, *, draw: int | None = None, attribution: str | None = None
) -> pd.DataFrame:
    """Make the frame of `Run.tokens`."""
    books = _books(run, step, attribution)
    table = read_step(run / LEDGER, step, "recorded")
    if draw is not None:
        _check_whole("a draw", draw)
        draws = sorted(set(table["draw"]))
        table = table[table["draw"] == draw]
        if table.empty:
            raise ValueError(f"step {step} of {run} has no draw {draw}. It has {_listed(draws)}.")
    decode = decoder(run)
    rows = [row for rollout in table.to_dict("records") for row in _tokens(rollout, decode)]
    frame = pd.DataFrame.from_records(
        rows,
        columns=[*KEY, "turn", "position", "token_id", "text", "logprob"],
    )
    if books is None:
        return frame
    place = [*KEY, "position"]
    known = {column: "first" for column in TOKEN if column in books} | {"contribution": "sum"}
    return frame.merge(books.groupby(place, as_index=False).agg(known), on=place, how="left")


def read_step(folder: Path, step: int, what: str) -> pd.DataFrame:
    """Read a step's file. Raises ValueError if there is none, or if it cannot be read."""
    has = recorded_steps(folder)
    _check_whole("a step", step)
    step = int(step)  # a data frame may have made a float of it
    if step not in has:
        raise ValueError(
            f"{folder.parent} has no {what} step {step}. {folder.name}/ has {_listed(has)}."
        )
    path = ledger_path(folder, step)
    try:
        return pd.DataFrame(pq.read_table(path).to_pydict())
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read ({' '.join(str(error).split())[:100]}). Files appear whole or "
            "not at all, so it was damaged later: restore it."
        ) from error


def _check_whole(what: str, value: Any) -> None:
    if not is_whole(value):
        raise ValueError(f"{what} is a whole number, got {value!r}.")


def _books(run: Path, step: int, name: str | None) -> pd.DataFrame | None:
    """Read the attribution of a step; None if the run itself did not measure it."""
    folder = run / "attribution"
    if name is None:
        return read_step(folder, step, "measured") if step in recorded_steps(folder) else None
    names = sorted(path.name for path in folder.glob("*/") if path.is_dir())
    if name not in names:
        raise ValueError(
            f"{run} has no attribution {name!r}.{nearest(str(name), names)} It has "
            f"{', '.join(names) or 'none'}; jobs/attribute.py run={run} steps={step} makes one."
        )
    return read_step(folder / name, step, "measured")


def _question(prompt: Mapping[str, Any]) -> str:
    return "\n".join(str(message.get("content", "")) for message in prompt["messages"])


def _tokens(
    rollout: Mapping[str, Any], decode: Callable[[Sequence[int]], str] | None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one rollout's response tokens."""
    key = tuple(rollout[name] for name in KEY)
    logprobs = iter(rollout["rollout_logprob"])
    position = 0
    for turn, (start, end) in enumerate(rollout["turns"]):
        ids = rollout["token_ids"][start:end]
        texts = [None] * len(ids) if decode is None else _texts(decode, ids)
        for token, text in zip(ids, texts, strict=True):
            yield (*key, turn, position, token, text, next(logprobs))
            position += 1


def _texts(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[str]:
    """Return the text of each token; of tokens that only together make a character, the first's."""
    texts: list[str] = []
    # A piece's value is the sum of its tokens' values: their number.
    for text, count in pieces(decode, Turn(ids=ids, values=[1] * len(ids))):
        texts += [text, *[""] * (int(count or 1) - 1)]
    return texts


def _listed(numbers: Sequence[int]) -> str:
    """Return a few numbers in words."""
    if len(numbers) > 8:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers)) or "none"
