r"""Letters in front of what they choose or name, as pairs of label and value.

(B), B., B: 12, (B) 12                  one choice, perhaps with what it says
(A), (C);  A, C;  (A) and (C);  (A)(C)  several choices, in any order
(a) 5, (b) 6;  A) 5; B) 6               the parts of an answer

Texts are in their normal form (`latex.normal`).
"""

import re

from isentropic.tasks.answers.latex import without_text

BETWEEN = r"\s*(?:[,;&]\s*(?:and\s+|or\s+)?|\b(?:and|or)\s+|\\quad)\s*"
# In brackets a label may stand anywhere but inside a word or a formula; a bare one behind a comma.
IN_BRACKETS = r"\(([A-Ja-j])\)[.:]?(?![A-Za-z^_])"
LABEL = re.compile(rf"(?:^|{BETWEEN}|(?<=\))|\s+){IN_BRACKETS}\s*|(?:^|{BETWEEN})([A-J])[).:]\s*")
LETTERS = re.compile(rf"[A-J](?:{BETWEEN}[A-J])*")
# What says that the letter was not chosen, or not alone.
RETRACTED = re.compile(
    r"^(?:and|or|not|nor|but)\b|\b(?:not|wrong|incorrect|false|isn't|never|neither)\b|\([A-J]\)|"
    r"\b(?:or|and|nor) [A-J]\b"
)

Labelled = list[tuple[str, str]]


def read_labels(text: str) -> Labelled | None:
    """(label, value) of each label, if the text begins with one; values may be empty."""
    text = without_text(text)
    if LETTERS.fullmatch(text):
        return [(letter, "") for letter in re.findall("[A-J]", text)]
    found = list(LABEL.finditer(text))
    if not found or found[0].start() > 0:
        return None
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        ((match[1] or match[2]).upper(), re.sub(r"[,;\s]+$", "", text[match.end() : end]))
        for match, end in zip(found, ends, strict=True)
    ]


def is_retracted(value: str) -> bool:
    """Whether what stands behind a letter takes it back, or offers another one."""
    return RETRACTED.search(value) is not None
