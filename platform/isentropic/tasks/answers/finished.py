r"""Whether an answer is worked out: 391 is, `17 \cdot 23` is the question over again.

A policy that is paid for any expression of the right value learns to box the one that it was asked.
So a gold that is a rational number accepts such a number in a finished form, and no other:

    5, -5, 1,000, 2.5, 1.5e3, 0.\overline{3}           a number
    \frac{3}{4}, 3/4, 1\frac{1}{2}, 1 1/2              a fraction, a mixed number
    3 \cdot 10^8, 2^{10}, 5!                           scientific notation, one power, one factorial
    2\sqrt{4}, \frac{\sqrt{2}}{2}, \frac{\pi}{6}       a root or a multiple of \pi

If the gold is a decimal, any closed form of an irrational number that rounds to it is finished too:
1 + \sqrt{2} for 2.414. A gold that is itself not worked out, such as `3 \cdot 2^{10}`, accepts
whatever equals it. Whatever the gold, the operations in `TO_BE_DONE` are refused if it has none of
the kind. Texts are in their normal form (`latex.normal`).
"""

import re

from isentropic.tasks.answers.numbers import read_number

PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"
SIGN = r"[+-]?\s*"
INTEGER = r"\d+"
NUMBER = rf"(?:{PLAIN})"
SIGNED = rf"(?:{SIGN}{NUMBER}|\(\s*{SIGN}{NUMBER}\s*\)|\{{\s*{SIGN}{NUMBER}\s*\}})"
SIMPLE_FRACTION = (
    rf"(?:\\frac\s*\{{\s*{SIGNED}\s*\}}\s*\{{\s*{SIGNED}\s*\}}|{NUMBER}\s*/\s*{NUMBER})"
)
BASE = rf"(?:{NUMBER}|\(\s*{SIGN}(?:{SIMPLE_FRACTION}|{NUMBER})\s*\)|\{{\s*{NUMBER}\s*\}})"
EXPONENT = rf"(?:[+-]?{INTEGER}|[{{(]\s*{SIGN}(?:{SIMPLE_FRACTION}|{NUMBER})\s*[)}}])"
POWER = rf"{BASE}\s*\^\s*{EXPONENT}"
ROOT = (
    rf"(?:{NUMBER}\s*(?:\\cdot\s*)?)?"
    rf"\\sqrt\s*(?:\[\s*\d+\s*\])?\s*\{{\s*(?:{SIMPLE_FRACTION}|{POWER}|{SIGN}{NUMBER})\s*\}}"
)
MULTIPLE_OF_PI = rf"(?:{NUMBER}\s*(?:\\cdot\s*)?)?\\pi"
PART = rf"{SIGN}(?:{POWER}|{ROOT}|{MULTIPLE_OF_PI}|{SIGNED})"
FORMS = (
    rf"{NUMBER}|\d*\.\d*\\(?:overline|bar|dot)\s*\{{?\d+\}}?",
    rf"\\frac\s*\{{\s*{PART}\s*\}}\s*\{{\s*{PART}\s*\}}|{PART}\s*/\s*(?:{PART}|\(\s*{PART}\s*\))",
    rf"{INTEGER}\s*\\frac\s*\{{\s*{INTEGER}\s*\}}\s*\{{\s*{INTEGER}\s*\}}|{INTEGER} {INTEGER}/{INTEGER}",
    rf"{SIGNED}\s*\\cdot\s*\(?10\s*\^\s*{EXPONENT}\)?|{POWER}|{INTEGER}\s*!",
    rf"{ROOT}|{MULTIPLE_OF_PI}|{SIMPLE_FRACTION}\s*(?:\\cdot\s*)?(?:{ROOT}|{MULTIPLE_OF_PI})",
)
FORM = "|".join(FORMS)
FINISHED = re.compile(
    rf"(?:[+-]\s*)*(?:{FORM}|\(\s*{SIGN}(?:{FORM})\s*\)|\{{\s*{SIGN}(?:{FORM})\s*\}})%?"
)

# What is still to be done, one line per kind of operation.
TO_BE_DONE = [
    re.compile(pattern)
    for pattern in (
        r"\\(?:sum|prod|coprod)(?![A-Za-z])",
        r"\\(?:i{0,3}|o)int(?![A-Za-z])",
        r"\\(?:lim|limsup|liminf)(?![A-Za-z])",
        r"\\det(?![A-Za-z])|\\begin\{[vV]matrix\}|\|\s*\\begin",
        r"\\[bp]?mod(?![A-Za-z])",
        r"\\[dt]?binom(?![A-Za-z])|\\choose(?![A-Za-z])|[_^]\{?\d+\}?\s*[CP]\s*_",
        r"\\frac\s*\{\s*(?:d|\\partial)(?![A-Za-z]{2})[^{}]*\}\s*\{\s*(?:d|\\partial)\s*[A-Za-z\\][^{}]*\}",
    )
]


def is_finished(text: str) -> bool:
    """Whether a text, without its unit, is a number that is worked out."""
    return FINISHED.fullmatch(text.strip()) is not None


def is_left_undone(gold: str, answer: str) -> bool:
    """Whether the answer leaves something to be computed that the gold has worked out."""
    if any(kind.search(answer) and not kind.search(gold) for kind in TO_BE_DONE):
        return True
    is_rational = is_finished(gold) and read_number(gold.removesuffix("%")) is not None
    return is_rational and not is_finished(answer)
