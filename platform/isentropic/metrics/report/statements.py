"""What a sweep or branch found about the statements it was made to test: held, not held, or undecided.

`statements.json` in the folder, a list of objects with `id`, `statement`, `verdict`, `number` and optionally `rule`.
Whoever ran the comparison writes it; the report shows it, and judges nothing.
"""

import html
import json
from pathlib import Path

from isentropic.metrics.report.tables import table

STATEMENTS = "statements.json"
COLUMNS = ("id", "statement", "verdict", "number", "rule")


def statements_table(folder: Path) -> str:
    """Nothing where there is no such file."""
    path = folder / STATEMENTS
    if not path.is_file():
        return ""
    try:
        rows = [
            [row.get(column) for column in COLUMNS]
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, AttributeError, TypeError) as error:
        return f"<p class='warn'>{html.escape(f'{STATEMENTS} cannot be read: {error}')}</p>"
    return table(COLUMNS, rows) if rows else ""
