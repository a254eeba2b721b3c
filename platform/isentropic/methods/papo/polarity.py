"""The reweight slot of PAPO (arXiv:2605.11775): token advantages weighted by entropy polarity.

One update at a token changes the entropy of its state by eta * P + O(eta^2), where

    P = A * T,    T = - p_k (log p_k + H) + sum_j p_j^2 (log p_j + H) = - sensitivity

[source] abstract: a signed token quantity that predicts expansion or contraction of the entropy;
both branches are kept, and control works by reweighting advantages, with the entropy trajectory as
phase signal.
[derived] the formula of T, exact to first order; one number per token from the old-policy pass.
[reconstructed] the weights and the signal (`phase.py`): we could not get the paper's text. Each is
a config value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.columns import cut, join
from isentropic.methods.papo.phase import Phase, PhaseConfig
from isentropic.records import Floats, Sample

WEIGHTS = ("branch", "smooth")
HISTORY = 50  # steps that the rank correlation of predicted and measured change looks back on


def polarity_weights(
    polarity: Floats, u: float, *, alpha: float, delta: float, kind: str
) -> Floats:
    """Weights of the two branches ([reconstructed]); alpha < 1 keeps every sign.

        branch   w = 1 + alpha u where P > delta, 1 - alpha u where P < -delta, else 1
        smooth   w = 1 + alpha u tanh(P / rms(P))

    So d(first-order entropy change)/du = eta alpha sum |P| >= 0: a larger u always means more
    entropy.

    Args:
        polarity: [N] P over the whole batch.
        u: phase signal in [-1, 1].
    """
    polarity = np.asarray(polarity, dtype=np.float64)
    if kind == "smooth":
        rms = np.sqrt(np.mean(polarity**2)) if polarity.size else 0.0
        return 1 + alpha * u * np.tanh(polarity / rms) if rms > 0 else np.ones_like(polarity)
    branch = (polarity > delta).astype(np.float64) - (polarity < -delta)
    return 1 + alpha * u * branch


@dataclass(frozen=True, kw_only=True)
class PolarityConfig(PhaseConfig):
    """Settings of the slot; their values live in conf/method/papo.yaml under `papo`."""

    name: str
    alpha: float  # strength; 0 is the base method, bit for bit
    delta: float  # |P| up to this belongs to no branch
    weight: str  # branch | smooth
    renorm: bool  # keep the batch's sum of |A|

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            "papo.alpha",
            self.alpha,
            at_least=0,
            below=1,
            hint="At 1 a branch would vanish; both must be kept.",
        )
        check_range("papo.delta", self.delta, at_least=0)
        check_choice("papo.weight", self.weight, WEIGHTS)

    def build(self) -> "Polarity":
        return Polarity(self)


class Polarity:
    """The slot itself. It goes with any objective: w > 0 changes no sign and no clip region."""

    def __init__(self, config: PolarityConfig) -> None:
        self.config = config
        self.phase = Phase(config)
        # Entropy, and the change predicted for the step that followed.
        self._last: tuple[float, float] | None = None
        self._pairs: list[tuple[float, float]] = []  # predicted, measured

    def weigh(
        self, samples: Sequence[Sample], entropy_mean: float
    ) -> tuple[list[Sample], dict[str, float]]:
        """Samples with `advantage` w * A, the same objects if nothing changes (`slots.Reweight`).

        Teacher tokens are weighted like all others: P uses whichever A and T a token carries
        ([reconstructed]).
        """
        config = self.config
        advantage = join([sample.advantage for sample in samples]).astype(np.float64)
        # T of the paper, with the sign of its A T
        sensitivity = -join([sample.old.sensitivity for sample in samples]).astype(np.float64)
        polarity = advantage * sensitivity
        expand, contract = _flows(polarity, config.delta)
        u = self.phase.advance(entropy_mean, expand, contract)
        weight = polarity_weights(
            polarity, u, alpha=config.alpha, delta=config.delta, kind=config.weight
        )
        weighted = weight * advantage
        if config.renorm and np.abs(weighted).sum() > 0:
            weighted *= np.abs(advantage).sum() / np.abs(weighted).sum()
        same = not samples or config.alpha == 0 or u == 0
        out = list(samples) if same else _with_advantages(samples, weighted)
        metrics = self._flow_metrics(advantage, sensitivity, weight)
        metrics |= self._trajectory_metrics(entropy_mean, u, float((weighted * sensitivity).sum()))
        if advantage.any():
            metrics["papo/advantage_scale"] = float(
                np.abs(weighted).sum() / np.abs(advantage).sum()
            )
        return out, {key: value for key, value in metrics.items() if np.isfinite(value)}

    def _flow_metrics(
        self, advantage: Floats, sensitivity: Floats, weight: Floats
    ) -> dict[str, float]:
        """Flows and shares of the batch's tokens; the flows are over all P > 0 and P < 0."""
        polarity = advantage * sensitivity
        expand, contract = _flows(polarity)
        up, down = polarity > self.config.delta, polarity < -self.config.delta
        positive, negative = advantage > 0, advantage < 0
        return {
            "papo/expand_flow": expand,
            "papo/contract_flow": contract,
            "papo/net_flow": expand - contract,
            "papo/expand_frac": _mean(up),
            "papo/contract_frac": _mean(down),
            "papo/pos_expand_frac": _mean(up[positive]),
            "papo/pos_contract_frac": _mean(down[positive]),
            "papo/neg_expand_frac": _mean(up[negative]),
            "papo/neg_contract_frac": _mean(down[negative]),
            "papo/expand_weight": _mean(weight[up]),
            "papo/contract_weight": _mean(weight[down]),
            "papo/sensitivity_mean": _mean(sensitivity),  # of T
        }

    def _trajectory_metrics(
        self, entropy_mean: float, u: float, predicted: float
    ) -> dict[str, float]:
        """Entropy, signal, and how well the last step's sum of w P ranked the change that came."""
        metrics = {
            "papo/u": u,
            "papo/entropy": float(entropy_mean),
            "papo/entropy_smoothed": _or_nan(self.phase.smoothed),
            "papo/entropy_reference": _or_nan(self.phase.h_ref),
            "papo/predicted_change": predicted,  # per unit of eta
        }
        if self._last is not None and np.isfinite(entropy_mean):
            measured = float(entropy_mean) - self._last[0]
            self._pairs = [*self._pairs, (self._last[1], measured)][-HISTORY:]
            metrics["papo/measured_change"] = measured  # what the step before brought
            metrics["papo/change_rank_correlation"] = rank_correlation(self._pairs)
        self._last = (float(entropy_mean), predicted) if np.isfinite(entropy_mean) else None
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The state as numbers and lists only."""
        last = None if self._last is None else list(self._last)
        return {
            "phase": self.phase.state_dict(),
            "last": last,
            "pairs": [list(pair) for pair in self._pairs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.phase.load_state_dict(state["phase"])
        self._last = None if state["last"] is None else tuple(state["last"])
        self._pairs = [tuple(pair) for pair in state["pairs"]]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation of (predicted, measured); NaN for fewer than three pairs."""
    if len(pairs) < 3:
        return float("nan")
    ranks = np.argsort(np.argsort(np.asarray(pairs), axis=0, kind="stable"), axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])


def _with_advantages(samples: Sequence[Sample], weighted: Floats) -> list[Sample]:
    """The flat [N] advantages cut back into the samples, in each sample's own type."""
    parts = cut(weighted, [len(sample.advantage) for sample in samples])
    return [
        replace(sample, advantage=part.astype(sample.advantage.dtype))
        for sample, part in zip(samples, parts, strict=True)
    ]


def _flows(polarity: Floats, delta: float = 0.0) -> tuple[float, float]:
    """F+ and F-: sums of |P| over the expanding and the contracting tokens, those beyond delta."""
    return float(polarity[polarity > delta].sum()), float(-polarity[polarity < -delta].sum())


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
