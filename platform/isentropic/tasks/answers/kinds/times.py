"""Times of day: 8 a.m. is 8:00 AM, 20:00 is 8 p.m., noon is 12:00 PM.

`8:00` is right for 8 a.m. and for 8 p.m.: the question has said which. `20:00` and `08:00` have
said it themselves.
"""

import re
from dataclasses import dataclass

HALVES = {
    "am": "am", "in the morning": "am", "pm": "pm", "in the afternoon": "pm",
    "in the evening": "pm", "at night": "pm",
}  # fmt: skip
NAMED = {"noon": "12 pm", "midday": "12 pm", "midnight": "12 am"}
CLOCK = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d{2}))?(?:\s*:\s*(\d{2}))?(\s*o'clock)?"
    rf"(?:\s+({'|'.join(HALVES)}))?"
)
HALF_DAY = 12 * 60 * 60


@dataclass(frozen=True)
class Time:
    """A time of day, in seconds since midnight, and how it was written."""

    seconds: int
    names_half: bool  # with am or pm
    is_of_12: bool  # 8:00, but neither 08:00 nor 20:00
    is_bare: bool  # the number of an hour: no time unless the other side is one


def read_time(text: str) -> Time | None:
    """The time of day that `text` is, without its `\\text`; None for anything else."""
    text = " ".join(text.lower().split())
    match = CLOCK.fullmatch(NAMED.get(text, text))
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
    half = HALVES.get(match[5])
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    is_of_12 = 1 <= hour <= 12 and not match[1].startswith("0")
    is_bare = match[2] is None and match[4] is None and half is None
    if is_bare and not is_of_12:
        return None
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return Time(
        seconds=hour % 24 * 3600 + minute * 60 + second,
        names_half=half is not None,
        is_of_12=is_of_12,
        is_bare=is_bare,
    )


def same_time(gold: Time, answer: Time) -> bool:
    """Whether the two can be the same time."""
    one_names_half = gold.names_half != answer.names_half
    if one_names_half and gold.is_of_12 and answer.is_of_12:
        return gold.seconds % HALF_DAY == answer.seconds % HALF_DAY
    return gold.seconds == answer.seconds
