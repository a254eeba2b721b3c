"""What a chosen objective and its terms ask of the learner."""

from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.terms import TermsConfig

ALWAYS = frozenset({"logprob", "old_logprob", "advantage", "loss_weight"})


def required_fields(objective: ObjectiveConfig, terms: TermsConfig | None = None) -> frozenset[str]:
    """Name all [N] tensors that `step_loss` reads, the model's logprob and entropy included."""
    needed = ALWAYS | objective.token_fields
    if objective.ratio == "sequence":
        needed |= {"sequence_id"}
    for term in terms.on().values() if terms is not None else ():
        needed |= term.needs | {term.weight}
    return needed


def needs_reference(objective: ObjectiveConfig, terms: TermsConfig) -> bool:
    """Return True if the loss reads `ref_logprob`: the learner then keeps the frozen initial model."""
    return "ref_logprob" in required_fields(objective, terms)
