"""NLL on correct responses (Klear-Reasoner, arXiv:2508.07629, Eq. 14)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from isentropic.objectives.loss.schedule import check_coefficient
from isentropic.objectives.terms.term import Term


@dataclass(frozen=True, kw_only=True)
class NllTerm(Term):
    """coef * mean of -logprob over the tokens of right responses (`records.is_right`)."""

    weight = "nll_weight"

    def __post_init__(self) -> None:
        check_coefficient("terms.nll.coef", self.coef, at_least=0)

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """[N] -logprob in nats."""
        return -fields["logprob"]

    def logged(self, value: Tensor, coefficient: float) -> None:
        """Log nothing: the mean over all tokens would not be that over the correct responses."""
