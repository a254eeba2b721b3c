"""Samples to read, from the newest ledger file: best, worst, longest, and groups without spread.

The ledger is read as the parquet it is, a few columns of it; nothing here depends on who wrote it.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = (
    "step",
    "split",
    "draw",
    "wave",
    "sample",
    "prompt",
    "response",
    "reward",
    "finish_reason",
    "turns",
    "origin",
)
SHOWN = 4  # samples of a kind
LONGEST_TEXT = 6000  # characters of a response that the page keeps


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Kind -> rows to show, the file they came from, and what could not be read."""

    kinds: dict[str, list[dict[str, Any]]]
    source: str
    notes: list[str]


def pick_samples(rollouts: Path) -> Samples:
    """From the newest file that can be read; a damaged one is named and passed over."""
    notes = []
    for path in sorted(rollouts.glob("step_*.parquet"), reverse=True):
        try:
            rows = _rows(path)
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            notes.append(
                f"{path.name} cannot be read ({' '.join(str(error).split())[:100]}); the one before it is shown."
            )
            continue
        if rows:
            return Samples(kinds=_pick(rows), source=path.name, notes=notes)
    return Samples(kinds={}, source="", notes=notes)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    for row in rows:
        row["tokens"] = sum(end - start for start, end in row.pop("turns"))
        row["prompt"] = json.loads(row["prompt"])
    return [row for row in rows if row["split"] == "train"]


def _pick(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    graded = [row for row in rows if row["reward"] is not None and row["reward"] == row["reward"]]
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in graded:
        if (
            row["wave"] == 0 and row["origin"] == "policy"
        ):  # a teacher who is right makes no group less flat
            groups.setdefault(row["draw"], []).append(row)
    flat = [
        group
        for group in groups.values()
        if len(group) > 1 and len({row["reward"] for row in group}) == 1
    ]
    flat.sort(key=lambda group: group[0]["reward"])
    kinds = {
        "Best": _distinct(sorted(graded, key=lambda row: -row["reward"])),
        "Worst": _distinct(sorted(graded, key=lambda row: row["reward"])),
        "Flat groups": [
            row
            for group in flat[: SHOWN // 2] + flat[SHOWN // 2 :][-SHOWN // 2 :]
            for row in group[:2]
        ],
        "Longest": _distinct(sorted(rows, key=lambda row: -row["tokens"])),
    }
    return {kind: picked for kind, picked in kinds.items() if picked}


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows of different prompts."""
    first: dict[int, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["draw"], row)
    return list(first.values())[:SHOWN]


def samples_html(samples: Samples) -> str:
    """Everything a model or a data set wrote is escaped."""
    parts = [f"<p class='note'>From {html.escape(samples.source)}.</p>"] if samples.source else []
    parts += [f"<p class='warn'>{html.escape(note)}</p>" for note in samples.notes]
    for kind, rows in samples.kinds.items():
        cards = "".join(_card(row) for row in rows)
        parts.append(f"<h3>{kind}</h3><div class='samples'>{cards}</div>")
    return "".join(parts)


def _card(row: dict[str, Any]) -> str:
    messages = "\n".join(
        str(message.get("content", "")) for message in row["prompt"].get("messages", [])
    )
    facts = [
        f"draw {row['draw']}, sample {row['sample']}",
        f"{row['tokens']} tokens",
        str(row["finish_reason"]),
    ]
    facts += [f"wave {row['wave']}"] if row["wave"] else []
    facts += [str(row["origin"])] if row["origin"] != "policy" else []
    reward = row["reward"]
    turns = "".join(f"<pre class='response'>{_cut(turn)}</pre>" for turn in row["response"] or [""])
    return (
        f"<article><header><b>reward {'not graded' if reward is None else format(reward, '.3g')}</b> "
        f"<span>{html.escape(' · '.join(facts))}</span></header>"
        f"<pre>{_cut(messages)}</pre>{turns}"
        f"<footer>answer: <code>{_cut(str(row['prompt'].get('answer', '')))}</code></footer></article>"
    )


def _cut(text: str) -> str:
    rest = len(text) - LONGEST_TEXT
    return html.escape(text[:LONGEST_TEXT]) + (f"\n... {rest} more characters" if rest > 0 else "")
