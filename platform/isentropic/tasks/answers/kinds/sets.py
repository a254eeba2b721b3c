r"""Sets of real numbers in one spelling: intervals and their unions.

\{x \mid x > 2\}, \{x \in \mathbb{R} : x > 2\}      x > 2
]2, 5]                                              (2, 5]
\mathbb{R}, all real numbers                        (-\infty, \infty)
x \geq 0 \text{ and } x \leq 5                      0 \leq x \leq 5
x \neq 0, \mathbb{R} \setminus \{0\}                (-\infty, 0) \cup (0, \infty)
"""

import re
from fractions import Fraction
from itertools import pairwise

from isentropic.tasks.answers.latex import squeezed
from isentropic.tasks.answers.numbers import read_number
from isentropic.tasks.answers.structure import (
    NAME,
    RELATION,
    read_interval,
    read_pieces,
    split_top,
)
from isentropic.tasks.answers.symbolic import value_of

REALS = re.compile(
    r"\\mathbb\{?R\}?|\\R|(?:the set of )?(?:all )?(?:the )?real(?:s| numbers?| values?)"
    r"|all real (?:values|numbers)?(?: of)? ?[a-z]|all reals"
)
BUILDER = re.compile(
    rf"\\\{{\s*({NAME.pattern})\s*(?:\\in(?![A-Za-z])\s*(.*?))?"
    r"\s*(?:\\mid|\\vert|\||:)\s*(.*\S)\s*\\\}"
)
EXCEPT = re.compile(
    r"(?P<all>.*?)\s*(?:\\setminus|\\backslash|-|except(?: for)?)"
    r"\s*(?:\\\{(?P<set>[^{}]*)\\\}|(?P<one>[^{}]+))"
)
PIECE = r"([\[\](])\s*([^\[\]()]*)([\[\])])"
ONE_PIECE = re.compile(PIECE)
TURNED = re.compile(rf"{PIECE}(?:\s*\\cup\s*{PIECE})*")
BOTH = re.compile(
    r",|\\land(?![A-Za-z])|\\wedge|\\text\{\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])"
)


def as_intervals(text: str) -> tuple[str | None, str]:
    """(name of the variable, the set in its one spelling); the text itself if it is no such set.

    The name is None if the text has none or if it is bound, as in a set builder.
    """
    if TURNED.fullmatch(text):
        return None, ONE_PIECE.sub(_turned_outward, text)
    pieces = split_top(text, r"\cup")
    if (
        len(pieces) == 1
        and r"\infty" in text
        and all(map(ONE_PIECE.fullmatch, split_top(text, ",")))
    ):
        pieces = split_top(text, ",")  # (-\infty, 1), (2, \infty)
    if len(pieces) > 1:
        return None, r" \cup ".join(as_intervals(piece)[1] for piece in pieces)
    if match := BUILDER.fullmatch(text):
        return None, _built(*match.groups())
    return _of_condition(text)


def _of_condition(text: str) -> tuple[str | None, str]:
    """(name, set) of what may also stand behind the bar of a set builder."""
    if REALS.fullmatch(_plain(text)):
        return None, r"(-\infty, \infty)"
    for read in (_without_points, _between):
        if found := read(text):
            return found
    return None, text


def _built(name: str, domain: str | None, condition: str) -> str:
    if domain and not REALS.fullmatch(_plain(domain)):
        return rf"\{{{name} \in {domain} \mid {condition}\}}"
    pieces = [read_interval(piece) for piece in read_pieces(condition)]
    if all(piece and squeezed(piece[0]) == squeezed(name) for piece in pieces):
        groups = [piece[1] for piece in pieces]
        return r" \cup ".join(f"{g.brackets[0]}{', '.join(g.items)}{g.brackets[1]}" for g in groups)
    return _of_condition(condition)[1]


def _turned_outward(match: re.Match) -> str:
    """`]2, 5[` -> `(2, 5)`."""
    opening = "(" if match[1] == "]" else match[1]
    closing = ")" if match[3] == "[" else match[3]
    return f"{opening}{match[2]}{closing}"


def _without_points(text: str) -> tuple[str | None, str] | None:
    r"""`x \neq 0, 1` or `\mathbb{R} \setminus \{0, 1\}` as a union of open intervals."""
    name, points = None, None
    if match := EXCEPT.fullmatch(_plain(text)):
        if not REALS.fullmatch(_plain(match["all"])):
            return None
        points = split_top(match["set"] or match["one"], ",")
    elif r"\neq" in text:
        sides = [split_top(part, r"\neq") for part in BOTH.split(text)]
        names = {squeezed(side[0]) for side in sides if len(side) == 2}
        if len(sides[0]) != 2 or len(names) != 1 or not NAME.fullmatch(sides[0][0]):
            return None
        name, points = names.pop(), [side[-1] for side in sides if side]
    if not points:
        return None
    values = [_value(point) for point in points]
    if None in values and len(values) > 1:
        return None
    if len(points) > 1:
        points = [point for _, point in sorted(zip(values, points, strict=True))]
    ends = [r"-\infty", *points, r"\infty"]
    return name, r" \cup ".join(f"({a}, {b})" for a, b in pairwise(ends))


def _between(text: str) -> tuple[str | None, str] | None:
    r"""`x \geq 0 \text{ and } x \leq 5` as `[0, 5]`, if there is something between the two."""
    parts = [part.strip() for part in BOTH.split(text)]
    if len(parts) != 2 or not all(RELATION.search(part) for part in parts):
        return None
    bounds = [read_interval(part) for part in parts]
    if None in bounds or squeezed(bounds[0][0]) != squeezed(bounds[1][0]):
        return None
    groups = [group for _, group in bounds]
    lower = [group for group in groups if group.items[1] == r"\infty"]
    upper = [group for group in groups if group.items[0] == r"-\infty"]
    if len(lower) != 1 or len(upper) != 1:
        return None
    ends = lower[0].items[0], upper[0].items[1]
    low, high = map(_value, ends)
    if low is None or high is None or low >= high:
        return None
    interval = f"{lower[0].brackets[0]}{', '.join(ends)}{upper[0].brackets[1]}"
    return squeezed(bounds[0][0]), interval


def _value(text: str) -> Fraction | None:
    number = read_number(text)
    if number:
        return number.value
    value = value_of(text)
    return None if value is None else Fraction(str(value))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split()).removesuffix(".")
