"""What a chosen objective and its terms ask of the learner."""

from collections.abc import Iterator

from isentropic import objectives  # for OBJECTIVES, read when called
from isentropic.checks import check_choice
from isentropic.objectives.loss.objective import Objective, ObjectiveConfig
from isentropic.objectives.terms import TermsConfig

ALWAYS = frozenset({"logprob", "old_logprob", "advantage", "loss_weight"})


def entry(objective: ObjectiveConfig | str) -> Objective:
    """The entry of OBJECTIVES, by config or by name."""
    name = objective if isinstance(objective, str) else objective.name
    check_choice("objective", name, objectives.OBJECTIVES)
    return objectives.OBJECTIVES[name]


def function_fields(objective: ObjectiveConfig | str) -> frozenset[str]:
    """Token fields that the functions of the objective and its bases name."""
    return frozenset(name for layer in _layers(objective) for name in entry(layer).fields)


def required_fields(
    objective: ObjectiveConfig | str, terms: TermsConfig | None = None
) -> frozenset[str]:
    """All [N] tensors that `step_loss` reads, those of the model (logprob, entropy) included."""
    needed = ALWAYS | function_fields(objective)
    if any(layer.ratio == "sequence" for layer in _layers(objective) if not isinstance(layer, str)):
        needed |= {"sequence_id"}
    if terms is not None:
        needed |= {"ref_logprob"} if terms.kl is not None else set()
        needed |= {"entropy"} if terms.entropy_bonus is not None else set()
        needed |= {"nll_weight"} if terms.nll is not None else set()
    return needed


def needs_minibatch(objective: ObjectiveConfig | str) -> bool:
    """Whether the objective takes statistics over a whole minibatch, which no microbatch can give."""
    return any(entry(layer).needs_minibatch for layer in _layers(objective))


def takes_seed(objective: ObjectiveConfig | str) -> bool:
    """Whether the objective draws at random."""
    return any(entry(layer).takes_seed for layer in _layers(objective))


def _layers(objective: ObjectiveConfig | str) -> Iterator[ObjectiveConfig | str]:
    yield objective
    if not isinstance(objective, str):
        yield from objective.bases()
