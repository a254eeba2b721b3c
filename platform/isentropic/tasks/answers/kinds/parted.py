"""Numbers in parts that are never computed: 5 R 2, a quotient and its remainder."""

import re

from isentropic.tasks.answers.latex import without_text

REMAINDER = re.compile(
    r"([+-]?\d[\d,]*)(?:\s*R\s*|\s+r\s+|\s*,?\s*(?:with |and )?(?:a )?(?:remainder|rem\.?)(?: of| is)?"
    r"\s*[:=]?\s*)(\d[\d,]*)"
)


def read_remainder(text: str) -> tuple[str, str] | None:
    """(quotient, remainder) of a division; None for anything else."""
    match = REMAINDER.fullmatch(without_text(text))
    return (match[1], match[2]) if match else None
