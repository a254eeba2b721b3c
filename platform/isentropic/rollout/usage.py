"""Adds up what vLLM's scheduler reports after each of its steps."""

from typing import Any

from isentropic.records import Usage


class UsageCounter:
    """A logger of vLLM (`vllm.v1.metrics.loggers.StatLoggerBase`, which takes seconds to import).

    It stands in the place of vLLM's own, which write for Prometheus: these cost more than they
    tell, and nothing reads them.
    """

    def __init__(self) -> None:
        self._usage = Usage()

    def take(self) -> Usage:
        """Returns what has been added up since the last call."""
        usage, self._usage = self._usage, Usage()
        return usage

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Takes the state of the queue and the cache after a step."""
        usage = self._usage
        usage.steps += 1
        usage.cache_use += scheduler_stats.kv_cache_usage
        usage.cache_use_max = max(usage.cache_use_max, scheduler_stats.kv_cache_usage)
        usage.waiting += scheduler_stats.num_waiting_reqs
        usage.waiting_max = max(usage.waiting_max, scheduler_stats.num_waiting_reqs)
        # Absent after a step that gave no token; what it preempted comes with a later one.
        if iteration_stats is not None:
            usage.preemptions += iteration_stats.num_preempted_reqs

    def log(self) -> None:
        """Does nothing: vLLM asks every few seconds for a line in its log."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Does nothing."""
