"""Numbers that are not in plain digits of base ten: 1.234.567, twenty-one, 1A_{16}, 0b101."""

import re
from itertools import pairwise

from isentropic.tasks.answers.latex import squeezed, without_text

# Digits in groups as other countries write them: 1.234.567, 1'234'567, 1_234_567, 12,34,567; and
# 1.234,56 with a decimal comma. A single group, as in 1.234, may be decimals.
REGROUPED = re.compile(
    r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,(?:\d{1,2}|\d{4,})(?!\d)"
    r"|\d{1,3}(?:'\d{3})+(?:\.\d+)?|\d{1,3}(?:_\d{3}){2,}|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"
)
DECIMAL_COMMA = re.compile(r"\d+,(?:\d{1,2}|\d{4,})")
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: value for value, word in enumerate(SMALL)} | {
    word: 10 * value for value, word in enumerate(TENS, start=2)
}
# Digits of a base: 101_2, (1A)_{16}, 101_{\text{two}}. Letters come first only in base 16.
BASED = re.compile(
    r"\(?(\d[0-9A-Fa-f]*|[A-Fa-f][0-9A-Fa-f]*(?=\)?_\{?16))\)?_\{?(\d+|\\text\{\w+\})\}?"
)
PREFIXED = re.compile(r"0([xb])([0-9A-Fa-f]+)")
IN_BASE = re.compile(r"(\w+)\s*,?\s*\(?(?:in )?base[\s-]*(\w+)\)?")
BASES = {"x": "16", "b": "2", r"\text{two}": "2", r"\text{eight}": "8", r"\text{ten}": "10"}


def digits_regrouped(text: str, *, is_gold: bool) -> str | None:
    """The text with its only number in plain digits, if that is in unusual groups; else None.

    `3,5` is 3.5 in an answer only: as a gold answer it is a list.
    """
    runs = re.findall(r"\d(?:[\d.,'_]*\d)?", text)
    if len(runs) != 1:
        return None
    run = runs[0]
    is_grouped = REGROUPED.fullmatch(run) is not None
    if not is_grouped and (is_gold or not DECIMAL_COMMA.fullmatch(run)):
        return None
    # The last kind of sign that stands once parts the decimals; the others group.
    has_decimal_comma = not is_grouped or ("." in run and "," in run[run.rindex(".") :])
    groups = "._'" if has_decimal_comma or run.count(".") > 1 else ",_'"
    return text.replace(run, re.sub(f"[{groups}]", "", run).replace(",", "."))


def number_in_words(text: str) -> str | None:
    """The digits of a number below a million in words, `one hundred and twenty-one`; else None."""
    total = part = 0
    words = re.split(r"[\s-]+", text.strip().lower())
    for previous, word in pairwise(["", *words]):
        value = WORDS.get(word)
        if value is not None and _may_follow(value, previous):
            part += value
        elif word == "hundred" and 0 < part < 10:
            part *= 100
        elif word == "thousand" and 0 < part < 1000 and not total:
            total, part = part * 1000, 0
        elif word != "and" or previous not in ("hundred", "thousand"):
            return None
    return None if words[-1] == "and" else str(total + part)


def _may_follow(value: int, previous: str) -> bool:
    """Whether a number word stands right behind another word: twenty-one, but not two three."""
    return previous in ("", "and", "hundred", "thousand") or (previous in TENS and 0 < value < 10)


def read_based(text: str) -> tuple[str, str | None]:
    """(digits, base) of a number that names its base; the base is None for others."""
    if match := IN_BASE.fullmatch(without_text(text)):  # 13 base 8
        base = str(WORDS.get(match[2].lower(), match[2]))
        if base.isdigit() and re.search(r"\d", match[1]):
            return match[1].upper(), base
    text = squeezed(text)
    if match := PREFIXED.fullmatch(text):
        return match[2].upper(), BASES[match[1]]
    match = BASED.fullmatch(text)
    return (match[1].upper(), BASES.get(match[2], match[2])) if match else (text.upper(), None)


def based_value(text: str) -> int | None:
    """The number that digits of some base are, of base ten if they name none; None for others."""
    digits, base = read_based(text)
    try:
        return int(digits, int(base or "10"))
    except ValueError:
        return None
