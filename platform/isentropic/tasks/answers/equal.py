r"""Whether an answer is right: one rule per kind of answer, the first that knows the kind decides.

    words       'Monday' is text, letters are never multiplied;  yes/no
    choices     (B) is B. and B: 12;  A, C in any order;  (a) 5, (b) 6 label by label
    equations   x = 5 is 5, unless the gold answer itself is an equation; 2x = 5 and 3 = 5 say nothing
    times       8 a.m. is 8:00 AM, 20:00 is 8 p.m.
    residues    12 \pmod 7 is 5 \pmod 7
    sets        \{x \mid x > 2\} and x > 2 are (2, \infty)
    groups      1, 2 in any order; (1, 2) and [1, 2) in order; {1, 2} as a set; unions, inequalities
    matrices    cell by cell
    ranges      3–5 is from 3 to 5, and no difference
    numbers     exact: 1/3 is not 0.333
    formulas    by their values

An answer must be worked out as far as the gold is: 17 \cdot 23 is not 391. See finished.py.

Decided here, because a problem's text is not looked at:

    25% is 25% and 0.25, its value; and 25, because a question that asks for percent needs no sign.
    A gold 25 accepts 25% for the same reason, and a gold 0.25 accepts 25%, but not 0.25%.
    A decimal gold is exact for other decimals: 0.25 is not 0.254. But 1/3 and \pi, which no decimal
    can write, are right if they round to it; so is a longer decimal if the gold has five digits.
    Units: see units.py.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any

from isentropic.tasks.answers.final import final_answer
from isentropic.tasks.answers.finished import is_finished, is_left_undone
from isentropic.tasks.answers.kinds.choices import Labelled, is_retracted, read_labels
from isentropic.tasks.answers.kinds.equations import names_what_is_asked
from isentropic.tasks.answers.kinds.parted import read_hyphened, read_remainder, split_hyphened
from isentropic.tasks.answers.kinds.residues import read_members, read_residues
from isentropic.tasks.answers.kinds.sets import as_intervals
from isentropic.tasks.answers.kinds.spelled import (
    based_value,
    digits_regrouped,
    number_in_words,
    read_based,
)
from isentropic.tasks.answers.kinds.times import read_time, same_time
from isentropic.tasks.answers.latex import TO, normal, squeezed, without_text
from isentropic.tasks.answers.numbers import Number, read_number
from isentropic.tasks.answers.structure import (
    NAME,
    RELATION,
    Equation,
    Group,
    in_order_of_names,
    joint,
    nesting,
    read_comparison,
    read_group,
    read_interval,
    read_matrix,
    read_pieces,
    row_of_numbers,
    split_equation,
    split_top,
)
from isentropic.tasks.answers.symbolic import is_irrational, same_formula, value_of
from isentropic.tasks.answers.units import add_up, same_kind, split_unit, written_out

MAX_CHARACTERS = 2000  # of an answer; what is longer is none
MAX_NESTING = 40  # brackets in brackets; what has more is none either
MAX_DEPTH = 6  # lists in lists
ROUNDED_DIGITS = 2  # significant digits of a decimal gold that can be a rounded root or fraction
ROUNDED_DECIMAL_DIGITS = 5  # same, for a longer decimal
CLOCK_LIKE = re.compile(r"\d{1,2}\s*:\s*\d{2}")
WORD = re.compile(r"[A-Za-z][A-Za-z' .-]*")
SHORT = re.compile(r"[A-Za-z]{2,3}")  # perhaps a product after all, if the other side is no word
PRODUCT = re.compile(r"(?!no|on)[a-z]{2}")  # mn is nm, but `no` is not `on`
AND = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
SAME_WORDS = {
    "dne": "does not exist", "undefined": "does not exist", "none": "no solution",
    "no solutions": "no solution", "no real solution": "no solution", r"\emptyset": "no solution",
    "no real solutions": "no solution", "empty set": "no solution", "the empty set": "no solution",
}  # fmt: skip


def is_right(response: str, gold: str) -> bool:
    """Whether the final answer of `response` equals `gold`."""
    answer = final_answer(response)
    if answer is None or len(answer) > MAX_CHARACTERS:
        return False
    answer = normal(answer)
    return nesting(answer) <= MAX_NESTING and equal(normal(gold_text(gold)), answer)


@lru_cache(maxsize=65536)
def gold_text(gold: str) -> str:
    r"""What a gold column holds: the answer, or a text that boxes it or writes it behind `####`."""
    marked = r"\boxed" in gold or "####" in gold
    return (final_answer(gold) or "") if marked else gold


def equal(gold: str, answer: str, depth: int = 0) -> bool:
    """Whether two texts in their normal form are the same answer."""
    if not answer or depth > MAX_DEPTH:
        return False
    if squeezed(without_text(gold)) == squeezed(without_text(answer)):
        return True
    for rule in RULES:
        decision = rule(gold, answer, depth)
        if decision is not None:
            return decision
    return _same_worked_out(gold, answer)


def _same_worked_out(gold: str, answer: str) -> bool:
    """Whether two formulas are equal, and the answer leaves no work that the gold has done."""
    return not is_left_undone(gold, answer) and same_formula(gold, answer)


def _choice(gold: str, answer: str, depth: int) -> bool | None:
    """(B), B. and (B) 12 are choice B; a gold that names no choice wants what the choice says."""
    one, other = read_labels(gold), read_labels(answer)
    if one and other:
        return _same_labels(one, other, depth)
    if one is None and other is None:
        return None
    values = [value for _, value in one or other]
    if not all(values) or (other and is_retracted(values[-1])):
        return None
    if len(values) == 1:
        return equal(values[0], answer, depth + 1) if one else equal(gold, values[0], depth + 1)
    row = read_group(answer if one else gold)  # 5, 6 is (a) 5, (b) 6
    if row is None or row.brackets or len(row.items) != len(values):
        return False
    return _same_items(*((values, row.items) if one else (row.items, values)), depth, ordered=True)


def _same_labels(gold: Labelled, answer: Labelled, depth: int) -> bool:
    """Several choices are a set; a value that both write must be the same, unless it is words."""
    if sorted(label for label, _ in gold) != sorted(label for label, _ in answer):
        return False
    said = dict(answer)
    are_parts = len(gold) > 1
    for label, value in gold:
        other = said[label]
        if is_retracted(other) or (are_parts and value and not other):
            return False
        is_prose = not are_parts and all(map(_is_prose, (value, other)))
        if value and other and not is_prose and not equal(value, other, depth + 1):
            return False
    return True


def _words(gold: str, answer: str, depth: int) -> bool | None:
    words = [text for text in (gold, answer) if _is_word(text)]
    if not words or (len(words) == 1 and SHORT.fullmatch(words[0])):
        return None
    if len(words) == 2 and all(PRODUCT.fullmatch(word) for word in words):
        return None
    one, other = (sorted(AND.split(without_text(text).casefold())) for text in (gold, answer))
    return [SAME_WORDS.get(word, word) for word in one] == [
        SAME_WORDS.get(word, word) for word in other
    ]


def _equations(gold: str, answer: str, depth: int) -> bool | None:
    """Of x = 5 the answer is 5; two equations are equal if they hold together."""
    one, other = split_equation(gold), split_equation(answer)
    if one and other:
        sides = [{squeezed(side.left), squeezed(side.right)} for side in (one, other)]
        if sides[0] == sides[1]:  # y = x is x = y
            return True
        if _same_name(one.left, other.left) or (one.names_word and other.is_named):
            return equal(one.right, other.right, depth + 1)
        return not (one.is_named and other.is_named) and _same_worked_out(gold, answer)
    if one:
        return one.is_named and equal(one.right, answer, depth + 1)
    if other is None:
        return None
    return _is_said(other, depth) and equal(gold, other.value, depth + 1)


def _is_said(equation: Equation, depth: int) -> bool:
    """Whether an equation says its value: of a name, or of an expression that has that value."""
    if names_what_is_asked(equation):
        return True
    values = [based_value(side) for side in (equation.left, equation.right)]
    if None not in values and values[0] == values[1]:  # 101_2 = 5
        return True
    left = re.sub(r"\\text\{[^{}]*\}", " ", equation.left)  # 2 \text{ cats} + 3 \text{ cats} = 5
    if read_number(left) and same_formula(left, equation.right):  # 5 - 1 = 4, which is no range
        return True
    # The left side may be work that the right one has done, and the other way round.
    pairs = [
        pair
        for side in (equation.left, left)
        for pair in ((side, equation.right), (equation.right, side))
    ]
    return any(equal(*pair, depth + 1) for pair in pairs)


def _remainders(gold: str, answer: str, depth: int) -> bool | None:
    """5 R 2 is 5 remainder 2, part by part; and no number."""
    one, other = read_remainder(gold), read_remainder(answer)
    if one is None and other is None:
        return None
    if one is None or other is None:
        return None if "=" in gold + answer else False
    return _same_items(one, other, depth, ordered=True)


def _times(gold: str, answer: str, depth: int) -> bool | None:
    one, other = read_time(without_text(gold)), read_time(without_text(answer))
    if one and other is None and not one.is_bare and CLOCK_LIKE.fullmatch(answer):
        parts = [int(part) for part in gold.split(":") if part.isdigit()]
        # A gold in lowest terms may be a ratio, and 20:60 is 10:30 as one.
        return False if gcd(*parts) > 1 else None
    if one is None or other is None or (one.is_bare and other.is_bare):
        return None
    return same_time(one, other)


def _residues(gold: str, answer: str, depth: int) -> bool | None:
    r"""5 \pmod 7 is 12 \pmod 7; and 5: the question has named the modulus. But 12 is not 5."""
    one, other = read_residues(gold), read_residues(answer)
    if not one and not other:
        return None
    modulus = (one or other).modulus
    one, other = one or read_members(gold, modulus), other or read_members(answer, modulus)
    if not one or not other:
        sides = (
            ", ".join(side.values) if side else text
            for side, text in ((one, gold), (other, answer))
        )
        return equal(*sides, depth + 1)
    if one.modulus != other.modulus or len(one.values) != len(other.values):
        return False
    if one.name and other.name and one.name != other.name and not other.name.isdigit():
        return False
    classes = [[side.class_of(value) for value in side.values] for side in (one, other)]
    return _same_items(*classes, depth, ordered=False)


def _magnitudes(gold: str, answer: str, depth: int) -> bool | None:
    """5k is 5000. It may be a formula instead: then the other rules decide."""
    one, other = written_out(gold), written_out(answer)
    if one is None and other is None:
        return None
    return equal(one or gold, other or answer, depth + 1) or None


def _digits(gold: str, answer: str, depth: int) -> bool | None:
    """1.234.567, 1'234'567 and 3,5 for a number; five for 5. Else they may be lists and words."""
    one = number_in_words(without_text(gold)) or digits_regrouped(gold, is_gold=True)
    other = number_in_words(without_text(answer)) or digits_regrouped(answer, is_gold=False)
    if one is None and other is None:
        return None
    one, other = one or gold, other or answer
    bodies = [read_number(split_unit(text)[0]) for text in (one, other)]
    return (all(bodies) and equal(one, other, depth + 1)) or None


def _sets(gold: str, answer: str, depth: int) -> bool | None:
    """Sets of real numbers, once they are written as intervals."""
    (name, one), (other_name, other) = as_intervals(gold), as_intervals(answer)
    if (one, other) == (gold, answer):
        return None
    return (not name or not other_name or name == other_name) and equal(one, other, depth + 1)


def _sums_of_units(gold: str, answer: str, depth: int) -> bool | None:
    """1 hr 30 min is 90 min. If the other side is a list, this may be one too: 3 m and 20 cm."""
    one, other = add_up(gold), add_up(answer)
    if not one and not other:
        return None
    if (not one and read_group(gold)) or (not other and read_group(answer)):
        return None
    return equal(one or gold, other or answer, depth + 1)


def _approximations(gold: str, answer: str, depth: int) -> bool | None:
    r"""5/6 \approx 0.83 is 5/6: what is exact stands in front, unless that is a name."""
    one, other = (split_top(text, r"\approx") for text in (gold, answer))
    if len(one) == len(other) == 1 or not one or not other:
        return None
    exact = [parts[-1] if NAME.fullmatch(parts[0]) else parts[0] for parts in (one, other)]
    return equal(*exact, depth + 1)


def _intervals(gold: str, answer: str, depth: int) -> bool | None:
    """Unions piece by piece in any order; 0 <= x < 1 is [0, 1)."""
    one, other = read_pieces(gold), read_pieces(answer)
    if {joint(gold), joint(answer)} == {"and", "or"} and RELATION.search(gold):
        return False
    if turned := _same_turned(gold, answer, depth):
        return turned
    if len(one) > 1 or len(other) > 1:
        return len(one) == len(other) and _same_items(one, other, depth, ordered=False)
    bounds, others = read_interval(gold), read_interval(answer)
    if bounds is None and others is None:
        return None
    if bounds and others and squeezed(bounds[0]) != squeezed(others[0]):
        return False
    one = bounds[1] if bounds else read_group(gold)
    other = others[1] if others else read_group(answer)
    if one is None or other is None or one.brackets != other.brackets:
        return _same_worked_out(gold, answer)
    return _same_items(one.items, other.items, depth, ordered=True)


def _same_turned(gold: str, answer: str, depth: int) -> bool | None:
    """x < y is y > x, whatever the sides are."""
    sides = [read_comparison(text) for text in (gold, answer)]
    if None in sides or sides[0][1] != sides[1][1]:
        return None
    (left, _, right), (other_left, _, other_right) = sides
    pairs = ((left, other_left), (right, other_right))
    return all(equal(one, other, depth + 1) for one, other in pairs) or None


def _matrices(gold: str, answer: str, depth: int) -> bool | None:
    """Cell by cell; a vector may be written as a column, a row or a tuple."""
    one, other = read_matrix(gold), read_matrix(answer)
    if one is None and other is None:
        return None
    if one is None or other is None:
        vector, group = (one or other), read_group(gold if one is None else answer)
        if group is None or not (len(vector) == 1 or all(len(row) == 1 for row in vector)):
            return False
        cells = [cell for row in vector for cell in row]
        items = group.items
        pair = (cells, items) if one else (items, cells)
        return len(cells) == len(items) and _same_items(*pair, depth, ordered=True)
    if [len(row) for row in one] != [len(row) for row in other]:
        return False
    cells = [[cell for row in matrix for cell in row] for matrix in (one, other)]
    return _same_items(*cells, depth, ordered=True)


def _groups(gold: str, answer: str, depth: int) -> bool | None:
    one, other = read_group(gold), read_group(answer)
    is_one_number = False
    if one is None and other is None:
        return None
    if one is None or other is None:
        several, single = (one or other), (gold if one is None else answer)
        if len(several.items) == 1:
            pair = (gold, several.items[0]) if one is None else (several.items[0], answer)
            return equal(*pair, depth + 1)
        row = row_of_numbers(single)
        if row is None or several.brackets:
            return False
        is_one_number = True  # 1,234 read as two keeps their order
        one, other = (one or row), (other or row)
    if by_name := _by_names(one, other):
        return _same_items(*by_name, depth, ordered=True)
    one, other = in_order_of_names(one, other), in_order_of_names(other, one)
    if not _brackets_agree(one, other):
        return False
    if one.brackets == other.brackets == "{}":  # a set has each element once
        return all(
            any(equal(*((a, b) if one_is_gold else (b, a)), depth + 1) for b in second)
            for first, second, one_is_gold in (
                (one.items, other.items, True),
                (other.items, one.items, False),
            )
            for a in first
        )
    ordered = one.is_ordered or other.is_ordered or is_one_number
    return len(one.items) == len(other.items) and _same_items(
        one.items, other.items, depth, ordered
    )


def _by_names(gold: Group, answer: Group) -> tuple[list[str], tuple[str, ...]] | None:
    """The values of a gold x = 1, y = 2 and those of an answer without names, which is in order."""
    equations = [split_equation(item) for item in gold.items]
    if gold.brackets or not all(equations) or any("=" in item for item in answer.items):
        return None
    names = [squeezed(equation.left).partition("_")[0] for equation in equations]
    if len(set(names)) < len(names) or len(names) != len(answer.items):
        return None  # x = 1, x = 2 are two solutions, in any order
    if not all(equation.is_named for equation in equations):
        return None
    named = in_order_of_names(gold, Group("()", answer.items))
    is_sorted = named is not gold
    return list(named.items) if is_sorted else [e.right for e in equations], answer.items


def _ratios(gold: str, answer: str, depth: int) -> bool | None:
    """3:2 is 6:4; as a fraction, 3/2."""
    one, other = split_top(gold, ":"), split_top(answer, ":")
    if len(one) == len(other) == 1:
        return None
    if all(map(is_finished, one)) and not all(map(is_finished, other)):
        return False
    if len(one) == len(other):
        if _are_proportional(one, other):
            return True
        return _same_items(one, other, depth, ordered=True)
    if sorted((len(one), len(other))) != [1, 2]:
        return False
    as_one = [
        parts[0] if len(parts) == 1 else rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
        for parts in (one, other)
    ]
    return equal(*as_one, depth + 1)


def _hyphened(gold: str, answer: str, depth: int) -> bool | None:
    """A gold 3-5 is 3 to 5, a gold 2024-01-05 that day: part by part, and never a difference."""
    one, unit = split_unit(gold)
    parts = read_hyphened(one)
    if parts is None or "=" in answer or answer.startswith(("(", "[", "\\{")):
        return None
    other, other_unit = split_unit(answer)
    others = split_hyphened(other)
    is_rescaled = unit and other_unit and unit.size != other_unit.size
    return (
        same_kind(unit, other_unit)
        and not is_rescaled
        and len(parts) == len(others)
        and _same_items(parts, others, depth, ordered=True)
    )


def _ranges(gold: str, answer: str, depth: int) -> bool | None:
    """3–5 is 3 to 5, by both ends; it is no number, and with a hyphen it may be the same range."""
    if TO not in gold + answer:
        return None
    one, other = (split_hyphened(text) for text in (gold, answer))
    return len(one) == len(other) == 2 and _same_items(one, other, depth, ordered=True)


def _are_proportional(gold: list[str], answer: list[str]) -> bool:
    """Whether one factor makes each part of the one the part of the other: 4:6 is 2:3."""
    numbers = [read_number(part) for part in (*gold, *answer)]
    if not all(number and number.value for number in numbers):
        return False
    pairs = zip(numbers[: len(gold)], numbers[len(gold) :], strict=True)
    return len({one.value / other.value for one, other in pairs}) == 1


def _numbers(gold: str, answer: str, depth: int) -> bool | None:
    (digits, base), (other_digits, other_base) = read_based(gold), read_based(answer)
    if base or other_base:
        return digits == other_digits and (base == other_base or not (base and other_base))
    (one, unit), (other, other_unit) = split_unit(gold), split_unit(answer)
    if not same_kind(unit, other_unit):
        return False
    percents = one.endswith("%"), other.endswith("%")
    number, written = (read_number(text.removesuffix("%")) for text in (one, other))
    if number and written:
        if is_left_undone(one, other):
            return False
        if unit and other_unit and unit.size != other_unit.size:
            return number.value * unit.size == written.value * other_unit.size
        return _same_number(number, percents[0], written, percents[1])
    if number and number.places is not None and not any(percents):
        value = None if _is_undone_for_a_decimal(one, other) else value_of(other)
        if value is not None and _rounds_to(value, number, ROUNDED_DIGITS):
            return True
    stripped = (one, other) != (gold, answer)
    return equal(one, other, depth + 1) if stripped else None


def _is_undone_for_a_decimal(gold: str, answer: str) -> bool:
    """Of what no rational number is, a sum or a product may be its last form: 1 + \\sqrt{2}."""
    irrational = not is_finished(answer) and is_irrational(answer)
    return is_left_undone("" if irrational else gold, answer)


def _same_number(gold: Number, gold_percent: bool, answer: Number, answer_percent: bool) -> bool:
    """See the module's text for what a percent sign and a decimal gold mean."""
    if gold_percent == answer_percent:
        return _same_value(gold, answer)
    if gold_percent:
        return _same_value(gold, answer) or answer.value * 100 == gold.value
    return answer.value == gold.value * 100 or (abs(gold.value) >= 1 and _same_value(gold, answer))


def _same_value(gold: Number, answer: Number) -> bool:
    if gold.value == answer.value:
        return True
    if gold.places is None:
        return False
    if answer.places is not None:
        return answer.places > gold.places and _rounds_to(
            answer.value, gold, ROUNDED_DECIMAL_DIGITS
        )
    return not _is_finite_decimal(answer.value) and _rounds_to(answer.value, gold, ROUNDED_DIGITS)


def _rounds_to(value: Any, gold: Number, min_digits: int) -> bool:
    """Whether `value` rounds to `gold`, if that has enough digits to be a rounded value."""
    exact = value if isinstance(value, Fraction) else Fraction(str(value))
    error = abs(exact - gold.value)
    return gold.digits >= min_digits and error * 2 <= Fraction(10) ** -gold.places


def _is_finite_decimal(value: Fraction) -> bool:
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


def _same_items(gold: Sequence[str], answer: Sequence[str], depth: int, ordered: bool) -> bool:
    """Each item of the one equals one of the other, its own if they are ordered."""
    if ordered:
        return all(equal(a, b, depth + 1) for a, b in zip(gold, answer, strict=True))
    left = list(answer)
    for item in gold:
        match = next(
            (index for index, other in enumerate(left) if equal(item, other, depth + 1)), None
        )
        if match is None:
            return False
        del left[match]
    return True


def _brackets_agree(gold: Group, answer: Group) -> bool:
    """A row without brackets may stand for a tuple, set or list, but not for an interval."""
    if gold.brackets == answer.brackets:
        return True
    if gold.brackets == "":
        return answer.brackets in ("()", "{}", "[]")
    return answer.brackets == "" and (
        gold.brackets in ("()", "{}") or (gold.brackets == "[]" and len(gold.items) > 2)
    )


def _same_name(one: str, other: str) -> bool:
    """x and x; x_1 and x too, of two solutions for x."""
    one, other = squeezed(one), squeezed(other)
    return one == other or other == one.partition("_")[0] or one == other.partition("_")[0]


def _is_prose(text: str) -> bool:
    """Whether a text is words, without numbers, formulas or names of variables."""
    return not re.search(r"[\d\\=<>+*/^_]|(?<![A-Za-z'])(?![Aa]\b)[A-Za-z](?![A-Za-z'])", text)


def _is_word(text: str) -> bool:
    r"""Whether a text is words: wrapped in `\text`, or letters of which at least two touch."""
    if WORD.fullmatch(text):
        return re.search(r"[A-Za-z]{2}", text) is not None
    bare = re.sub(r"\\text\{[^{}]*\}", "", text)
    return bare != text and not re.search(r"[A-Za-z0-9\\]", bare)


RULES = (
    _remainders,
    _times,
    _digits,
    _choice,
    _sets,
    _words,
    _residues,
    _magnitudes,
    _sums_of_units,
    _approximations,
    _equations,
    _hyphened,
    _intervals,
    _matrices,
    _groups,
    _ranges,
    _ratios,
    _numbers,
)
