"""Which weights go together: those that gather, send and lay them out ask here."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_groups(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Yields the items in order, in groups of `limit` at most; a larger one is alone."""
    group: list[T] = []
    total = 0
    for item in items:
        added = size(item)
        if group and total + added > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += added
    if group:
        yield group
