"""The probe: a few rollouts sampled right after each sync. Do the engines have the weights?"""

from collections.abc import Mapping, Sequence

import numpy as np

from isentropic.records import Rollout, RolloutKey, TokenScores


def probe_gap(probe: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores]) -> float:
    """Largest |engine's logprob - learner's| of a token, in nats; NaN if nothing was sampled."""
    gaps = [
        np.abs(rollout.rollout_logprob - scores[rollout.key].logprob).max() for rollout in probe
    ]
    return float(max(gaps)) if gaps else float("nan")


def check_probe(
    probe: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores], tolerance: float
) -> None:
    """Raises RuntimeError if engines and learner are over `tolerance` nats apart on any token."""
    gap = probe_gap(probe, scores)
    if gap > tolerance:
        raise RuntimeError(
            f"after the last sync the engines' logprobs are {gap:.3g} nats off the learner's on "
            f"the same tokens; rollout.probe_tolerance={tolerance:g} is allowed. Either the "
            "weights did not arrive whole, or the two compute in different precision: compare "
            "rollout.dtype with learner.dtype before raising the limit."
        )
