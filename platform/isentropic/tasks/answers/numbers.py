r"""Exact rational numbers: 1,000, 2.5, \frac{1}{3}, 1\frac{1}{2}, 3 \cdot 10^{-4}, 0.\overline{3}.

Numbers are compared as fractions. Floating point would make 10^{-20} and 10^{-21} equal, and 1/3
equal to 0.3333.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_BITS = 20_000  # of a power: beyond this a number is compared as text
DECIMAL = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)?(?P<point>\.\d*)?"
    r"(?:[eE](?P<exponent>[+-]?\d{1,4}))?"
)
REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")
TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?(?!\d)|\d+\.?\d*|\.\d+)"
    r"|(?P<sign>\\frac|\\cdot|[-+/^(){}!]))"
)
MIXED = re.compile(r"([+-]?)(\d+) (\d+)/(\d+)")  # 4-1/2 is a difference


@dataclass(frozen=True)
class Number:
    """A rational number, and how it was written."""

    value: Fraction
    places: int | None = None  # behind the decimal point; None if not written as a decimal
    digits: int = 0  # significant ones of a decimal


def read_number(text: str) -> Number | None:
    """The number that `text` (in its normal form, without unit or percent sign) is, or None."""
    text = text.strip()
    if not any(character.isdigit() for character in text):
        return None
    if match := REPEATING.fullmatch(text):
        return Number(_repeating(*match.groups()))
    if match := DECIMAL.fullmatch(text):
        return _decimal(text, match)
    if match := MIXED.fullmatch(text):
        sign, whole, top, bottom = match.groups()
        if int(bottom):
            value = int(whole) + Fraction(int(top), int(bottom))
            return Number(-value if sign == "-" else value)
    try:
        return Number(Arithmetic(text).value())
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


def _decimal(text: str, match: re.Match) -> Number | None:
    literal = text.replace(",", "").replace(" ", "")
    point, exponent = match["point"], match["exponent"]
    try:
        value = Fraction(literal.rstrip(".") if not exponent else literal)
    except ValueError:
        return None
    if point is None or len(point) == 1:
        return Number(value)
    mantissa = re.split("[eE]", literal)[0].lstrip("+-").replace(".", "").lstrip("0")
    return Number(value, places=len(point) - 1 - int(exponent or 0), digits=len(mantissa))


def _repeating(sign: str, whole: str, start: str, period: str) -> Fraction:
    value = Fraction(int(whole + start or 0)) + Fraction(int(period), 10 ** len(period) - 1)
    value /= 10 ** len(start)
    return -value if sign == "-" else value


class Arithmetic:
    """Reads + - * / ^ ! and fractions of whole and decimal numbers; a closed grammar, no evaluator.

    Raises ValueError for anything else. `1\\frac{1}{2}` is one and a half, as people write it.
    """

    def __init__(self, text: str) -> None:
        self._tokens = self._split(text)
        self._next = 0

    def value(self) -> Fraction:
        result = self._sum()
        if self._next != len(self._tokens):
            raise ValueError("something is left")
        return result

    @staticmethod
    def _split(text: str) -> list[str]:
        tokens, position = [], 0
        text = text.rstrip()
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise ValueError("not arithmetic")
            tokens.append(match["number"] or match["sign"])
            position = match.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self, expected: str | None = None) -> str:
        token = self._peek()
        if not token or (expected is not None and token != expected):
            raise ValueError(f"expected {expected}")
        self._next += 1
        return token

    def _sum(self) -> Fraction:
        total = self._product()
        while self._peek() in ("+", "-"):
            sign = self._take()
            total += self._product() if sign == "+" else -self._product()
        return total

    def _product(self) -> Fraction:
        sign = 1
        while self._peek() in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        result = self._mixed()
        while True:
            token = self._peek()
            if token in ("\\cdot", "/"):
                self._take()
                factor = self._signed_power()
                result = result * factor if token != "/" else result / factor
            elif token in ("(", "{", "\\frac"):
                result *= self._power()
            else:
                return sign * result

    def _mixed(self) -> Fraction:
        """A power, or a whole number with a fraction of whole numbers behind it."""
        whole = self._peek()
        result = self._power()
        if whole.isdigit() and self._peek() == "\\frac" and result == int(whole):
            part = self._power()
            return result + part if 0 < part < 1 else result * part
        return result

    def _signed_power(self) -> Fraction:
        if self._peek() in ("+", "-"):
            return self._power() if self._take() == "+" else -self._power()
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        while self._peek() == "!":
            self._take()
            base = _factorial(base)
        if self._peek() != "^":
            return base
        self._take()
        return _raised(base, self._signed_power())

    def _atom(self) -> Fraction:
        token = self._take()
        if token in ("(", "{"):
            result = self._sum()
            self._take(")" if token == "(" else "}")
            return result
        if token == "\\frac":
            return self._group() / self._group()
        return Fraction(token.replace(",", "").replace(" ", ""))

    def _group(self) -> Fraction:
        self._take("{")
        result = self._sum()
        self._take("}")
        return result


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("a root is not rational, or not for sure")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * size > MAX_BITS:
        raise ValueError("too large to be written out")
    return base ** int(exponent)


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= 1000:
        raise ValueError("too large to be written out, or not defined")
    result = 1
    for factor in range(2, int(value) + 1):
        result *= factor
    return Fraction(result)
