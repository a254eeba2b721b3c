"""Numbers in parts that are never computed: 5 R 2, a quotient; 3-5, 2024-01-05, 555-1234 as golds."""

import re

from isentropic.tasks.answers.latex import TO, without_text

REMAINDER = re.compile(
    r"([+-]?\d[\d,]*)(?:\s*R\s*|\s+r\s+|\s*,?\s*(?:with |and )?(?:a )?(?:remainder|rem\.?)(?: of| is)?"
    r"\s*[:=]?\s*)(\d[\d,]*)"
)

# A gold of numbers between hyphens is a range, a score, a date or a telephone number: nobody keeps
# a subtraction as the answer of a problem.
END = r"(?:\\\$|[€£¥₹])?\s*\d+(?:[.,]\d+)*\s*[%°]?"
HYPHENED = re.compile(rf"{END}(?:\s*-\s*{END})+")
BETWEEN = re.compile(rf"(?<=[\d%°])\s*[{TO}:-]\s*")  # `3 to 5` is 3:5 in the normal form


def read_remainder(text: str) -> tuple[str, str] | None:
    """(quotient, remainder) of a division; None for anything else."""
    match = REMAINDER.fullmatch(without_text(text))
    return (match[1], match[2]) if match else None


def read_hyphened(gold: str) -> list[str] | None:
    """The parts of a gold of hyphened numbers, in order; None for anything else."""
    return re.split(r"\s*-\s*", gold) if HYPHENED.fullmatch(gold) else None


def split_hyphened(answer: str) -> list[str]:
    """The parts of an answer to such a gold, whatever stands between them."""
    return BETWEEN.split(answer)
