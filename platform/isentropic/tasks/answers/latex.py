r"""One spelling for everything that LaTeX, Unicode and plain text write in several ways.

    \dfrac12, \tfrac{1}{2}, {1 \over 2}, ½        \frac{1}{2}
    1\,000, 1{,}000, 1\!,000                      1 000, 1,000
    25\%, 25 \%, 25 percent                       25%
    90^\circ, 90 degrees                          90°
    \left[0, 1\right)                             [0, 1)
    \mathbf{Monday}, \textbf{Monday}              \text{Monday}
    x^{2}, x**2, x²                               x^2
    10⁻¹², a₁₂                                    10^{-12}, a_{12}
    x–5, 3–5, 3--5                                x-5, and twice 3–5: from 3 to 5

No rule here changes the value of an expression.
"""

# ruff: noqa: RUF001  this file is about characters that look alike

import html
import re
import unicodedata
from functools import lru_cache

FRACTIONS = {
    character: rf"\frac{{{top}}}{{{bottom}}}"
    for character, top, bottom in [
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5),
        ("⅗", 3, 5), ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8),
        ("⅞", 7, 8), ("⅐", 1, 7), ("⅑", 1, 9), ("⅒", 1, 10),
    ]
}  # fmt: skip
# Raised or lowered characters side by side are one exponent or one index: 10¹² is 10^{12}.
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥ]+")
UPRIGHT_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄∕/]([₀₁₂₃₄₅₆₇₈₉]+)")
TO = "–"  # in the normal form: from 3 to 5
# A dash between two numbers that stand alone is `to`, as in 3–5 or $3–$5; in x–5, 3–2x, (5–3)/4 and
# (1, –2) a minus.
DASH = re.compile(
    r"""(?P<from>(?:^|(?<=[\s,;:=$])|(?<=^[(\[{])|(?<=text\{))(?<![-+*/^_]\s)
        [+-]?(?:\\?[$€£¥₹])?\d(?:[\d.,]*\d)?\s?\\?[%°]?)(?:[–—‒]|--)
        (?=(?:\\?[$€£¥₹])?\d[\d.,]*+
           (?![A-Za-z](?![A-Za-z])|[\^_(]|\s*[=+]|\\(?:sqrt|frac|pi|cdot)|\)\s*(?:[/^*(]|\\cdot)))
    |[–—‒]""",
    re.VERBOSE,
)
SYMBOLS = {
    "−": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "⋅": r"\cdot ",
    "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\leq ",
    "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "∓": r"\mp ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
    "⇒": r"\Rightarrow ", "∴": r"\therefore ", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "ℝ": r"\mathbb{R}",
    "∅": r"\emptyset ", "º": "°", "˚": "°", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"',
}  # fmt: skip
GREEK = {
    "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "κ": "kappa", "ν": "nu",
    "ξ": "xi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ϕ": "phi", "χ": "chi",
    "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi",
    "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
CHARACTERS = str.maketrans(
    FRACTIONS | SYMBOLS | {sign: rf"\{name} " for sign, name in GREEK.items()}
)
ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]*\)|(?=\{))")

# Applied in this order. Styles go first, so that the later rules see what they wrap.
RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        # Layout has no meaning: sizes of brackets, styles of display, spaces of any width.
        (
            r"\\(?:left|middle|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\s*\.?",
            "",
        ),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|bf|rm|it|boldmath)(?![A-Za-z])", ""),
        # Of 2x = 10 \implies x = 5 the last equation is what was found.
        (r"^[^=]*=.*\\(?:implies|Rightarrow|therefore)(?![A-Za-z])(?=[^=]*=)", ""),
        (
            r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|therefore)(?![A-Za-z])"
            r"|^\s*\\(?:implies|Rightarrow)(?![A-Za-z])|\\checkmark\s*$",
            "",
        ),
        # Between two statements it says which follows from which.
        (r"\\(?:implies|Longrightarrow|Rightarrow)(?![A-Za-z])", r"\\Rightarrow "),
        (r"\\(?:iff|Longleftrightarrow|Leftrightarrow)(?![A-Za-z])", r"\\Leftrightarrow "),
        (r"\\(?:color|textcolor)\s*\{[^{}]*\}", ""),
        (r"\\(?:underline|uline|ensuremath|colorbox)(?![A-Za-z])", ""),
        (r"(?<!\\)\\!\s*|\\(?:hspace|vspace|phantom|hphantom)\*?\{[^{}]*\}", ""),
        (r"(?<!\\)\\[,;: >]|~", " "),
        (r"\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|space)(?![A-Za-z])", " "),
        (r"\\(?:lbrace)(?![A-Za-z])\s*", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])\s*", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])\s*", "["),
        (r"\\(?:rbrack)(?![A-Za-z])\s*", "]"),
        (r"\\[lr]angle(?![A-Za-z])\s*", lambda angle: "()"[angle.group()[1] == "r"]),
        (r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])", r"\\ldots"),
        # Equations one below the other, not the cases of a function.
        (
            r"\\begin\{cases\}([^&]*)\\end\{cases\}",
            lambda cases: re.sub(r",?\s*\\\\\s*(?!\s*$)", ", ", cases[1]).strip(" \\"),
        ),
        # A fraction of units: what is above it, per what is below it.
        (
            r"\\frac\s*\{\s*\\(?:text|mathrm)\{([^{}]*)\}\s*\}"
            r"\s*\{\s*\\(?:text|mathrm)\{([^{}]*)\}\s*(\^\s*\{?\d\}?)?\s*\}",
            r"\\text{\1}/\\text{\2}\3",
        ),
        # Text stays text. A style around one letter is only a style; around several, a word.
        (
            r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|emph|operatorname\*?)"
            r"\s*\{([^{}]*)\}",
            r"\\text{\1}",
        ),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|bm|pmb)\s*\{\s*([^{}]{0,1})\s*\}", r"\1"),
        (r"\\(?:mathrm|mathbf|mathit|mathsf)\s*\{([A-Za-z][A-Za-z .]+)\}", r"\\text{\1}"),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|bm|pmb)\s*\{([^{}]*)\}", r"{\1}"),
        (r"\\text\{\s*\}", ""),
        # What text writes of a number, as TeX shows it: 5\text{00}, 5 \text{ 1/2}, 5\text{!}
        (r"\\text\{(?=[^{}]*[\d/^!])([\d.,/^!\s-]*)\}", r"\1"),
        # A sentence around the answer, a text that holds a number and its unit.
        (
            r"(?i)^\s*(\\text\{)?\s*(?:the )?(?:final )?answer\s*(?::|is(?![a-z]))\s*:?\s*",
            r"\1",
        ),
        (r"^\s*\\text\{\s*\}", ""),
        (r"^\s*\\text\{\s*([+-]?\.?\d[^{}]*)\}\s*$", r"\1"),
        # Before and after noon: two letters in any style, but 5am is a product.
        (r"(?i)(?<=\d)\s*\\text\{\s*([ap])\.?\s?m\.?\s*\}", r" \\text{\1m}"),
        (r"(?i)(?<=\d)\s*([ap])\.\s?m(?:\.|(?![a-z]))", r" \\text{\1m}"),
        (r"(?i)(?<=:\d\d)\s*([ap])m(?![a-z])", r" \\text{\1m}"),
        (r"(?<=\d)\s+([AP])M(?![A-Za-z])", r" \\text{\1M}"),
        # A comma in braces groups thousands if three digits follow, else it is a decimal comma.
        (r"\{,\}(?=\d{3}(?!\d))", ","),
        (r"(?<=\d)\{,\}(?=\d)", "."),
        (r"(?<=\d),\s+(?=000(?!\d))", ","),
        (r"μ(?!\s*[A-Za-z\\])", r"\\mu "),
        # The unit micro is part of what it scales.
        (r"(?:\\mu|μ)\s*\\text\{\s*(?=[a-zA-Z])", r"\\text{μ"),
        # Percent and degrees, in words or signs.
        (r"\\?%|\s*\\text\{\s*(?:percent|per cent|percentage|pct)\.?\s*\}", "%"),
        (r"(?<![A-Za-z])(?:percent|per cent|percentage|pct)(?![A-Za-z])", "%"),
        (r"\s+%", "%"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|\\textdegree(?![A-Za-z])", "°"),
        (r"(?<=[\d}).])\s*\\text\{\s*(?:degrees?|deg)\.?\s*\}", "°"),
        (r"(?<=[\d}).])\s*(?:degrees?|deg)(?![A-Za-z])", "°"),
        # Operators.
        (r"\\(?:times|cdotp|ast)(?![A-Za-z])", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:leqslant|le|leqq)(?![A-Za-z])|<=", r"\\leq "),
        (r"\\(?:geqslant|ge|geqq)(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:simeq|thickapprox|doteq)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:ne|neq)(?![A-Za-z])|!=|\\not\s*=", r"\\neq "),
        (r"\\not\s*\\in(?![A-Za-z])", r"\\notin "),
        # What is denied is another relation, which no rule here reads as the one it denies.
        (r"\\not\s*(?:\{\s*)?\\([A-Za-z]+)", r"\\n\1 "),
        (r"\\not\s*([<>])", lambda denied: r"\geq " if denied[1] == "<" else r"\leq "),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        # Fractions and roots, whose arguments need no braces if they are single characters.
        (r"\\(?:dfrac|tfrac|cfrac|nicefrac|sfrac|frac)(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"^([^{}]*)\\over(?![A-Za-z])([^{}]*)$", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9A-Za-z])\s*([0-9A-Za-z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9A-Za-z])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([0-9A-Za-z])", r"\\frac\1{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\\sqrt\s+(?=[\[{])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        # An odd root of a negative number: the real one.
        (r"\\sqrt\s*\[\s*([3579])\s*\]\s*\{\s*-(\d+)\}", r"-\\sqrt[\1]{\2}"),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*\{", r"\\sqrt{"),
        (r"\\log\s*_\s*(?:\{\s*e\s*\}|e)", r"\\ln "),
        (r"(\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(?=\d)", r"\1:"),
        (r"\\text\{\s*(?=(?:positive |negative )?infinity\s*\})([^{}]*)\}", r"\1"),
        (r"\bpositive (?=infinity\b)", ""),
        (r"\bnegative (?=infinity\b)", "-"),
        # Names that plain text writes without a backslash.
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"\+\s*\\infty", r"\\infty"),
        # One character after ^ or _ needs no braces.
        (r"([_^])\s*\{\s*([0-9A-Za-z])\s*\}", r"\1\2"),
        (r"\s+", " "),
    ]
]
ENTITY = re.compile(r"&#?\w{2,8};")  # with its semicolon: & alone parts the columns of a matrix
# In front of an answer: a relation without its left side, or a sentence. Not one that denies it, or says
# it of something else: half of it is 3, wrong answers are 3, 2x is 3.
OTHERWISE = (
    r"(?![^{}]*(?:\d\s*[a-z]\b|\b(?:no|not|never|none|neither|half of|twice|thrice|double|triple|wrong|"
    r"incorrect|false|invalid|untrue|opposite|reciprocal|than|unless|\w+n['\u2019]t)\b))"
)
INTRODUCTION = re.compile(
    r"^(?:(?:=|\\approx|\\simeq|\\sim|:)"
    rf"|\\text\{{{OTHERWISE}[^{{}}]*(?:\b(?:is|are|equals)|:)\s*\}})\s*",
    re.IGNORECASE,
)
# '...' is not a full stop, and '!' is a factorial.
END = re.compile(r"(?<!\.)(?:[\s.,;:]|\\(?=[\s.,;:\\]*$))+$")
WRAPPED = [
    (re.compile(pattern, re.DOTALL), group)
    for pattern, group in [
        (r"\\\((.*)\\\)", 1),
        (r"\\\[(.*)\\\]", 1),
        (r"\*\*(.*)\*\*", 1),
        (r"`(.*)`", 1),
        (r'"([^"]*)"', 1),
    ]
]


@lru_cache(maxsize=65536)
def normal(text: str) -> str:
    """Returns the one spelling of `text`."""
    text = ROOT.sub(lambda root: rf"\sqrt{{{root[1]}}}" if root[1] else r"\sqrt", text)
    text = _in_plain_characters(text).strip()
    text = _unwrap(_without_dollars(text))
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    text = INTRODUCTION.sub("", text.strip())
    return END.sub("", _unwrap(text)).strip()


def _in_plain_characters(text: str) -> str:
    """Writes signs, exponents, indices and fractions of Unicode as LaTeX does.

    What is not seen (zero-width spaces, marks of direction) goes; entities of HTML are what they name.
    """
    text = ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = "".join(one for one in text if unicodedata.category(one) != "Cf")
    text = UPRIGHT_FRACTION.sub(_as_fraction, text)
    text = RAISED.sub(lambda run: f"^{{{_upright(run[0])}}}", text)
    text = LOWERED.sub(lambda run: f"_{{{_upright(run[0])}}}", text)
    text = DASH.sub(lambda dash: f"{dash['from']}{TO}" if dash["from"] else "-", text)
    return _upright(text.translate(CHARACTERS))


def _as_fraction(found: re.Match) -> str:
    return rf"\frac{{{_upright(found[1])}}}{{{_upright(found[2])}}}"


def _upright(text: str) -> str:
    """Returns the plain character of each raised, lowered, wide or ligated one."""
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def squeezed(text: str) -> str:
    """Removes the spaces without meaning: those that separate neither words nor numbers."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)


def without_text(text: str) -> str:
    r"""Puts the content of each `\text{...}` in its place."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())


def _without_dollars(text: str) -> str:
    """Removes the dollar signs that enclose mathematics."""
    # `\$`, or a sign without its partner, is money.
    if text.replace(r"\$", "").count("$") % 2:
        text = text.replace("$", r"\$", 1) if r"\$" not in text else text
    return re.sub(r"(?<!\\)\$", " ", text).strip()


def _unwrap(text: str) -> str:
    """Removes delimiters and braces around the whole text."""
    for pattern, group in WRAPPED:
        if match := pattern.fullmatch(text):
            text = match.group(group).strip()
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    """Returns True if the first brace of `text` is closed by its last one."""
    depth = 0
    for position, character in enumerate(text):
        if text[position - 1 : position] != "\\":
            depth += (character == "{") - (character == "}")
        if depth == 0:
            return position == len(text) - 1
    return False
