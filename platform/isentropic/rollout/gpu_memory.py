"""What a vLLM engine keeps on a GPU that it shares with a learner, and when it gives that up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class GpuMemory:
    """Weights and cache of one engine: on the GPU, or given up until the next load of weights.

    Args:
        llm: vLLM's `LLM`.
        shared: False for an engine with a GPU of its own, and on a CPU: it keeps what it has.
    """

    def __init__(self, llm: Any, *, shared: bool) -> None:
        self._llm = llm
        self._shared = shared
        self.asleep = False

    def give_up(self) -> None:
        """Drops weights and cache."""
        if not self._shared or self.asleep:
            return
        # Level 1 would copy the weights to pinned memory of the host, one copy per engine of a
        # node, and the next load would overwrite them unread.
        self._llm.sleep(level=2)
        self.asleep = True

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """Loads weights inside: their memory is there at the start, the cache only at the end.

        A load needs workspace, and the cache is most of what an engine holds.
        """
        if self.asleep:
            self._llm.wake_up(tags=["weights"])
        yield
        if self.asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self.asleep = False
