"""The probe: a few rollouts sampled right after each sync. Do the engines have the weights?

In float32 the largest gap between engine and learner must be as small as rounding. In bfloat16 one
improbable token may be off by half a nat and mean nothing, so what decides is a mean in which a
token counts as one nat at most. benchmarks/probe.py simulated it, with gaps from student's t with
two degrees of freedom against the embedded model with wrong weights:

                                        max     mean   median   capped mean
    noise of mean 0.01: the largest     35      1.1      0.017       0.075    of 10^6 probes
    noise of mean 0.064                 226     7.1      0.106       0.187    of 10^6 probes
    shifted by one element              9.5     5.2      5.2         0.978    the median of 10^4
    two layers exchanged                12.5    7.3      7.5         0.999
    last layer as training began        8.6     2.9      1.9         0.795
    last layer 30 % of the way back     2.6     0.30     0.07        0.220

With a limit of 0.3 on the capped mean no probe of noise stopped a run, and each of 10^4 probes with
weights shifted, exchanged or of another training did; the largest gap, the plain mean and k3 stop
runs on noise. A layer that is a little old is for the alarm, at 0.1, which noise of mean 0.01 never
raised.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from isentropic.records import Rollout, RolloutKey, TokenScores

CAP = 1.0  # nats: what one token can add
TOKENS = 16  # a shorter probe is measured as if it had so many: two tokens are soon both improbable


def token_gaps(probe: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores]) -> np.ndarray:
    """[N] |engine's logprob - learner's| in nats, of all tokens of the probe."""
    gaps = [np.abs(rollout.rollout_logprob - scores[rollout.key].logprob) for rollout in probe]
    return np.concatenate(gaps) if gaps else np.zeros(0)


def probe_max(gaps: np.ndarray) -> float:
    """Largest gap of a token in nats; NaN if nothing was sampled."""
    return float(gaps.max()) if gaps.size else float("nan")


def probe_gap(gaps: np.ndarray) -> float:
    """Mean gap in nats, a token counting as `CAP` at most; NaN if nothing was sampled."""
    if not gaps.size:
        return float("nan")
    return float(np.minimum(gaps, CAP).sum() / max(gaps.size, TOKENS))


def check_probe(
    probe: Sequence[Rollout],
    scores: Mapping[RolloutKey, TokenScores],
    tolerance: float,
    *,
    exact: bool,
) -> None:
    """Raises RuntimeError if engines and learner are over `tolerance` nats apart, or not numbers.

    Args:
        exact: both compute in float32: any token counts, else `probe_gap`.
    """
    gaps = token_gaps(probe, scores)
    # Without numbers something is wrong however many tokens have some, and no NaN is over a limit.
    single = exact or not np.isfinite(gaps).all()
    gap = probe_max(gaps) if single else probe_gap(gaps)
    if gaps.size and not gap <= tolerance:
        what = "" if single else " in the mean (1 nat a token at most)"
        raise RuntimeError(
            f"after the last sync the engines' logprobs are {gap:.3g} nats off the learner's on "
            f"the same tokens{what}; rollout.probe_tolerance={tolerance:g} is allowed. Either the "
            "weights did not arrive whole, or the two compute in different precision: compare "
            "rollout.dtype with learner.dtype before raising the limit."
        )
