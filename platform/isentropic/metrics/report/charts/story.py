"""What moved the entropy of a run, in one sentence: by its ledger, else by the drift of classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from isentropic.metrics.classes import LABELS
from isentropic.metrics.report.run_data import RunData

CLASSES = {key: label for key, label in LABELS.items() if key != "zero_adv"}
SIDES = ("low", "high")
EFFECTS = (
    "Nats per token, summed over the measured steps: each class with all that it does through the "
    "optimizer's momentum."
)
NO_LEDGER = (
    "The ledger of this run is off: the drift says only what a step would do if every token's "
    "logits moved freely. accounting.ledger.every=5 accounts for every fifth step in nats, along "
    "the step that the optimizer really made."
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """The books of a run's measured steps, summed, in nats per token.

    A class's effect is its whole one, through the optimizer's momentum, as if the denominator and
    the gradient of the entropy stayed as they were (the impulse view of metrics.ledger). So the
    classes do not add up to the measured change.
    """

    steps: int  # measured ones
    measured: float
    classes: dict[str, float]  # label -> nats
    clipped: float | None  # both sides of the clip

    @property
    def asked(self) -> float:
        """What the classes together ask for."""
        return sum(self.classes.values())


def account(run: RunData, steps: Iterable[int] | None = None) -> Account | None:
    """Sums up the books of all measured steps, or of `steps`; None if there are none."""
    measured = by_step(run, "ledger/measured", steps)
    if not measured:
        return None
    clipped = [by_step(run, f"ledger/impulse/{side}", measured) for side in SIDES]
    return Account(
        steps=len(measured),
        measured=sum(measured.values()),
        classes={
            label: sum(values.values())
            for key, label in CLASSES.items()
            if (values := by_step(run, f"ledger/impulse/{key}", measured))
        },
        clipped=sum(sum(side.values()) for side in clipped) if any(clipped) else None,
    )


def by_step(run: RunData, key: str, steps: Iterable[int] | None = None) -> dict[int, float]:
    """Returns {step: value}, of all steps that have the metric or of those among `steps`."""
    wanted = None if steps is None else set(steps)
    return {step: value for _, step, value in run.curve(key) if wanted is None or step in wanted}


def sentence(runs: Sequence[RunData], steps: Iterable[int] | None = None) -> str:
    """Says how far the entropy went, and who took it there; "" without a run of two steps.

    Of several runs (the seeds of a setting) it is about their mean.

    Args:
        steps: measured steps to sum over, those that runs to compare have in common; None: all.
    """
    moved = _moved(runs)
    if not moved:
        return ""
    wanted = None if steps is None else set(steps)
    books = [found for run in runs if (found := account(run, wanted))]
    classes = _means([found.classes for found in books])
    if not any(classes.values()):
        drift = _drift(runs)
        return f"{moved}; {drift}." if drift else f"{moved}."
    measured, of = books[0].steps, max(len(run.steps) for run in runs)
    where = f"in the {_steps(measured)} that were measured, " if measured < of else ""
    clipped = [found.clipped for found in books if found.clipped is not None]
    carried = f"; clipped tokens carried {nats(fmean(clipped))}" if any(clipped) else ""
    pulls = _pulls(classes, "pulled it down", "pushed it up")
    return f"{moved}; {where}{pulls}{carried}."


def fine_print(run: RunData) -> str:
    """Says what the sentence's numbers are; how to get better ones if the run has no ledger."""
    books = account(run)
    if books is None:
        return NO_LEDGER if _drift([run]) else ""
    return (
        f"{EFFECTS} Together the classes asked for {nats(books.asked)} in {_steps(books.steps)}, "
        f"and {nats(books.measured)} was measured: later steps turn part of an effect back. "
        "PA, NA: advantage above, below 0; HP, LP: high-, low-probability tokens."
    )


def nats(value: float) -> str:
    """Formats a change: '-0.21', '+0.004', with two digits that count."""
    size = abs(value)
    if not size:
        return "0"
    digits = next((place for place in range(2, 7) if size >= 10 ** (1 - place)), 7)
    return f"{value:+.{digits}f}"


def _moved(runs: Sequence[RunData]) -> str:
    curves = [curve for run in runs if len(curve := run.curve("entropy/mean")) > 1]
    if not curves:
        return ""
    first, last = (fmean(curve[end][2] for curve in curves) for end in (0, -1))
    steps = max(curve[-1][1] for curve in curves)
    verb = "fell" if last < first else "rose"
    change = nats(abs(last - first)).lstrip("+")
    seeds = f" (mean of {len(curves)} runs)" if len(curves) > 1 else ""
    return f"Entropy {verb} {change} nats in {_steps(steps)} ({first:.3g} \u2192 {last:.3g}){seeds}"


def _drift(runs: Sequence[RunData]) -> str:
    means = _means(
        [
            {
                label: fmean(values)
                for key, label in CLASSES.items()
                if (values := _values(run, key))
            }
            for run in runs
        ]
    )
    if not any(means.values()):
        return ""
    named = _pulls(means, "asked for less", "asked for more", numbers=False)
    return f"by the drift of free logits {named}"


def _values(run: RunData, key: str) -> list[float]:
    return run.values(f"drift/{key}")


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each label over those that have it."""
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: fmean(part[label] for part in parts if label in part) for label in labels}


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _pulls(parts: Mapping[str, float], down: str, up: str, *, numbers: bool = True) -> str:
    """Returns 'NA&LP and PA&HP pulled it down (-0.21, -0.15), PA&LP pushed it up (+0.06)'."""
    terms = []
    for verb, sign in ((down, -1), (up, 1)):
        side = {label: value for label, value in parts.items() if sign * value > 0}
        ordered = sorted(side, key=lambda label: -abs(side[label]))
        if ordered:
            values = ", ".join(nats(side[label]) for label in ordered)
            terms.append(f"{_listed(ordered)} {verb}" + (f" ({values})" if numbers else ""))
    return ", ".join(terms)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
