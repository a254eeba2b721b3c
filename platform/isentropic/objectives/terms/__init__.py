"""Losses added to the policy's.

A new one is a file with its class, a line in TermsConfig, a preset, a test.
"""

from dataclasses import dataclass, fields

from isentropic.objectives.terms.entropy_bonus import AdaptiveEntropyConfig, EntropyBonusTerm
from isentropic.objectives.terms.kl import KlTerm
from isentropic.objectives.terms.nll import NllTerm
from isentropic.objectives.terms.term import Term


@dataclass(frozen=True, kw_only=True)
class TermsConfig:
    """The terms that are on, several at once if need be; an absent one is off."""

    name: str  # of the preset that was chosen
    kl: KlTerm | None = None
    entropy_bonus: EntropyBonusTerm | None = None
    nll: NllTerm | None = None

    def on(self) -> dict[str, Term]:
        """The terms that are on, by name."""
        terms = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: term for name, term in terms.items() if isinstance(term, Term)}

    def at(self, step: int) -> dict[str, float]:
        """Coefficients of the terms that are on, at `step` (from 1)."""
        return {name: term.at(step) for name, term in self.on().items()}

    @property
    def adaptive_entropy(self) -> AdaptiveEntropyConfig | None:
        """The rule of the entropy bonus, if it has one."""
        return self.entropy_bonus.adaptive if self.entropy_bonus is not None else None


__all__ = [
    "AdaptiveEntropyConfig",
    "EntropyBonusTerm",
    "KlTerm",
    "NllTerm",
    "Term",
    "TermsConfig",
]
