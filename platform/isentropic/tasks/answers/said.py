"""The answer of a response that marks none: what it says last.

The answer is 5 or 6.            two answers, which is none
The answer is 5x, (3, 4), B      the clause is short: it is compared whole, no number is picked out
The answer is 5 million euros    the number that it begins with, with the word that scales it
In all she has 5 apples left.    else what math-verify takes: the last number or formula
"""

import re

from isentropic.tasks.answers.units import SCALES

NOUNS = r"answer|result|solution|(?:correct|right|final|exact)\s+(?:value|number|total|sum)"
VERBS = "is|are|was|equals|must be|should be|will be|would be|comes out as|becomes"
# `The final answer is`, `Answer:`, `the value of x is`; with emphasis anywhere.
SAYS = re.compile(
    rf"\b(?:{NOUNS})\b[*_]*(?:\s+(?:of|to|for|in)\s[^.:=\n$]{{1,80}}?)?"
    rf"\s*(?:\s(?:{VERBS})\b\s*:?|[:=])[*_]*\s*",
    re.IGNORECASE,
)
# The full stop of a sentence stands in front of a space, `3.14` and `5!` go on.
END = re.compile(r"\.(?=[*_)\"']*(?:\s|$))|\n")
BEHIND = 80  # characters behind the clause that could take it back
OPTION = re.compile(r"^(?:option|choice)\s+(?=\(?[A-J]\b)", re.IGNORECASE)
DENIED = re.compile(
    r"\bnot\b|\b(?:is|isn't) (?:wrong|incorrect)\b|\d\S*\s+or\s+\S*\d|\bbut\b", re.IGNORECASE
)
TAKEN_BACK = re.compile(
    r"\s*[*_]*(?:wait|actually|no,|oops|hmm)\b|(?:but |however,? )?"
    r"\b(?:that|this|it|which)(?:'s|\s+is|\s+was)\s+(?:not|wrong|incorrect|false|a mistake)\b",
    re.IGNORECASE,
)
REASON = re.compile(r",?\s+(?:because|since)\s.*|\s+\([a-z ]+\)\s*$", re.DOTALL)
# At the end of a text: a bound, or a number that names a place.
NO_ANSWER = re.compile(
    r"(?:[<>≤≥≠]|\b(?:step|equation|eq\.|case|part|line|figure|table|section|example|problem|question))"
    r"\s*[#(]?\s*[+-]?\d[\d.,]*\W*$",
    re.IGNORECASE,
)
LATEX = re.compile(r"\\(?:text\s*\{[^{}]*\}|[A-Za-z]+)")
PROSE = re.compile(r"[A-Za-z]{2,}")
SHORT = 2  # words of a clause that is compared whole: `5 cubic meters`, `does not exist` is denied
LEADING = re.compile(rf"[$€£¥]?\s*[+-]?\d[\d,.]*(?:/\d+)?(?:\s*%|\s+(?:{'|'.join(SCALES)})\b)?")
DISPLAYED = (("$$", "$$"), (r"\[", r"\]"), ("$", "$"), (r"\(", r"\)"))


def said_last(text: str) -> str | None:
    """What stands behind the last `the answer is`; without such words the last number or formula."""
    found = list(SAYS.finditer(text))
    if not found:
        return None if NO_ANSWER.search(text) else _picked(text)
    clause, behind = _clause(text[found[-1].end() :])
    clause = REASON.sub("", clause)
    if DENIED.search(clause) or TAKEN_BACK.match(behind[:BEHIND].lstrip()):
        return None
    if len(PROSE.findall(LATEX.sub(" ", clause))) <= SHORT:
        return _bare(clause)
    number = LEADING.match(clause.lstrip("*_ "))
    return number[0].rstrip(".,") if number else _picked(text)


def _clause(text: str) -> tuple[str, str]:
    """(the formula or the rest of the sentence, what stands behind it)."""
    for opening, closing in DISPLAYED:
        if text.startswith(opening) and (end := text.find(closing, len(opening))) > 0:
            rest = END.search(text, end + len(closing))
            stop = rest.start() if rest else len(text)
            return text[:stop], text[stop:]
    end = END.search(text)
    return (text[: end.start()], text[end.end() :]) if end else (text, "")


def _bare(clause: str) -> str | None:
    """Without emphasis, and without the delimiters of a formula that is the whole clause."""
    clause = OPTION.sub("", clause.strip().strip("*_` ").strip())
    for opening, closing in DISPLAYED:
        inner = clause.removeprefix(opening).removesuffix(closing)
        if len(inner) == len(clause) - len(opening + closing) and closing not in inner:
            return inner.strip() or None
    return clause.rstrip(" .,;:") or None


def _picked(text: str) -> str | None:
    """By math-verify: the last number or formula of the text."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    as_written = NormalizationConfig(
        basic_latex=False,
        units=False,
        malformed_operators=False,
        nits=False,
        boxed="none",
        equations=False,
    )
    found = parse(
        text,
        extraction_config=[
            LatexExtractionConfig(normalization_config=as_written, boxed_match_priority=-1),
            ExprExtractionConfig(),
        ],
        # Else an earlier number would take the place of one that cannot be read.
        extraction_mode="first_match",
        # It needs signals; the process that runs this has a harder limit.
        parsing_timeout=None,
    )
    if not found or not isinstance(found[-1], str):
        return None
    percent = "%" if str(found[0]).endswith("*(1/100)") else ""
    # Of `**73**` it takes the closing stars for a part of the number.
    return found[-1].strip("*_` ") + percent
