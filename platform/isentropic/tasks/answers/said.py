"""The answer of a response that marks none: what it says last, as a whole clause.

    The answer is 5 or 6.         `5 or 6`: an alternative is another answer than 5
    It is 6 (see equation 5)      `6 (see equation 5)`, which equals nothing; a number is not picked out
    1 + 1 = 2                     the last line, if it is an equation, a formula or a number alone

Nothing is read out of the clause: `equal` compares all of it.
"""

import re

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
BEHIND = 200  # characters behind the clause that could take it back
OPTION = re.compile(r"^(?:option|choice)\s+(?=\(?[A-J]\b)", re.IGNORECASE)
REASON = re.compile(r",?\s+(?:because|since)\s.*", re.DOTALL)
TAKEN_BACK = re.compile(
    r"\b(?:not|no|wrong|incorrect|false|invalid|fails?|failed|wait|actually|instead|mistake|error|but|"
    r"however|never|neither|\w+n't)\b|\bcannot\b",
    re.IGNORECASE,
)
LINE_START = re.compile(
    r"^(?:[\s>#*_-]+(?=\D)|(?:so|thus|therefore|hence|finally|then|and|we get|we have)\b[,:]?\s*)+",
    re.IGNORECASE,
)
IS = re.compile(r"\s(?:is|are|was|were|equals)\s+")
DISPLAYED = (("$$", "$$"), (r"\[", r"\]"), ("$", "$"), (r"\(", r"\)"))


def said_last(text: str) -> str | None:
    """The clause behind the last `the answer is`, else the last line if that is an answer alone."""
    found = list(SAYS.finditer(text))
    if found:
        clause, behind = _clause(text[found[-1].end() :])
        reason = REASON.search(clause)
        if reason and not TAKEN_BACK.search(reason[0]):
            clause = clause[: reason.start()]
        return None if TAKEN_BACK.search(behind[:BEHIND]) else _bare(clause)
    lines = [line for line in text.splitlines() if line.strip(" \t*_#>$")]
    if not lines:
        return None
    last = re.split(r"(?<=[.?!])\s+(?=[A-Z])", lines[-1].strip())[-1]
    clause = _bare(IS.split(LINE_START.sub("", END.sub("", last)))[-1])
    return clause if clause and re.search(r"[\d\\]", clause) else None


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
