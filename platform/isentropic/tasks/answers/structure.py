r"""What an answer is made of: lists, tuples, sets, intervals, unions, matrices, equations.

Texts are in their normal form (`latex.normal`). Nothing here reads a formula.
"""

import re
from dataclasses import dataclass
from itertools import accumulate, pairwise

from isentropic.tasks.answers.numbers import read_number

OPENING, CLOSING = "([{", ")]}"
ESCAPED_BRACES = {r"\{": "{", r"\}": "}"}
MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
TRANSPOSED = re.compile(
    r"(.*\S)\s*\^\s*(?:T|\{\s*(?:T|\\top|\\text\{T\}|\\intercal)\s*\}|\\top)", re.DOTALL
)
SCALED = re.compile(
    r"([^&=,]*[^&=,\s(\[{])\s*(?:\\cdot\s*)?(\\begin\{[pbB]?(?:matrix|array)\}.*)", re.DOTALL
)
WORD_COMMA = re.compile(
    r",?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z}]))\s*|;"
)
JOINT = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|wedge|lor|vee)(?![A-Za-z])")
RELATION = re.compile(r"\\leq|\\geq|<|>")
ONE_NAME = (
    r"(?:\\text\{[^{}]*\}|m?\\angle\s*[A-Z]+|\\(?:overline|vec|hat)\s*\{[A-Za-z]+\}"
    r"|\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?'*)(?:\s*\([^()]*\))?"
)
NAME = re.compile(rf"{ONE_NAME}|\(\s*{ONE_NAME}(?:\s*,\s*{ONE_NAME})*\s*\)")
MEMBER = re.compile(rf"(?:{NAME.pattern})\s*\\in(?![A-Za-z])\s*")
GROUPED_DIGITS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
UNGROUPED_COMMA = re.compile(r",(?!\d{3}(?!\d))")
# One number, whatever its currency, decimals and unit.
ONE_NUMBER = re.compile(r"[+-]?(?:\\\$|[€£¥₹])?\s*\d{1,3}(?:,\d{3})+(?!\d)[^,]*")


@dataclass(frozen=True)
class Group:
    """Several answers in one; `brackets` is '()', '[)', '{}', ..., or '' for a row without any."""

    brackets: str
    items: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        return self.brackets not in ("", "{}")


def read_group(text: str) -> Group | None:
    """The parts of a list, tuple, set or interval; None for a single answer."""
    text = WORD_COMMA.sub(", ", text)
    inner = _inside(text)
    if inner is None or inner[0] not in ("{}", "[]"):
        text = expand_sign_pairs(text)
        inner = _inside(text)
    if inner is not None:
        brackets, body = inner
        items = _items(expand_sign_pairs(body))
        if len(items) > 1:
            return Group(brackets, items)
        if brackets in ("{}", "[]", "()") and items:
            return read_group(items[0]) or Group(brackets, (items[0],))
    if ONE_NUMBER.fullmatch(text):
        return None
    items = _items(text)
    return Group("", items) if len(items) > 1 else None


def row_of_numbers(text: str) -> Group | None:
    """1,234 read as the list of 1 and 234."""
    return Group("", tuple(text.split(","))) if ONE_NUMBER.fullmatch(text) else None


def split_top(text: str, separator: str) -> list[str]:
    """The parts of `text` between separators outside all brackets, without empty ones."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == "\\" and text[position : position + 2] in ESCAPED_BRACES:
            position += 1
            character = text[position]
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0 and text.startswith(separator, position):
            parts.append(text[start:position])
            position += len(separator)
            start = position
            continue
        position += 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def nesting(text: str) -> int:
    """How many brackets stand in brackets at most."""
    depths = accumulate((char in OPENING) - (char in CLOSING) for char in text)
    return max(depths, default=0)


def expand_sign_pairs(text: str) -> str:
    r"""`1 \pm 2, 5` -> `1 + 2, 1 - 2, 5`: one text for each sign.

    `(\pm 1, \pm 2)` stays as it is: it may be two points or four.
    """
    if r"\pm" not in text and r"\mp" not in text:
        return text
    items = _items(text) if UNGROUPED_COMMA.search(text) else (text,)
    return ", ".join(sign for item in items for sign in _both_signs(item))


def in_order_of_names(group: Group, other: Group) -> Group:
    """`y = 2, x = 1` as (1, 2), if the other side is a tuple and the names are neighbours."""
    equations = [split_equation(item) for item in group.items]
    if group.brackets or other.brackets != "()" or not all(equations):
        return group
    names = [equation.left.strip("\\") for equation in equations]
    order = sorted(range(len(names)), key=names.__getitem__)
    letters = [names[index] for index in order]
    if any(len(name) != 1 for name in names) or any(
        ord(after) - ord(before) != 1 for before, after in pairwise(letters)
    ):
        return group
    return Group("()", tuple(equations[index].right for index in order))


def read_matrix(text: str) -> list[list[str]] | None:
    r"""Rows of a matrix, whatever its brackets, or of nested lists `[[1, 2], [3, 4]]`."""
    match = TRANSPOSED.fullmatch(text)
    if match and not TRANSPOSED.fullmatch(match[1]):
        rows = read_matrix(match[1])
        if rows is None and (group := read_group(match[1])):
            rows = [list(group.items)]
        return [list(column) for column in zip(*rows, strict=False)] if rows else None
    if (match := SCALED.fullmatch(text)) and (rows := read_matrix(match[2])):
        factor = {"-": "-1", "+": "1"}.get(match[1], match[1])
        return [[_product(factor, cell) for cell in row] for row in rows]
    bare = _inside(text)
    if match := MATRIX.fullmatch(text if text.startswith("\\begin") or not bare else bare[1]):
        rows = [
            row
            for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2].replace(r"\hline", ""))
            if row.strip()
        ]
        return [[cell.strip() for cell in row.split("&")] for row in rows]
    outer = _inside(text)
    if outer and outer[0] == "[]":
        rows = [_inside(row) for row in split_top(outer[1], ",")]
        if all(row and row[0] == "[]" for row in rows):
            return [split_top(row[1], ",") for row in rows]
    return None


def _product(factor: str, cell: str) -> str:
    """A cell of a matrix times the number in front of it, worked out if both are rational."""
    one, other = read_number(factor), read_number(cell)
    return str(one.value * other.value) if one and other else rf"({factor}) \cdot ({cell})"


@dataclass(frozen=True)
class Equation:
    """`left = right`; of a chain the first and the last part."""

    left: str
    right: str

    @property
    def is_named(self) -> bool:
        r"""Whether the left side only names what is asked: x_1, f(x), (x, y), \text{Area}."""
        return NAME.fullmatch(self.left) is not None

    @property
    def names_word(self) -> bool:
        return self.left.startswith(r"\text")

    @property
    def value(self) -> str:
        """The side that is the value: the right one, but of 5 = x the left one."""
        turned = NAME.fullmatch(self.right) and not self.is_named
        return self.left if turned and "=" not in self.left else self.right


def split_equation(text: str) -> Equation | None:
    r"""An equation, or `x \in [0, 1]`; None for anything else, several equations too."""
    if len(_items(WORD_COMMA.sub(", ", text))) > 1:
        return None
    if match := MEMBER.match(text):
        return Equation(match.group().rsplit(r"\in", 1)[0].strip(), text[match.end() :])
    parts = split_top(text, "=")
    if len(parts) < 2 or RELATION.search(parts[0]):
        return None
    return Equation(parts[0], parts[-1])


def read_pieces(text: str) -> list[str]:
    r"""The pieces of a union, between \cup or inequalities in a row; else the text itself."""
    pieces = split_top(text, r"\cup")
    row = read_group(text) if len(pieces) == 1 else None
    if row and not row.brackets and all(read_interval(item) for item in row.items):
        return list(row.items)
    return pieces


def read_interval(text: str) -> tuple[str | None, Group] | None:
    r"""(variable, interval) of an inequality such as `0 \leq x < 1`; None if it is none."""
    parts = [part.strip() for part in RELATION.split(text)]
    signs = RELATION.findall(text)
    if len(parts) == 3 and all(sign[-1] in "gq>" and sign != r"\leq" for sign in signs):
        parts, signs = parts[::-1], [_turned(sign) for sign in signs[::-1]]
    if (
        len(parts) == 3
        and NAME.fullmatch(parts[1])
        and all(sign in ("<", r"\leq") for sign in signs)
    ):
        brackets = "(["[signs[0] == r"\leq"] + ")]"[signs[1] == r"\leq"]
        return parts[1], Group(brackets, (parts[0], parts[2]))
    if len(parts) != 2:
        return None
    left, sign, right = parts[0], signs[0], parts[1]
    if NAME.fullmatch(right) and not NAME.fullmatch(left):
        left, sign, right = right, _turned(sign), left
    if not NAME.fullmatch(left):
        return None
    if sign in ("<", r"\leq"):
        return left, Group("(" + ")]"[sign == r"\leq"], (r"-\infty", right))
    return left, Group("(["[sign == r"\geq"] + ")", (right, r"\infty"))


def read_comparison(text: str) -> tuple[str, str, str] | None:
    r"""(smaller side, `<` or `\leq`, larger side) of one inequality; None for anything else."""
    parts, signs = RELATION.split(text), RELATION.findall(text)
    if len(signs) != 1 or not all(part.strip() for part in parts) or len(_items(text)) > 1:
        return None
    (left, right), sign = (part.strip() for part in parts), signs[0]
    if sign in (">", r"\geq"):
        left, sign, right = right, _turned(sign), left
    return left, sign, right


def joint(text: str) -> str | None:
    """The word between two conditions, `and` or `or`; None if there is neither or both."""
    words = set(JOINT.findall(text))
    kinds = {"or" if word in ("or", r"\lor", r"\vee") else "and" for word in words}
    return kinds.pop() if len(kinds) == 1 else None


def _items(text: str) -> tuple[str, ...]:
    """What commas part. If some of them have a space behind them, `1,000` is one number."""
    if ", " in text:
        text = GROUPED_DIGITS.sub("", text)
    return tuple(split_top(text, ","))


def _both_signs(text: str) -> list[str]:
    count = text.count(r"\pm") + text.count(r"\mp")
    if count == 0 or (count > 1 and "," in text):
        return [text]
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return [upper, lower]


def _turned(sign: str) -> str:
    return {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}[sign]


def _inside(text: str) -> tuple[str, str] | None:
    """(brackets, content) if one pair of brackets, perhaps mixed, encloses all of `text`."""
    for escaped, plain in ((r"\{", "{"), ("(", "("), ("[", "[")):
        if not text.startswith(escaped):
            continue
        depth, position = 0, 0
        while position < len(text):
            if text[position] == "\\" and text[position : position + 2] in ESCAPED_BRACES:
                position += 1
            depth += (text[position] in OPENING) - (text[position] in CLOSING)
            if depth == 0:
                break
            position += 1
        if depth != 0 or position != len(text) - 1:
            return None
        content = text[len(escaped) :].removesuffix(r"\}" if text.endswith(r"\}") else text[-1])
        return plain + text[-1], content.strip()
    return None
