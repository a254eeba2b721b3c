"""The keys that a sweep sets: each in one place, and none of the sweep's own."""

import itertools
from collections.abc import Collection, Iterable, Mapping

# The sweep sets these itself, for each of its runs.
OWN_KEYS = ("run.name", "run.dir", "resume", "resume.mode", "tracking.group")


def check_own(keys: Iterable[str]) -> None:
    """Refuse keys that the sweep sets itself."""
    for key in keys:
        if key in OWN_KEYS:
            raise ValueError(
                f"{key} is set by the sweep for each of its runs; name the sweep: name=..."
            )


def check_once(places: Mapping[str, Collection[str]]) -> None:
    """Refuse a key that two places set: the later one would win, and nothing would say so.

    places: what sets keys -> the keys.
    """
    for (one, keys), (other, others) in itertools.combinations(places.items(), 2):
        if both := [key for key in keys if key in others]:
            raise ValueError(
                f"{both[0]} is set in two places, {one} and {other}, and a run has one value of "
                "it. Take it out of one of them. The overrides of a sweep's file may have it too: "
                "they are what the others change."
            )
