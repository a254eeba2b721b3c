r"""What a number counts or measures: `5 \text{ cm}`, `\$18`, `12 apples`, `90°`, `60 km/h`.

A unit that only one side writes is no difference: the question has named it. Two that differ are,
unless they measure the same thing: 50 cm is 0.5 m, and 5 m is not.

Words that scale a number are part of the number: 5 million is 5000000, 5 halves are 5/2. What holds
a digit or an operator, and a letter that is no known unit, is none: 5\text{x}, 5 \text{ over 2}.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from isentropic.tasks.answers.numbers import read_number

MEASURES = {  # dimension -> names -> how many of the first
    "length": {
        "m meter metre": 1, "mm millimeter millimetre": Fraction(1, 1000),
        "cm centimeter centimetre": Fraction(1, 100), "dm decimeter decimetre": Fraction(1, 10),
        "km kilometer kilometre": 1000, "in inch": Fraction(254, 10**4),
        "ft foot": Fraction(3048, 10**4), "yd yard": Fraction(9144, 10**4),
        "mi mile": Fraction(1_609_344, 1000),
        "microm micrometer micrometre micron": Fraction(1, 10**6),
    },
    "mass": {
        "g gm gram": 1, "mg milligram": Fraction(1, 1000), "kg kilogram": 1000,
        "oz ounce": Fraction(28_349_523_125, 10**9), "lb pound": Fraction(45_359_237, 10**5),
        "£ gbp": Fraction(45_359_237, 10**5),  # £5 is 5 pounds, and no text says which pounds
    },
    "time": {
        "s sec second": 1, "ms millisecond": Fraction(1, 1000), "min minute": 60,
        "h hr hour": 3600, "day": 86_400, "week": 604_800,
    },
    "calendar": {"month": 1, "year yr": 12, "decade": 120, "century": 1200},
    "volume": {
        "l liter litre": 1, "ml milliliter millilitre": Fraction(1, 1000),
        "gal gallon": Fraction(3_785_411_784, 10**9),
    },
    "dollars": {"dollar usd": 1, "cent ¢": Fraction(1, 100)},
    "euros": {"euro eur €": 1},
    "yen": {"yen jpy ¥": 1},
    "rupees": {"rupee inr rs ₹": 1},
    "current": {"amp": 1}, "kelvins": {"kelvin": 1},
    "angle": {"°": 1},
    "degrees celsius": {"°c celsius": 1},
    "degrees fahrenheit": {"°f fahrenheit": 1},
}  # fmt: skip
# Signs of SI tell M from m: 5 MW is no 5 mW. They become names before their case is lost.
PREFIXES = {
    "": ("", 1), "n": ("nano", Fraction(1, 10**9)), "μ": ("micro", Fraction(1, 10**6)),
    "m": ("milli", Fraction(1, 1000)), "k": ("kilo", 1000), "M": ("mega", 10**6),
    "G": ("giga", 10**9), "T": ("tera", 10**12),
}  # fmt: skip
SI = {
    "J": ("joule", "energy"), "N": ("newton", "force"), "W": ("watt", "power"),
    "Hz": ("hertz", "frequency"), "V": ("volt", "voltage"), "A": ("ampere", "current"),
    "Pa": ("pascal", "pressure"), "L": ("liter", "volume"), "g": ("gram", "mass"),
    "m": ("meter", "length"), "s": ("second", "time"), "B": ("byte", "bytes"), "b": ("bit", "bits"),
    "eV": ("electronvolt", "electronvolts"), "C": ("coulomb", "charge"), "F": ("farad", "capacity"),
    "T": ("tesla", "induction"), "K": ("kelvin", "kelvins"), "Wh": ("watthour", "watthours"),
    "cal": ("calorie", "calories"),
}  # fmt: skip
# Without a prefix these are variables, or other things: 5 g, 25°F and 6 A are read as written.
NO_SIGN = {"g", "m", "s", "b", "B", "A", "C", "F", "T", "L", "ks", "Ms", "Gs", "Ts", "cal"}
LETTERS = set("mgshlLABCFTak")  # other single letters, even in `\text`, are variables
SIGNS = {
    f"{prefix}{sign}": f"{long}{name}"
    for prefix, (long, _) in PREFIXES.items()
    for sign, (name, _) in SI.items()
    if f"{prefix}{sign}" not in NO_SIGN
}
MEASURE_OF = {
    f"{long}{name}": (dimension, Fraction(factor))
    for long, factor in PREFIXES.values()
    for name, dimension in SI.values()
} | {
    name: (dimension, Fraction(factor))
    for dimension, names in MEASURES.items()
    for same, factor in names.items()
    for name in same.split()
}
SINGULAR = {
    "feet": "foot", "inches": "inch", "people": "person", "men": "man", "women": "woman",
    "centuries": "century",
}  # fmt: skip
# They say what of a thing was measured, or how it is shared out: 5 feet tall, $10 each.
DESCRIBING = {
    "tall", "long", "wide", "high", "deep", "thick", "old", "apart", "away", "each", "apiece",
    "total", "altogether", "exactly",
}  # fmt: skip
REWRITTEN = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\text\{([^{}]*)\}", r" \1 "),
        (r"\\\$", " dollar "),
        (r"\\cdot", " "),
        (r"\b(?:in total|in all|of each)\b", " "),
        (r"(?<![a-z])μ ?(?=[a-z])", "micro"),
        (r"° (?=[cf]\b)", "°"),
        (r"° ?(?=(?:celsius|fahrenheit)\b)", ""),
        (r"\bmph\b", "mile / hour"),
        (r"\b(?:kmph|kph|kmh)\b", "km / hour"),
        (r"\bper\b", "/"),
        (r"\b(?:square|sq)\.? +([a-z]+)", r"\1^2"),
        (r"\b(?:cubic|cu)\.? +([a-z]+)", r"\1^3"),
        (r"\b([a-z]+) squared\b", r"\1^2"),
        (r"\b([a-z]+) cubed\b", r"\1^3"),
    ]
]
SCALES = {
    name: Fraction(factor)
    for names, factor in [
        ("tens", 10), ("dozen dozens", 12), ("hundred hundreds", 100), ("k thousand thousands", 1000),
        ("million millions", 10**6), ("bn billion billions", 10**9),
        ("trillion trillions", 10**12), ("quadrillion quadrillions", 10**15),
        ("quintillion quintillions", 10**18), ("sextillion sextillions", 10**21),
        ("septillion septillions", 10**24), ("octillion octillions", 10**27),
        ("nonillion nonillions", 10**30), ("decillion decillions", 10**33),
        ("googol googols", 10**100), ("lakh lakhs lac lacs", 10**5), ("crore crores", 10**7),
        ("gross", 144), ("permille permil ‰", Fraction(1, 1000)),
        ("basis-point basis-points bps", Fraction(1, 10**4)), ("half halves", Fraction(1, 2)),
        *(
            (f"{name} {name}s", Fraction(1, bottom))
            for name, bottom in [
                ("third", 3), ("fourth", 4), ("fifth", 5), ("sixth", 6), ("seventh", 7),
                ("eighth", 8), ("ninth", 9), ("tenth", 10), ("eleventh", 11), ("twelfth", 12),
                ("thirteenth", 13), ("fourteenth", 14), ("fifteenth", 15), ("sixteenth", 16),
                ("seventeenth", 17), ("eighteenth", 18), ("nineteenth", 19), ("twentieth", 20),
                ("hundredth", 100), ("thousandth", 1000), ("ten-thousandth", 10**4),
                ("hundred-thousandth", 10**5), ("millionth", 10**6), ("billionth", 10**9),
            ]
        ),
    ]
    for name in names.split()
}  # fmt: skip
# These scale a number only at the end: 12 third graders are twelve.
ADJECTIVES = {
    name for name, factor in SCALES.items() if factor < 1 and name.endswith(("h", "rd", "lf"))
}
POWERS = {"squared": 2, "cubed": 3}
# `5 and a half` and `5 point two` are other numbers, `5 is wrong` is no answer.
NUMBER_WORD = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    "(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
)
JOINTS = {
    "and", "or", "plus", "minus", "to", "factorial", "over", "choose", "mod", "modulo", "remainder",
    "base", "rem", "divided", "multiplied",
}  # fmt: skip
PHRASES = re.compile(r"\bper[ -]?mill?e?\b|\bbasis[ -]points?\b")
MATHEMATICS = re.compile(
    "sqrt|cbrt|sin|cos|tan|cot|sec|csc|log|ln|exp|lim|sum|prod|int|inf|infinity|infty|"
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|"
    "psi|omega|pi|frac|cdot|pm"
)
# What may stand in a unit: words, perhaps hyphened, and powers of them.
WORDS = re.compile(
    r"(?:[^\W\d_]|[\s.,;:/()°€£¥₹¢$'\"‰\\-]|(?<=[a-zA-Z])\s*\^\s*\{?-?\d\}?|(?<=[cdkm]m)[23])*"
)
VERB_OR_DENIAL = re.compile(
    "(?:is|are|was|were|does|do|did|has|have|had|would|should|could)(?:n'?t)?|can(?:not|'?t)|"
    "be|been|must|will|won't|seems|not|no|never|neither|nor"
)
DENYING_ADJECTIVES = {"wrong", "incorrect", "false", "invalid", "impossible", "untrue"}
PART = re.compile(r"(/?)\s*([a-z°€£¥₹¢]+)\.?(?:\s*\^\s*\{?(-?\d)\}?)?")

ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")  # its degrees are no unit of the answer
CURRENCY = re.compile(
    r"([+-]?)\s*(?:US(?=\\))?(\\\$|[€£¥₹]|(?:\\text\{\s*)?(?:USD|EUR|GBP|JPY|INR)(?:\s*\})?)"
    r"\s*(?=[+-]?[\d.(\\])"
)
# 5k, 2.5M, $3B; with a currency also 5m and 5b, which are products or metres without one.
MAGNITUDE = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<currency>\\\$|[€£¥₹])?\s*(?P<number>\d[\d,]*(?:\.\d+)?|\.\d+)"
    r"(?P<space>\s*)(?:\\text\{\s*)?(?P<suffix>k|K|M|MM|B|bn|Bn|BN|m|mn|b|T)(?:\s*\})?"
)
MAGNITUDES = {"k": 3, "m": 6, "mm": 6, "mn": 6, "b": 9, "bn": 9, "t": 12}
SIGN = re.compile(rf"(?<![A-Za-z°])(?:{'|'.join(SIGNS)})(?![A-Za-z'])")
NAME = r"(?:\\text\{[^{}]*\}|[A-Za-z°€£¥₹¢][A-Za-z.]*|\\\$)(?:\s*\^\s*\{?-?\d\}?)?"
# Behind a number or a formula: a digit, a closing bracket, a letter that \text follows.
TRAILING = re.compile(
    rf"(.*(?:[\d)}}%.!]|\\pi|[A-Za-z](?<!\\cdot)(?=\s*\\text)))(\s*)"
    rf"({NAME}(?:(?:\s*(?:/|\\cdot)\s*|\s+|(?=\\text)){NAME})*)"
)
# One quantity of `1 hr 30 min`, its text unwrapped.
QUANTITY = r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\.?"
SUM = re.compile(rf"{QUANTITY}(?:\s+(?:and\s+)?{QUANTITY})+")


@dataclass(frozen=True)
class Unit:
    """Powers of dimensions and the size in base units; or, if it is no measure, the words."""

    dimensions: frozenset[tuple[str, int]] = frozenset()
    size: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The text without the unit behind it or the currency in front of it, and the unit."""
    if match := CURRENCY.match(text):
        body, behind = split_unit(match[1] + text[match.end() :])
        return body, behind or read_unit(match[2])
    match = TRAILING.fullmatch(text)
    if match is None or ("°" in match[3] and ANGLE_OF.search(match[1])):
        return text, None
    body, space, written = match[1].strip(), match[2], match[3]
    if space or r"\text" in written:
        written = SIGN.sub(lambda sign: SIGNS[sign[0]], written)
    unwrapped = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", written)
    words = [word.strip(".,;:") for word in PHRASES.sub(_as_one_word, unwrapped.lower()).split()]
    if not WORDS.fullmatch(unwrapped) or any(_is_variable(word) for word in unwrapped.split()):
        return text, None
    if r"\text" not in written and not _is_surely_a_unit(body, space, written):
        return text, None
    scaled, rest = _scaled(body, words)
    if _is_no_unit(rest, scaled != body):
        return text, None
    return scaled, (read_unit(" ".join(rest)) if scaled != body else read_unit(written))


def written_out(text: str) -> str | None:
    r"""`\$5000` of `\$5k`: a number with the letter that scales it multiplied in; else None."""
    match = MAGNITUDE.fullmatch(text)
    if match is None:
        return None
    suffix, currency = match["suffix"], match["currency"] or ""
    if not currency and (match["space"] or suffix in ("m", "mn", "b", "T")):
        return None
    number = read_number(match["number"])
    if number is None:
        return None
    return f"{match['sign']}{currency}{number.value * 10 ** MAGNITUDES[suffix.lower()]}"


def add_up(text: str) -> str | None:
    """`90 min` of `1 hr 30 min`: a sum in smaller and smaller units of one dimension, else None."""
    text = " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())
    if not SUM.fullmatch(text):
        return None
    quantities = re.findall(QUANTITY, text)
    names = [_singular(name.lower()) for _, name in quantities]
    measures = [MEASURE_OF.get(name) for name in names]
    if None in measures or len({dimension for dimension, _ in measures}) > 1:
        return None
    sizes = [size for _, size in measures]
    if any(small >= large for large, small in pairwise(sizes)):
        return None
    numbers = [Fraction(number) for number, _ in quantities]
    total = sum(number * size for number, size in zip(numbers, sizes, strict=True)) / sizes[-1]
    return rf"{total} \text{{ {names[-1]}}}"


def read_unit(text: str) -> Unit | None:
    r"""The unit of `\text{ km}/\text{h}`, `square feet` or `apples`; None for `units`."""
    text = text.lower()
    for pattern, replacement in REWRITTEN:
        text = pattern.sub(replacement, text)
    powers: dict[str, int] = {}
    size, names, measured = Fraction(1), set(), True
    parts = PART.findall(text)
    for below, name, power in parts:
        name = _singular(name)
        if name in DESCRIBING and len(parts) > 1:
            continue
        names.add(name)
        if name not in MEASURE_OF:
            measured = False
            continue
        dimension, factor = MEASURE_OF[name]
        exponent = (-1 if below else 1) * int(power or 1)
        powers[dimension] = powers.get(dimension, 0) + exponent
        size *= factor**exponent
    if names <= {"unit"}:
        return None
    return Unit(frozenset(powers.items()), size) if measured else Unit(words=frozenset(names))


def same_kind(gold: Unit | None, answer: Unit | None) -> bool:
    """Whether the two can be the same quantity; words may say more or less about one thing."""
    if gold is None or answer is None:
        return True
    if gold.words or answer.words:
        return (
            gold.words <= answer.words or answer.words <= gold.words
            if gold.words and answer.words
            else False
        )
    return gold.dimensions == answer.dimensions


def _scaled(body: str, words: list[str]) -> tuple[str, list[str]]:
    """The number with the words that scale it multiplied in, and the words behind those."""
    factor = Fraction(1)
    while words and words[0] in SCALES and (len(words) == 1 or words[0] not in ADJECTIVES):
        factor *= SCALES[words[0]]
        words = words[1:]
    power = POWERS.get(words[0]) if words else None
    if power:
        return (f"({body})^{power}", words[1:]) if factor == 1 else (body, words)
    if factor == 1:
        return body, words
    number = read_number(body)
    return (str(number.value * factor) if number else rf"({body}) \cdot {factor}"), words


def _is_no_unit(words: list[str], is_scaled: bool) -> bool:
    """Whether words behind a number change or deny it: `and a half`, `is wrong`."""
    if not words:
        return False
    return (
        words[0] in JOINTS
        or any(MATHEMATICS.fullmatch(word) for word in words)
        or NUMBER_WORD.fullmatch(words[-1]) is not None
        or (is_scaled and NUMBER_WORD.fullmatch(words[0]) is not None)
        or any(VERB_OR_DENIAL.fullmatch(word) for word in words)
        or (len(words) > 1 and any(word in DENYING_ADJECTIVES for word in words))
        or any(word in SCALES and word not in ADJECTIVES for word in words)
        or words[-1] in ADJECTIVES
    )


def _is_surely_a_unit(body: str, space: str, written: str) -> bool:
    r"""Letters without `\text` may be factors: `5m` is 5 times m, `5 m` and `5cm` are lengths."""
    names = [_singular(name.lower()) for name in re.findall(r"[A-Za-z°€£¥₹¢]+", written)]
    if not names:
        return True  # a currency sign
    glue = {"per", "square", "sq", "cubic", "cu", "squared", "cubed"}
    if all(name in MEASURE_OF or name in glue or name in ("mph", "unit") for name in names):
        return bool(space) or len(names[0]) > 1 or not names[0].isalpha()
    is_count = bool(space) and all(len(name) > 2 for name in names) and written == written.lower()
    return is_count and read_number(body) is not None


def _is_variable(word: str) -> bool:
    word = word.strip(".,;:()")
    return len(word) == 1 and word.isalpha() and word.isascii() and word not in LETTERS


def _as_one_word(phrase: re.Match) -> str:
    return "permille" if phrase[0].startswith("per") else "basis-points"


def _singular(name: str) -> str:
    if name in SINGULAR:
        return SINGULAR[name]
    plural = len(name) > 2 and name.endswith("s") and not name.endswith("ss")
    return name[:-1] if plural and name not in MEASURE_OF else name
