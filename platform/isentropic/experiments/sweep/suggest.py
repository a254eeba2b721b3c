"""Which runs a search makes, and which of them it ends early; optuna decides both.

What is decided about a run depends on the search's seed, the run's number, and how all earlier
batches ended: not on which run of its own batch was faster. So a search makes the same runs on any
number of lanes, and again after it was killed.
"""

import importlib.util
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any

from isentropic.checks import check_choice, check_range, nearest
from isentropic.experiments.settings.overrides import as_typed
from isentropic.experiments.sweep.draws import as_text, check_ranges, in_short, whole

if TYPE_CHECKING:
    import optuna

REQUIRED = ("metric", "goal", "count", "keys")
VALUES = ("last", "best", "average")


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving, asynchronous (ASHA, arXiv:1810.05934).

    At step `first`, and again at each `factor` times as many steps, a run goes on if it is among
    the best 1/factor of those that came as far, itself among them.
    """

    first: int
    factor: int

    def __post_init__(self) -> None:
        check_range("search.halving.first", whole(self.first), at_least=1)
        check_range("search.halving.factor", whole(self.factor), at_least=2)


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The `search` part of a sweep's YAML."""

    metric: str  # of metrics.jsonl
    goal: str  # max | min
    count: int  # runs
    keys: Mapping[str, Any]  # key -> [low, high], {log: [low, high]} or {choice: [...]}
    value: str = "last"  # which number of a run's curve counts: last | best | average
    batch: int = 4  # runs that are suggested at once, from how all earlier batches ended
    sampler: str = "tpe"  # tpe: tree-structured Parzen estimator; random
    startup: int = 8  # runs that are random before tpe has something to learn from
    seed: int = 0
    halving: Halving | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(
                f"search.metric must be a key of metrics.jsonl, such as eval/avg_at_k; got "
                f"{self.metric!r}."
            )
        check_choice("search.goal", self.goal, ("max", "min"))
        check_choice("search.value", self.value, VALUES)
        check_choice("search.sampler", self.sampler, ("tpe", "random"))
        check_range("search.count", whole(self.count), at_least=1)
        check_range("search.batch", whole(self.batch), at_least=1)
        check_range("search.startup", whole(self.startup), at_least=0)
        check_range("search.seed", whole(self.seed), at_least=0)
        if not isinstance(self.keys, Mapping):
            raise ValueError(f"search.keys must be keys with ranges, got {self.keys!r}.")
        check_ranges("search.keys", self.keys)
        if all(len(_choices(range_) or "ab") == 1 for range_ in self.keys.values()):
            raise ValueError(
                "the search's space is empty: search.keys has no key with more than one value. "
                "Give one a range: 'objective.beta1: [0, 1]'."
            )

    def number_of(self, curve: Mapping[int, float]) -> float:
        """Return the number that a run is judged by: of its metric by step, which is not empty."""
        numbers = list(curve.values())
        best = max(numbers) if self.goal == "max" else min(numbers)
        return {"last": numbers[-1], "best": best, "average": fmean(numbers)}[self.value]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a suggested run ended.

    Attributes:
        point: what was suggested.
        curve: step -> metric; empty if the run failed.
        was_pruned: the search itself ended it.
    """

    point: Mapping[str, Any]
    curve: Mapping[int, float]
    was_pruned: bool = False


def search_of(given: Any) -> SearchPlan | None:
    """Check a preset's `search` part. Raises ValueError for what cannot be searched."""
    if given is None:
        return None
    known = [field.name for field in fields(SearchPlan)]
    if not isinstance(given, Mapping) or any(key not in given for key in REQUIRED):
        raise ValueError(f"the sweep's search needs {', '.join(REQUIRED)}; got {given!r}.")
    for key in given:
        if key not in known:
            raise ValueError(
                f"search.{key} is no key of a search.{nearest(str(key), known)} It may have "
                f"{', '.join(known)}."
            )
    halving = given.get("halving")
    if halving is not None and (
        not isinstance(halving, Mapping) or set(halving) != {"first", "factor"}
    ):
        raise ValueError(
            f"search.halving must be {{first: <step>, factor: <number>}} or null, got {halving!r}."
        )
    if importlib.util.find_spec("optuna") is None:
        raise ValueError(
            "a search needs optuna, which is not installed here: pip install 'isentropic[search]'."
        )
    return SearchPlan(**dict(given) | {"halving": halving and Halving(**halving)})


def suggest(
    plan: SearchPlan, past: Sequence[Outcome], beside: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the next point.

    Args:
        past: how the runs of all earlier batches ended, in their order.
        beside: the points of its own batch before it.
    """
    study = _study(plan, past, number=len(past) + len(beside))
    for point in beside:
        study.enqueue_trial(dict(point))
        study.ask(_distributions(plan))
    return dict(study.ask(_distributions(plan)).params)


def overrides_of_point(plan: SearchPlan, point: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the overrides that a point stands for."""
    return tuple(
        as_typed(
            [f"{key}={point[key] if _choices(range_) else in_short(point[key], *_bounds(range_))}"]
        )[0]
        for key, range_ in plan.keys.items()
    )


def extremes(plan: SearchPlan) -> list[dict[str, Any]]:
    """Return few points that have every choice, and both ends of every range."""
    ends = {key: _choices(range_) or _bounds(range_) for key, range_ in plan.keys.items()}
    most = max(len(values) for values in ends.values())
    return [
        {key: values[min(index, len(values) - 1)] for key, values in ends.items()}
        for index in range(most)
    ]


class Judge:
    """Decides, step by step, whether a run may go on, by how the runs of earlier batches did."""

    def __init__(self, plan: SearchPlan, past: Sequence[Outcome], point: Mapping[str, Any]) -> None:
        self._trial = None
        if plan.halving is not None:
            study = _study(plan, past, number=0)
            study.enqueue_trial(dict(point))
            self._trial = study.ask(_distributions(plan))

    def ends(self, step: int, value: float) -> bool:
        """Return True if the run should end after this step."""
        if self._trial is None:
            return False
        self._trial.report(value, step)
        return self._trial.should_prune()


def _study(plan: SearchPlan, past: Sequence[Outcome], *, number: int) -> "optuna.Study":
    """Make a study that knows how earlier runs ended, with a sampler for the run of this number."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = random.Random(f"{plan.seed} {number}").getrandbits(32)
    samplers = optuna.samplers
    sampler = (
        samplers.TPESampler(seed=seed, n_startup_trials=plan.startup)
        if plan.sampler == "tpe"
        else samplers.RandomSampler(seed=seed)
    )
    study = _empty(plan, sampler)
    for outcome in past:
        study.add_trial(_ended(plan, outcome))
    return study


def _empty(plan: SearchPlan, sampler: Any = None) -> "optuna.Study":
    import optuna

    halving = plan.halving
    pruner = (
        optuna.pruners.NopPruner()
        if halving is None
        else optuna.pruners.SuccessiveHalvingPruner(halving.first, halving.factor)
    )
    direction = "maximize" if plan.goal == "max" else "minimize"
    return optuna.create_study(direction=direction, sampler=sampler, pruner=pruner)


def _ended(plan: SearchPlan, outcome: Outcome) -> "optuna.trial.FrozenTrial":
    """Return optuna's record of a run that ended.

    What its pruner notes about a run, it notes here while the curve is shown to it by itself: which
    runs have been compared with it meanwhile must not matter.
    """
    import optuna

    alone = _empty(plan)
    trial = alone.ask()
    for step, value in outcome.curve.items():
        trial.report(value, step)
        trial.should_prune()
    states = optuna.trial.TrialState
    state = states.PRUNED if outcome.was_pruned else states.COMPLETE
    return optuna.trial.create_trial(
        state=state if outcome.curve else states.FAIL,
        value=plan.number_of(outcome.curve) if outcome.curve else None,
        params=dict(outcome.point),
        distributions=_distributions(plan),
        intermediate_values=dict(outcome.curve),
        system_attrs=alone.trials[0].system_attrs,
    )


def _distributions(plan: SearchPlan) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        key: CategoricalDistribution(choices)
        if (choices := _choices(range_))
        else FloatDistribution(*_bounds(range_), log=isinstance(range_, Mapping))
        for key, range_ in plan.keys.items()
    }


def _choices(range_: Any) -> list[str]:
    """Return what a key may be, as Hydra's command line has it; [] for a range of numbers."""
    choices = range_.get("choice", []) if isinstance(range_, Mapping) else []
    return list(dict.fromkeys(map(as_text, choices)))


def _bounds(range_: Any) -> list[float]:
    return [float(bound) for bound in (range_["log"] if isinstance(range_, Mapping) else range_)]
