"""What a sweep or branch found about the statements it was made to test: held, not, or undecided.

`statements.json` in the folder is a list of objects with `id`, `statement`, `verdict`, `number` and
optionally `rule`. Whoever ran the comparison writes it; the report shows it, and judges nothing.
"""

from pathlib import Path

from isentropic.metrics.report.blocks import Block, Warnings, table
from isentropic.metrics.report.reading import read_json

STATEMENTS = "statements.json"
COLUMNS = ("id", "statement", "verdict", "number", "rule")


def statements_table(folder: Path) -> Block | None:
    """Returns the table of statements, a warning if the file is damaged, None if there is none."""
    try:
        statements = read_json(folder / STATEMENTS)
    except ValueError as error:
        return Warnings(notes=[str(error)])
    if statements is None or statements == []:
        return None
    if not isinstance(statements, list) or not all(isinstance(row, dict) for row in statements):
        return Warnings(notes=[f"{STATEMENTS} cannot be read: it is not a list of objects."])
    return table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in statements])
