"""How this process was started: messages name commands as the reader would type them."""

import re
import sys

COMMAND = "isentropic"  # the console script; it puts the command behind it into sys.argv[0]
SCRIPT = re.compile(r"(?:python )?jobs/(\w+)\.py")


def as_started(text: str) -> str:
    """Return the text with `isentropic train` for `python jobs/train.py`, if that was typed."""
    return SCRIPT.sub(rf"{COMMAND} \1", text) if sys.argv[0].startswith(f"{COMMAND} ") else text
