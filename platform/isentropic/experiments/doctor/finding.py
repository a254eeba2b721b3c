"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it is. `warning`: a run starts all the same."""

    state: Literal["ok", "warning", "wrong"]
    what: str
    remedy: str = ""
