"""Samples to read, of the newest trained step: best, worst, flat groups, dropped, longest.

The ledger and the file of fates are read as the parquet they are, a few columns of each; nothing
here depends on who wrote them.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isentropic.methods.fates import FATES

KEY = ("split", "draw", "wave", "sample")
COLUMNS = (
    *KEY,
    "prompt",
    "response",
    "reward",
    "finish_reason",
    "turns",
    "origin",
)
UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError, TypeError)
SHOWN = 4  # samples of a kind
LONGEST_TEXT = 6000  # characters of a response that the page keeps


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Kind -> rows to show, the file they came from, and what could not be read."""

    kinds: dict[str, list[dict[str, Any]]]
    source: str
    notes: list[str]


def pick_samples(run: Path) -> Samples:
    """Picks from the newest step that was trained (drawn, if none was); passes over damaged files.

    Args:
        run: the run folder, with rollouts/ and trained/.
    """
    notes = []
    trained = run / "trained"
    # The ledger may be ahead of the training: a step without fates comes after all that have them.
    newest_first = sorted(
        (run / "rollouts").glob("step_*.parquet"),
        key=lambda path: ((trained / path.name).exists(), path.name),
        reverse=True,
    )
    for path in newest_first:
        try:
            rows = _rows(path)
        except UNREADABLE as error:
            notes.append(f"{path.name} cannot be read ({_in_short(error)}); another step is shown.")
            continue
        if rows:
            notes += _add_fates(rows, trained / path.name)
            return Samples(kinds=_pick(rows), source=path.name, notes=notes)
    return Samples(kinds={}, source="", notes=notes)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    for row in rows:
        row["tokens"] = sum(end - start for start, end in row.pop("turns"))
        row["prompt"] = json.loads(row["prompt"])
    return [row for row in rows if row["split"] == "train"]


def _add_fates(rows: Sequence[dict[str, Any]], path: Path) -> list[str]:
    """Gives every row its `fate`, "" if it is unknown; returns what could not be read.

    A file without the column is of an older version, which recorded only what was trained on.
    """
    fates: dict[tuple[Any, ...], str] = {}
    notes = []
    if path.exists():
        try:
            for row in pq.read_table(path).to_pylist():
                fates[tuple(row[name] for name in KEY)] = str(row.get("fate", "trained"))
        except UNREADABLE as error:
            notes.append(f"trained/{path.name} cannot be read ({_in_short(error)}): no fates.")
    for row in rows:
        row["fate"] = fates.get(tuple(row[name] for name in KEY), "")
    return notes


def _pick(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    graded = [row for row in rows if row["reward"] is not None and row["reward"] == row["reward"]]
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in graded:
        # A teacher who is right makes no group less flat.
        if row["wave"] == 0 and row["origin"] == "policy":
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
        "Dropped": _dropped(rows),
        "Longest": _distinct(sorted(rows, key=lambda row: -row["tokens"])),
    }
    return {kind: picked for kind, picked in kinds.items() if picked}


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows of different prompts."""
    first: dict[int, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["draw"], row)
    return list(first.values())[:SHOWN]


def _dropped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each reason why a rollout will never be trained on."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["fate"] not in ("", "trained", "queued"):
            first.setdefault(row["fate"], row)
    return list(first.values())


def samples_html(samples: Samples) -> str:
    """The cards of all kinds; everything that a model or a data set wrote is escaped."""
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
    reward = "not graded" if row["reward"] is None else format(row["reward"], ".3g")
    turns = "".join(f"<pre class='response'>{_cut(turn)}</pre>" for turn in row["response"] or [""])
    return (
        f"<article><header><b>reward {reward}</b> "
        f"<span>{html.escape(' · '.join(facts))}{_fate(row['fate'])}</span></header>"
        f"<pre>{_cut(messages)}</pre>{turns}"
        f"<footer>answer: <code>{_cut(str(row['prompt'].get('answer', '')))}</code></footer>"
        "</article>"
    )


def _fate(name: str) -> str:
    """The fate, with its meaning as a tooltip; a reason for dropping is spelled out."""
    if not name:
        return ""
    meaning = FATES.get(name, "")
    dropped = name not in ("trained", "queued")
    text = f"dropped: {name}. {meaning}" if dropped else name
    return f" · <span title='{html.escape(meaning, quote=True)}'>{html.escape(text)}</span>"


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]


def _cut(text: str) -> str:
    rest = len(text) - LONGEST_TEXT
    return html.escape(text[:LONGEST_TEXT]) + (f"\n... {rest} more characters" if rest > 0 else "")
