"""Which methods compose by their presets, and why others are refused: by the config's own words."""

from collections.abc import Sequence
from pathlib import Path

from isentropic.experiments.sweep.plan import SweepPlan, compose_trials


def refusals(bases: Sequence[str], additions: Sequence[str]) -> list[dict[str, str | None]]:
    """Compose each pair of presets; `refused` is the message, or null for a pair that composes."""
    return [
        {"base": base, "addition": addition, "refused": _refused(base, addition)}
        for addition in additions
        for base in bases
    ]


def _refused(base: str, addition: str) -> str | None:
    plan = SweepPlan(common=("experiment=ce_gppo_tiny", f"method=[{base},{addition}]"))
    try:
        compose_trials(plan, Path("results"), early_stop=False)
    except ValueError as error:
        return str(error).partition(": ")[2] or str(error)
    return None
