"""The answer of a response: its last box, or what it says last if it has none."""

import re
from collections.abc import Iterator

from isentropic.tasks.answers.said import said_last

# Boxes and marks are searched in the whole text, or a last number would be paid where an earlier box
# says something else. Without either only the end is searched: that takes long.
LAST_CHARACTERS = 20_000
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
MARKED = re.compile(r"^[ \t>*]*####(.*)$", re.MULTILINE)
BARE_BOX = re.compile(r"[^\s{}$\\.,;]+")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def final_answer(response: str, *, truncated: bool = False) -> str | None:
    """The text of the answer, or None if there is none.

    Args:
        truncated: the response was cut off. Then only a box that is closed, or a line behind `####`
            that has ended, is an answer: the last number of a reasoning that would have gone on is
            none, and what stands at the very end may be the beginning of something else.

    The last box outranks everything. If it is empty or never closed there is no answer: a number of
    the reasoning is not what was answered, and `\\boxed{12` may be the beginning of `\\boxed{123}`.
    Without a box it is the text behind the last `####`, else what the response says last (said.py).
    What stands between `<think>` and `</think>` was not answered, nor is thinking that never ends.
    """
    response = response.rpartition("</think>")[2].partition("<think>")[0]
    boxes = list(BOX.finditer(response))
    if boxes:
        return _box_content(response, boxes[-1].end(), truncated)
    marked = MARKED.findall(response)
    if truncated and MARKED.search(response, response.rfind("\n") + 1):
        return None
    if marked:
        return marked[-1].strip() or None
    return None if truncated else said_last(response[-LAST_CHARACTERS:])


def _box_content(text: str, start: int, truncated: bool) -> str | None:
    if not text.startswith("{", start):
        bare = BARE_BOX.match(text, start)  # TeX boxes a single token: \boxed 5
        return bare.group() if bare and not (truncated and bare.end() == len(text)) else None
    depth = 0
    for position, change in _braces(text, start):
        depth += change
        if depth == 0:
            return text[start + 1 : position].strip() or None
    return None


def _braces(text: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """(position, +1 or -1) of each brace; one behind a backslash is text."""
    for match in BRACE.finditer(text, start):
        if match.group() in "{}":
            yield match.start(), 1 if match.group() == "{" else -1
