r"""Formulas: read by latex2sympy, compared by their values.

Two formulas are equal if they have the same value, to AGREE digits, wherever they are tried. Unlike
a difference that must simplify to zero, this takes little time and does not mistake what is tiny
for nothing. Texts are in their normal form (`latex.normal`).
"""

import re
from functools import lru_cache
from typing import Any

DIGITS = 40
AGREE = 25  # digits that must agree
MAX_CHARACTERS = 1000
TRIES = 4
MAX_EXPONENT = 10_000
# Values of the symbols: both signs, and nothing that a formula would treat specially.
VALUES = ("17/29", "-31/23", "53/37", "-7/61", "83/47", "-97/71", "113/101", "-19/127")
DECIMALS = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
# What latex2sympy would misread in silence: words as products, f'(x) as f * x, 1 2 as 3, x^T as x,
# 1.234.5 as 1.234 * 0.5; and `to` of a range as nothing or as minus.
MISREAD = re.compile(
    r"\u2013|\\text|\\(?:Left|left|Right)(?:right)?arrow|(?<![\\A-Za-z])[A-Za-z]{4,}|'|\^\{?T|\.\d+\.\d|(?:^|[^_^\d])\d+\s+\d"
)
THOUSANDS = re.compile(r"(?<=\d)[ ,](?=\d{3}(?!\d))")
DEGREES = re.compile(r"([\d.]+|[A-Za-z]|\\[a-z]+)°")
INVERSE = re.compile(r"[A-Z]\s*\^\s*\{\s*-")
COMMANDS = re.compile(r"\\[A-Za-z]+")


@lru_cache(maxsize=65536)
def read_formula(text: str) -> Any | None:
    """The sympy object of a formula; None for what latex2sympy cannot read, words for one.

    The grammar that latex2sympy2_extended ships for ANTLR 4.9.3, the version that Hydra needs, is
    older than the visitor that walks its trees: some forms raise AttributeError. Like any text that
    cannot be read they are compared as text only, which was done before this is called.
    """
    from latex2sympy2_extended import latex2sympy

    text = THOUSANDS.sub("", text)
    if len(text) > MAX_CHARACTERS or MISREAD.search(text):
        return None
    text = DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)
    text = text.replace("%", r" \cdot \frac{1}{100}")
    try:
        formula = latex2sympy(
            DECIMALS.sub(_as_fraction, text),
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
        )
        if _is_huge(formula) or (
            getattr(formula, "is_infinite", False) and _has_other_letters(text)
        ):
            return None
        return _with_real_roots(formula)
    except Exception:  # of the parser, its visitor and sympy: there is no common class
        return None


def same_formula(gold: str, answer: str) -> bool:
    """Whether two formulas are equal: by value, equations up to a factor, others by math-verify."""
    letters = set(COMMANDS.sub("", gold + answer))
    if any(letter.isupper() and letter.lower() in letters for letter in letters):
        return False  # latex2sympy makes one symbol of x and X
    if "frac" not in gold + answer and any(map(_is_product_of_matrices, (gold, answer))):
        return _factors(gold) == _factors(answer)
    one, other = read_formula(gold), read_formula(answer)
    if one is None or other is None:
        return False
    from sympy import Eq, Expr

    try:
        if isinstance(one, Eq) and isinstance(other, Eq):
            return _same_zeros(one.lhs - one.rhs, other.lhs - other.rhs)
        if isinstance(one, Expr) and isinstance(other, Expr):
            return _same_value(one, other)
        return type(one) is type(other) and _verify(one, other)
    except Exception:  # sympy raises what it likes on what a model wrote
        return False


def _is_product_of_matrices(text: str) -> bool:
    r"""Whether P^{-1}AP is meant, whose factors do not commute; in a fraction letters are numbers."""
    capitals = set(re.findall(r"(?<![A-Za-z\\])[A-Z]|(?<=[A-Z])[A-Z]", COMMANDS.sub(" ", text)))
    return INVERSE.search(text) is not None and len(capitals) > 1


def _factors(text: str) -> str:
    return re.sub(r"\\cdot(?![A-Za-z])|\s", "", text)


def value_of(text: str) -> Any | None:
    """The real number that a formula without symbols is, to DIGITS digits; None for others."""
    formula = read_formula(text)
    if not getattr(formula, "is_number", False):
        return None
    value = formula.evalf(DIGITS)
    return value if value.is_Float else None


def is_irrational(text: str) -> bool:
    """Whether a formula is a number for which sympy knows that no fraction is equal to it."""
    formula = read_formula(text)
    return getattr(formula, "is_number", False) and _is_rational(formula) is False


def _is_rational(formula: Any) -> bool | None:
    """True, False, or None if unknown; of what is a sum, by its value as a fraction of small terms."""
    from sympy import nsimplify

    if formula.is_rational is not None:
        return formula.is_rational
    value = formula.evalf(DIGITS)
    if not value.is_Float:
        return None
    near = nsimplify(value, rational=True, tolerance=10**-AGREE)
    return bool(near.q < 10**8)


def _has_other_letters(text: str) -> bool:
    r"""Whether a text has letters that no limit explains: `not -\infty`."""
    return r"\lim" not in text and re.search("[A-Za-z]", COMMANDS.sub("", text)) is not None


def _with_real_roots(formula: Any) -> Any:
    r"""An odd root of a negative number is the real one: \sqrt[3]{2 - \sqrt{5}} is negative."""
    from sympy import Expr, Pow

    if not isinstance(formula, Expr):
        return formula
    return formula.replace(
        lambda part: (
            isinstance(part, Pow)
            and part.exp.is_Rational
            and part.exp.p == 1
            and part.exp.q % 2 == 1
            and part.base.is_number
            and part.base.is_negative
        ),
        lambda part: -Pow(-part.base, part.exp),
    )


def _same_value(one: Any, other: Any) -> bool:
    from sympy import I, S, Symbol, nan, zoo

    one, other = (
        side.doit().subs(Symbol("i", real=True), I).subs(Symbol("i"), I) for side in (one, other)
    )
    if one == other:
        return not one.has(zoo, nan)
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    points = [
        {
            symbol: S(VALUES[(index + attempt) % len(VALUES)]) * (1 + index // len(VALUES))
            for index, symbol in enumerate(symbols)
        }
        for attempt in range(TRIES if symbols else 1)
    ]
    if symbols:
        points.append({symbol: abs(value) for symbol, value in points[0].items()})
    pairs = [[side.subs(point).evalf(DIGITS) for side in (one, other)] for point in points]
    if not all(value.is_number and value.is_finite for pair in pairs for value in pair):
        return False
    if symbols and not one.has(I) and not other.has(I):
        # \sqrt{1/x} and 1/\sqrt{x} differ only where x is negative, which neither is meant for.
        real = [pair for pair in pairs if any(value.is_real for value in pair)]
        pairs = real or pairs
    return all(abs(left - right) <= abs(left) * S(10) ** -AGREE for left, right in pairs)


def _same_zeros(one: Any, other: Any) -> bool:
    """Whether the two sides vanish together: one is the other times a number."""
    from sympy import S

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    ratios = []
    for attempt in range(TRIES):
        values = {s: S(VALUES[(i + attempt) % len(VALUES)]) for i, s in enumerate(symbols)}
        ratios.append((one.subs(values) / other.subs(values)).evalf(DIGITS))
    first = ratios[0]
    return all(
        ratio.is_finite and ratio != 0 and abs(ratio - first) <= abs(first) * S(10) ** -AGREE
        for ratio in ratios
    )


def _is_huge(formula: Any) -> bool:
    """Whether a number in it could not be written out: 9^{9^{9}} would never return."""
    from sympy import Pow, exp, factorial, postorder_traversal

    for part in postorder_traversal(formula):  # inner parts first: no exponent is itself huge
        if not getattr(part, "is_number", False):
            continue
        if isinstance(part, Pow | exp) and abs(part.exp.evalf(8)) > MAX_EXPONENT:
            return True
        if isinstance(part, factorial) and abs(part.args[0].evalf(8)) > MAX_EXPONENT:
            return True
    return False


def _verify(one: Any, other: Any) -> bool:
    from math_verify import verify

    return bool(verify([one], [other], timeout_seconds=None))


def _as_fraction(decimal: re.Match) -> str:
    """A decimal in a formula, exactly: 0.5 -> \\frac{5}{10}."""
    return rf"\frac{{{int(decimal[1] + decimal[2])}}}{{{10 ** len(decimal[2])}}}"
