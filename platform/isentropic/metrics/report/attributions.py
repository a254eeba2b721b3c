"""What `jobs/attribute.py` found about a run: a table for each attribution/<name>/summary.json."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isentropic.metrics.report.blocks import Block, Note, Warnings, table
from isentropic.metrics.report.reading import is_number, read_json, words

SUMMARY = "summary.json"
CLASSES = 12  # of one way to sort the tokens; by=prompt has as many as there are prompts
HEAD = (
    "tokens by",
    "class",
    "by their gradient in each update",
    "with the momentum that is theirs",
)
# The rest of the change, and in which view of it: (of each update, with the owners of momentum).
REST = (
    ("measured", "ledger/measured", (True, True)),
    ("momentum", "ledger/momentum", (True, False)),
    ("momentum from before", "ledger/exact/before", (False, True)),
    ("weight decay", "ledger/decay", (True, True)),
    ("residual", "ledger/residual", (True, True)),
)


def attributions(run: Path) -> Iterator[tuple[str, list[Block]]]:
    """Yields title and blocks of each attribution in a run folder, by name.

    One that cannot be read, or has no sums because its command has not ended, is said to be so.
    """
    for path in sorted(run.glob(f"attribution/*/{SUMMARY}")):
        title = f"Attribution {path.parent.name}"
        try:
            summary = read_json(path)
        except ValueError as error:
            yield title, [Warnings(notes=[str(error)])]
            continue
        sums = summary.get("sum") if isinstance(summary, dict) else None
        if not isinstance(sums, dict):
            note = f"{SUMMARY} has no sums: jobs/attribute.py has not ended. Run it again."
            yield title, [Warnings(notes=[note])]
            continue
        sums = {key: value for key, value in sums.items() if is_number(value)}
        yield title, [_table(sums), Note(text=_note(summary.get("settings")))]


def _table(sums: Mapping[str, float]) -> Block:
    exact = any(key.startswith("ledger/exact/") for key in sums)
    rows: list[list[Any]] = []
    for way, classes in _ways(sums).items():
        largest = sorted(classes, key=lambda name: -abs(classes[name]))[:CLASSES]
        for name in (each for each in classes if each in largest):
            owned = sums.get(f"ledger/exact/{way}/{name}")
            rows.append([way, name, _nats(classes[name]), _nats(owned)])
        if others := [value for name, value in classes.items() if name not in largest]:
            rows.append([way, f"{len(others)} smaller ones", _nats(sum(others)), ""])
    for label, key, views in REST:
        rows.append(["", label, *(_nats(sums.get(key)) if view else "" for view in views)])
    columns = len(HEAD) if exact else len(HEAD) - 1
    return table(HEAD[:columns], [row[:columns] for row in rows if any(row[2:columns])])


def _ways(sums: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns {way: {class: nats}} of the keys ledger/by/<way>/<class>."""
    ways: dict[str, dict[str, float]] = {}
    for key, value in sums.items():
        if key.startswith("ledger/by/") and key.count("/") == 3:
            _, _, way, name = key.split("/")
            ways.setdefault(way, {})[name] = value
    return ways


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:+.6f}"


def _note(settings: Any) -> str:
    """Says the unit, and over what was summed."""
    settings = settings if isinstance(settings, dict) else {}
    return (
        f"Nats per token, summed over steps {words(settings.get('steps', 'unknown'))}; entropy over "
        f"a share of {words(settings.get('contexts', 'unknown'))} of the first wave's rollouts. In "
        "each column 'measured' is the sum of the classes of one way and of the lines below it, but "
        "for rounding. Each step's own books are in steps.jsonl."
    )
