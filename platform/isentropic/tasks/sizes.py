"""Bounds of how many prompts a made task has."""

from isentropic.checks import check_range

MOST = 100_000_000


def check_sizes(train_size: int, eval_size: int) -> None:
    """Raise ValueError for a size that no run can go through: each prompt is checked at the start."""
    for key, size in (("train_size", train_size), ("eval_size", eval_size)):
        check_range(
            f"task.{key}",
            size,
            at_least=1,
            at_most=MOST,
            hint="All prompts are checked before a run: thousands are enough.",
        )
