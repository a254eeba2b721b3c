"""Where branches start, and how many processes make them: what is settled before any is made."""

import os
from collections.abc import Sequence

import numpy as np

from isentropic.config import Config

# At most, unless it is given: each process has the model and what a step needs of it.
PROCESSES = 8


def evenly(steps: Sequence[int], count: int) -> list[int]:
    """Return `count` of the steps, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(count, len(steps))).round()
    return sorted({steps[int(place)] for place in places})


def room_for_processes(config: Config) -> int:
    """Return how many learners of one rank the CPUs hold at once; one if they are on a GPU."""
    if config.cluster.gpus_per_rank:
        return 1
    room = int(len(os.sched_getaffinity(0)) // max(1.0, config.cluster.cpus_per_rank))
    return max(1, min(PROCESSES, room))
