"""changes.json: each time that steps were drawn again, because a resume had changed the config.

[{"after": 40, "drawn": 41, "changes": ["rollout.group_size: 4 -> 8"]}, ...]

Behind step `after` the run has another config than before it; up to step `drawn` the rollouts are
of the one before.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isentropic.durable import write_text_durably

CHANGES = "changes.json"


def last_change(folder: Path) -> int:
    """Returns behind which step the run has the config that it has; 0 if it had no other.

    Raises:
        ValueError: the file is damaged.
    """
    past = _read(folder)
    return past[-1]["after"] if past else 0


def add_change(folder: Path, *, after: int, drawn: int, changes: Sequence[str]) -> None:
    """Writes one more change."""
    rows = [*_read(folder), {"after": after, "drawn": drawn, "changes": list(changes)}]
    write_text_durably(folder / CHANGES, json.dumps(rows, indent=1) + "\n")


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / CHANGES
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if all(type(row["after"]) is int for row in rows):
            return rows
        reason = "a change has no step"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ValueError(
        f"{path} cannot be read ({reason}). It says behind which step a resume changed the config: "
        "restore it, or write [] into it if none did."
    )
