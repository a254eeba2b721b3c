"""The law of entropy and reward, R = -a exp(H) + b (arXiv:2505.22617), fitted and put to the test.

R is a held-out score in 0..1 on a fixed set, H the mean token entropy of the policy at the same
step, in nats. The model is linear in x = exp(H), so least squares gives it in closed form. The
paper does not say how it fits: the smoothing, the intervals and the refusals here are ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 8  # points
LEAST_RANGE = 0.05  # of exp(H): within less a and b cannot be separated
TIED = 0.9  # the most that neighbouring points count as correlated
FORECAST_SHARE = 0.15  # the first part of the points, on which a forecast is fitted


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fitted law.

    Errors are standard errors, as if points were independent. Intervals are at 90 %, by Student's t, with as
    many points as the correlation of neighbouring ones leaves: of 60 points or more, or of three
    runs of six, they cover the truth in 86 to 97 % of cases, of a dozen that are tied by a half in 80
    (tests/metrics/test_law.py).
    """

    a: float
    b: float
    a_error: float
    b_error: float
    ceiling_error: float  # far below those of a and b where H is small: there they move together
    a_interval: tuple[float, float]
    ceiling_interval: tuple[float, float]
    r2: float
    rmse: float
    count: int
    entropy_range: tuple[float, float]

    @property
    def ceiling(self) -> float:
        """Score at H = 0."""
        return self.b - self.a

    def predict(self, entropy: Sequence[float]) -> NDArray[np.float64]:
        """Computes the scores at entropies in nats."""
        return self.b - self.a * np.exp(np.asarray(entropy, dtype=np.float64))


def fit(
    entropy: Sequence[float],
    score: Sequence[float],
    *,
    score_error: float = 0.0,
    lengths: Sequence[int] | None = None,
) -> Law | str:
    """Fits the law to the points of a run, or several; returns a sentence if they do not carry one.

    Args:
        entropy: [n] nats per token, averaged over the steps since the evaluation before.
        score: [n] held-out scores, always on the same set.
        score_error: noise of one score, by which it would differ if nothing were learned.
        lengths: points of each run, which stand one after the other; None: all are of one.
    """
    x = np.exp(np.asarray(entropy, dtype=np.float64))
    y = np.asarray(score, dtype=np.float64)
    if len(x) < FEWEST:
        return f"{len(x)} points with an evaluation; {FEWEST} are needed"
    if np.ptp(x) < LEAST_RANGE:
        return f"exp(H) moved by {np.ptp(x):.3g} only; {LEAST_RANGE:g} is needed"
    if np.ptp(y) <= 1e-9 * np.abs(y).max():
        return f"the score did not move from {y[0]:.3g}"
    if np.std(y) < 2 * score_error:
        return (
            f"the scores have a standard deviation of {np.std(y):.3g}, less than twice the noise of "
            f"one of them ({score_error:.3g})"
        )
    a, b = line(x, y)
    if a <= 0:
        return f"the law does not hold: the score falls as the entropy does (a = {a:.3g})"
    a_error, ceiling_error = slope_error(x, y, a, b), value_error(x, y, a, b, at=1.0)
    tie = _tie(y - b + a * x, lengths or [len(x)])
    fewer = (1 + tie) / (1 - tie)  # so many tied points tell as much as one that is not
    reach = _students_t(max(len(x) / fewer - 2, 1)) * math.sqrt(fewer)
    return Law(
        a=a,
        b=b,
        a_error=a_error,
        b_error=value_error(x, y, a, b, at=0.0),
        ceiling_error=ceiling_error,
        a_interval=(a - reach * a_error, a + reach * a_error),
        ceiling_interval=(b - a - reach * ceiling_error, b - a + reach * ceiling_error),
        r2=1 - float(((y - b + a * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        rmse=float(np.sqrt(((y - b + a * x) ** 2).mean())),
        count=len(x),
        entropy_range=(float(min(entropy)), float(max(entropy))),
    )


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Fits y = b - a x by least squares; returns (a, b)."""
    a = -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return a, float(y.mean() + a * x.mean())


def slope_error(x: NDArray[np.float64], y: NDArray[np.float64], a: float, b: float) -> float:
    """Computes the standard error of a, n - 2 degrees of freedom, as if points were independent."""
    residual = ((y - b + a * x) ** 2).sum() / (len(x) - 2)
    return float(math.sqrt(residual / ((x - x.mean()) ** 2).sum()))


def value_error(
    x: NDArray[np.float64], y: NDArray[np.float64], a: float, b: float, *, at: float
) -> float:
    """Computes the standard error of the fitted line at x = `at`: of b at 0, of b - a at 1."""
    spread = ((x - x.mean()) ** 2).sum()
    return slope_error(x, y, a, b) * float(math.sqrt(spread / len(x) + (at - x.mean()) ** 2))


def _tie(rest: NDArray[np.float64], lengths: Sequence[int]) -> float:
    """Estimates the correlation of neighbouring residuals within a run, 0 at least.

    What the estimate lacks in short runs, (1 + 3 r) / n to first order, is added.
    """
    parts = np.split(rest, np.cumsum(lengths)[:-1])
    pairs = sum(len(part) - 1 for part in parts)
    square = float((rest**2).mean())
    if pairs < 1 or square == 0:
        return 0.0
    tie = sum(float((part[:-1] * part[1:]).sum()) for part in parts) / pairs / square
    return min(max(tie, 0.0) + (1 + 3 * max(tie, 0.0)) * len(parts) / len(rest), TIED)


def _students_t(freedom: float) -> float:
    """Returns the 95 % quantile of Student's t: 5 % lie above it, and 5 % below its negative."""
    # Takes half a second, and most who import this module fit nothing.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.95))


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Root mean square errors of the law and of two rivals, on points that no fit has seen."""

    law: float
    logarithm: float  # score linear in log(1 + step)
    last: float  # score stays as it is
    count: int  # points that were fitted


def forecast(
    steps: Sequence[int], entropy: Sequence[float], score: Sequence[float]
) -> Forecast | str:
    """Measures how well a fit on the first points predicts the others.

    A high r2 says only that both curves are monotone. Returns a sentence if the points are too few.
    """
    count = max(3, math.ceil(FORECAST_SHARE * len(score)))
    if len(score) - count < 3:
        return f"{len(score)} points are too few to fit {count} and forecast the rest"
    x = np.exp(np.asarray(entropy, dtype=np.float64))
    time = np.log1p(np.asarray(steps, dtype=np.float64))
    y = np.asarray(score, dtype=np.float64)
    if np.ptp(x[:count]) == 0 or np.ptp(time[:count]) == 0:
        return "the first points are all alike"
    predictions: dict[str, Callable[[], NDArray[np.float64]]] = {
        "law": lambda: _extrapolated(x, y, count),
        "logarithm": lambda: _extrapolated(time, y, count),
        "last": lambda: np.full(len(y) - count, y[count - 1]),
    }
    errors = {
        name: float(np.sqrt(((predict() - y[count:]) ** 2).mean()))
        for name, predict in predictions.items()
    }
    return Forecast(**errors, count=count)


def _extrapolated(
    x: NDArray[np.float64], y: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    a, b = line(x[:count], y[:count])
    return b - a * x[count:]


def gaps(law: Law, entropy: Sequence[float], score: Sequence[float]) -> NDArray[np.float64]:
    """Returns [m] score beyond the law at equal entropy, of the points inside the law's range.

    Above 0, the score rose without paying entropy; at 0, the run only moved along the curve.
    """
    h = np.asarray(entropy, dtype=np.float64)
    low, high = law.entropy_range
    inside = (h >= low) & (h <= high)
    return np.asarray(score, dtype=np.float64)[inside] - law.predict(h[inside])
