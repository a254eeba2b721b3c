"""Samples to read: the first evaluation beside the last, and of the newest trained step the best, the
worst, flat groups, dropped and longest ones. No answer is shown twice.

The ledger and the file of fates are read as the parquet they are, a few columns of each; nothing
here depends on who wrote them.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.methods.fates import FATES
from isentropic.metrics.report.blocks import Block
from isentropic.metrics.report.samples.tokens import (
    Decode,
    Key,
    Legend,
    Token,
    Turn,
    by_contribution,
    by_surprise,
)

KEY = {"split": pa.string(), "draw": pa.int64(), "wave": pa.int64(), "sample": pa.int64()}
COLUMNS = KEY | {
    "prompt": pa.string(),
    "response": pa.list_(pa.string()),
    "reward": pa.float64(),
    "finish_reason": pa.string(),
    "turns": pa.list_(pa.list_(pa.int64())),
    "origin": pa.string(),
}
TOKENS = {"token_ids": pa.list_(pa.int64()), "rollout_logprob": pa.list_(pa.float64())}
# What pyarrow and the conversions below raise on a file of other columns, types or values.
UNREADABLE = (
    OSError, pa.ArrowException, LookupError, ValueError, TypeError, ArithmeticError, RecursionError,
)  # fmt: skip
SHOWN = 4  # samples of a kind
BESIDE = 3  # pairs of a first and a last sample
LONGEST_TEXT = 6000  # characters of a response that the page keeps


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One rollout as its card shows it."""

    key: tuple[str, int, int, int]  # split, draw, wave, sample
    messages: str
    answer: str
    responses: Sequence[str]  # one per turn
    reward: float | None
    tokens: int
    finish_reason: str
    origin: str
    when: str = ""  # the step, where samples of several are shown
    fate: str = ""  # "" if it is unknown
    tokens_by_turn: Sequence[Sequence[Token]] = ()  # coloured; () if they are not known

    @property
    def said(self) -> tuple[str, ...]:
        """What makes an answer the same as another: the prompt and the response."""
        return (self.messages, *self.responses)

    @property
    def draw(self) -> int:
        return self.key[1]

    @property
    def wave(self) -> int:
        return self.key[2]

    @property
    def sample(self) -> int:
        return self.key[3]

    @property
    def facts(self) -> str:
        facts = [self.when] if self.when else []
        facts += [f"draw {self.draw}, sample {self.sample}", f"{self.tokens} tokens"]
        facts.append(self.finish_reason)
        if self.wave:
            facts.append(f"wave {self.wave}")
        if self.origin != "policy":
            facts.append(self.origin)
        return " · ".join(facts)

    @property
    def reward_text(self) -> str:
        return "not graded" if self.reward is None else format(self.reward, ".3g")

    @property
    def is_dropped(self) -> bool:
        """Tells whether it is known that it will never be trained on."""
        return self.fate not in ("", "trained", "queued")

    @property
    def fate_meaning(self) -> str:
        return FATES.get(self.fate, "")

    @property
    def fate_text(self) -> str:
        """Returns the fate; a reason for dropping is spelled out."""
        return f"dropped: {self.fate}. {self.fate_meaning}" if self.is_dropped else self.fate


@dataclass(frozen=True, kw_only=True)
class Samples(Block):
    """Samples to show by kind, the file they came from, and what could not be read."""

    template = "samples.html"
    kinds: dict[str, list[Sample]]
    source: str
    notes: list[str]
    legend: Legend | None = None  # of the tokens' colours


def pick_samples(run: Path, decode: Decode | None = None) -> Samples:
    """Picks from the newest step that was trained (drawn, if none was); passes over damaged files.

    Args:
        run: the run folder, with rollouts/ and trained/, and evaluations/ and attribution/ if it
            has them.
        decode: the run's tokenizer; None: tokens have no colours.
    """
    picked = _newest(run)
    first_and_last = _beside(run)
    picked = replace(picked, kinds=first_and_last | picked.kinds)
    if decode is None or not picked.source:
        return picked
    try:
        return _coloured(picked, run, decode)
    except UNREADABLE as error:
        note = f"{picked.source}: tokens cannot be read ({_in_short(error)}); none is coloured."
        return replace(picked, notes=[*picked.notes, note])


def _newest(run: Path) -> Samples:
    notes = []
    trained = run / "trained"
    # The ledger may be ahead of the training: a step without fates comes after all that have them.
    newest_first = sorted(
        (run / "rollouts").glob("step_*.parquet"),
        key=lambda path: (os.path.exists(trained / path.name), path.name),
        reverse=True,
    )
    for path in newest_first:
        try:
            samples = _read_samples(path)
        except UNREADABLE as error:
            notes.append(f"{path.name} cannot be read ({_in_short(error)}); another step is shown.")
            continue
        if samples:
            samples, unreadable = _with_fates(samples, trained / path.name)
            return Samples(kinds=_pick(samples), source=path.name, notes=notes + unreadable)
    return Samples(kinds={}, source="", notes=notes)


def _read_samples(path: Path) -> list[Sample]:
    rows = _read_columns(path, COLUMNS)
    return [_sample(row) for row in rows if row["split"] == "train"]


def _read_columns(path: Path, columns: dict[str, pa.DataType]) -> list[dict[str, Any]]:
    """Reads columns, casts them to the types that are counted on here, and checks the key."""
    if not path.is_file():
        raise ValueError("it is not a file")  # a pipe would be waited for
    table = pq.read_table(path, columns=list(columns)).select(list(columns))
    for name in KEY:
        if table[name].null_count:
            raise ValueError(f"a row has no {name}")
    return table.cast(pa.schema(columns)).to_pylist()


def _sample(row: dict[str, Any]) -> Sample:
    """Raises one of `UNREADABLE` for a row that cannot be shown."""
    prompt = json.loads(row["prompt"])
    messages = prompt.get("messages", []) if isinstance(prompt, dict) else None
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise ValueError("a prompt is not an object with a list of messages")
    return Sample(
        key=tuple(row[name] for name in KEY),
        messages=_cut("\n".join(str(message.get("content", "")) for message in messages)),
        answer=_cut(str(prompt.get("answer", ""))),
        responses=[_cut(turn or "") for turn in row["response"] or [""]],
        reward=row["reward"],
        tokens=sum(end - start for start, end in row["turns"]),
        finish_reason=str(row["finish_reason"]),
        origin=str(row["origin"]),
    )


def _with_fates(samples: Sequence[Sample], path: Path) -> tuple[list[Sample], list[str]]:
    """Returns the samples with what became of them, and what could not be read.

    A file without the column is of an older version, which recorded only what was trained on.
    """
    if not os.path.exists(path):
        return list(samples), []
    try:
        has_fates = "fate" in pq.read_schema(path).names
        rows = _read_columns(path, KEY | ({"fate": pa.string()} if has_fates else {}))
    except UNREADABLE as error:
        return list(samples), [
            f"trained/{path.name} cannot be read ({_in_short(error)}): no fates."
        ]
    fates = {tuple(row[name] for name in KEY): row.get("fate", "trained") for row in rows}
    return [replace(sample, fate=fates.get(sample.key) or "") for sample in samples], []


def _beside(run: Path) -> dict[str, list[Sample]]:
    """Returns answers of the first evaluation, each with one to the same prompt of the last.

    Prompts whose answer changed from wrong to right, or back, come first.
    """
    files = sorted((run / "evaluations").glob("step_*.parquet"))
    if len(files) < 2:
        return {}
    try:
        first, last = ({s.draw: s for s in _evaluated(path)} for path in (files[0], files[-1]))
    except UNREADABLE:
        return {}
    pairs = [
        (first[draw], last[draw])
        for draw in sorted(first.keys() & last.keys())
        if first[draw].said != last[draw].said
    ]
    pairs.sort(key=lambda pair: -abs((pair[1].reward or 0) - (pair[0].reward or 0)))
    shown = [sample for pair in pairs[:BESIDE] for sample in pair]
    return {"First evaluation beside the last": shown} if shown else {}


def _evaluated(path: Path) -> list[Sample]:
    """Returns the first sample of each held-out prompt."""
    step = path.stem.removeprefix("step_").lstrip("0") or "0"
    rows = [row for row in _read_columns(path, COLUMNS) if row["sample"] == 0]
    return [replace(_sample(row), when=f"after step {step}") for row in rows]


def _pick(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    graded = [
        sample for sample in samples if sample.reward is not None and sample.reward == sample.reward
    ]
    makers = {
        "Best": lambda: _distinct(_new(sorted(graded, key=lambda sample: -sample.reward), shown)),
        "Worst": lambda: _distinct(_new(sorted(graded, key=lambda sample: sample.reward), shown)),
        "Flat groups": lambda: _flat(graded, shown),
        "Dropped": lambda: _dropped(_new(samples, shown)),
        "Longest": lambda: _distinct(
            _new(sorted(samples, key=lambda sample: -sample.tokens), shown)
        ),
    }
    shown: set[tuple[str, ...]] = set()
    kinds: dict[str, list[Sample]] = {}
    for kind, make in makers.items():
        if picked := make():
            kinds[kind] = picked
            shown |= {sample.said for sample in picked}
    return kinds


def _new(samples: Sequence[Sample], shown: set[tuple[str, ...]]) -> list[Sample]:
    """Returns the samples whose answers are not shown yet, each answer once."""
    first: dict[tuple[str, ...], Sample] = {}
    for sample in samples:
        if sample.said not in shown:
            first.setdefault(sample.said, sample)
    return list(first.values())


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the first samples of different prompts."""
    first: dict[int, Sample] = {}
    for sample in samples:
        first.setdefault(sample.draw, sample)
    return list(first.values())[:SHOWN]


def _flat(graded: Sequence[Sample], shown: set[tuple[str, ...]]) -> list[Sample]:
    """Returns two samples of each of a few groups whose rewards are all equal: low ones, high ones.

    Only the policy's own first wave counts: a teacher who is right makes no group less flat.
    """
    groups: dict[int, list[Sample]] = {}
    for sample in graded:
        if sample.wave == 0 and sample.origin == "policy":
            groups.setdefault(sample.draw, []).append(sample)
    flat = [
        group
        for group in groups.values()
        if len(group) > 1 and len({sample.reward for sample in group}) == 1
    ]
    flat.sort(key=lambda group: group[0].reward)
    few = flat[: SHOWN // 2] + flat[SHOWN // 2 :][-SHOWN // 2 :]
    return [sample for group in few for sample in _new(group, shown)[:2]]


def _dropped(samples: Sequence[Sample]) -> list[Sample]:
    """Returns one sample for each reason why a rollout will never be trained on."""
    first: dict[str, Sample] = {}
    for sample in samples:
        if sample.is_dropped:
            first.setdefault(sample.fate, sample)
    return list(first.values())


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]


def _cut(text: str) -> str:
    rest = len(text) - LONGEST_TEXT
    return text[:LONGEST_TEXT] + (f"\n... {rest} more characters" if rest > 0 else "")


def _coloured(picked: Samples, run: Path, decode: Decode) -> Samples:
    """Gives the tokens of the newest step's samples their colours."""
    samples = {s.key: s for kind in picked.kinds.values() for s in kind if not s.when}
    values = _contributions(run / "attribution" / picked.source, samples.keys())
    turns = _turns(run / "rollouts" / picked.source, samples.keys(), values)
    tokens, legend = (by_contribution if values else by_surprise)(turns, decode)
    kinds = {
        kind: [s if s.when else replace(s, tokens_by_turn=tokens.get(s.key, ())) for s in of_kind]
        for kind, of_kind in picked.kinds.items()
    }
    return replace(picked, kinds=kinds, legend=legend)


def _contributions(path: Path, keys: Collection[Key]) -> dict[Key, dict[int, float]]:
    """Returns {sample: {position: nats}}, over all updates of the step; {} if it has no books."""
    if not os.path.exists(path):
        return {}
    columns = KEY | {"position": pa.int64(), "contribution": pa.float64()}
    sums: dict[Key, dict[int, float]] = {}
    for row in _read_columns(path, columns):
        key = tuple(row[name] for name in KEY)
        if key in keys:
            own = sums.setdefault(key, {})
            own[row["position"]] = own.get(row["position"], 0.0) + row["contribution"]
    return sums


def _turns(
    path: Path, keys: Collection[Key], contributions: dict[Key, dict[int, float]]
) -> dict[Key, list[Turn]]:
    """Returns the tokens of each turn with their contributions, else with their surprise."""
    columns = KEY | {name: COLUMNS[name] for name in ("turns",)} | TOKENS
    turns: dict[Key, list[Turn]] = {}
    for row in _read_columns(path, columns):
        key = tuple(row[name] for name in KEY)
        if key not in keys:
            continue
        own = contributions.get(key, {})
        values: Sequence[float | None] = [-logprob for logprob in row["rollout_logprob"]]
        if contributions:
            values = [own.get(position) for position in range(len(values))]
        turns[key], at = [], 0
        for start, end in row["turns"]:
            part = values[at : at + end - start]
            turns[key].append(Turn(ids=row["token_ids"][start:end], values=part))
            at += end - start
    return turns
