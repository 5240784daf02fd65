"""How many steps a reward needs to a target, over seeds, with runs that never get there counted as censored.

A curve is a run's evaluations ``(step, value)``. It is smoothed by a trailing mean over ``window`` evaluations; the
run reaches the target at the first step whose smoothed value is at least the target. A run that never does is
*censored*: it enters medians as "later than the last step", it is neither dropped nor imputed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = Sequence[tuple[int, float]]
CENSORED = math.inf


def smoothed(curve: Curve, *, window: int) -> list[tuple[int, float]]:
    """Trailing means over ``window`` evaluations, each at the step of its last evaluation."""
    if window < 1:
        raise ValueError(f"window={window}: must be at least 1")
    points = sorted(curve)
    return [
        (points[i][0], float(np.mean([value for _, value in points[i - window + 1 : i + 1]])))
        for i in range(window - 1, len(points))
    ]


def steps_to_target(curve: Curve, target: float, *, window: int) -> float:
    """The first step whose smoothed value is at least ``target``; `CENSORED` where there is none."""
    return next((float(step) for step, value in smoothed(curve, window=window) if value >= target), CENSORED)


def seed_average(curves: Mapping[int, Curve]) -> list[tuple[int, float]]:
    """The mean over seeds at each step; all seeds must have been evaluated at the same steps.

    Raises:
        ValueError: the evaluation grids differ.
    """
    grids = {tuple(step for step, _ in sorted(curve)) for curve in curves.values()}
    if len(grids) != 1:
        raise ValueError(f"the runs were evaluated at different steps: {sorted(grids)}")
    (steps,) = grids
    values = np.array([[value for _, value in sorted(curve)] for curve in curves.values()])
    return [(step, float(mean)) for step, mean in zip(steps, values.mean(axis=0), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The level to reach, and whether the baseline gained enough for it to mean anything."""

    level: float
    start: float
    minimum_gain: float

    @property
    def valid(self) -> bool:
        return self.level - self.start >= self.minimum_gain


def baseline_target(curves: Mapping[int, Curve], *, window: int, minimum_gain: float) -> Target:
    """The best ``window``-evaluation mean of the baseline's seed-averaged curve."""
    average = seed_average(curves)
    best = max(value for _, value in smoothed(average, window=window))
    return Target(level=best, start=average[0][1], minimum_gain=minimum_gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median steps of the slower over the faster, with a bootstrap interval over seeds.

    ``inf`` means that the numerator's median run never reached the target; nan that neither did.
    """

    value: float
    low: float
    high: float


def ratio_of_medians(
    slow: Sequence[float], fast: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Ratio:
    """``median(slow) / median(fast)``, seeds of the two resampled independently.

    Args:
        slow, fast: steps to target of each seed; `CENSORED` where it was never reached.
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(slow, dtype=float), np.asarray(fast, dtype=float)
    draws = np.array(
        [_divide(_median(rng.choice(a, size=len(a))), _median(rng.choice(b, size=len(b)))) for _ in range(resamples)]
    )
    # percentiles by order statistics: interpolating towards infinity would invent numbers
    finite_or_inf = np.sort(draws[~np.isnan(draws)])
    tail = (1 - confidence) / 2
    low, high = (_order(finite_or_inf, share) for share in (tail, 1 - tail))
    return Ratio(value=_divide(_median(a), _median(b)), low=low, high=high)


def _median(values: NDArray[np.float64]) -> float:
    """The median where infinity sorts last; between a number and infinity it is infinity."""
    ordered = np.sort(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    low, high = float(ordered[middle - 1]), float(ordered[middle])
    return high if math.isinf(high) else (low + high) / 2


def _divide(numerator: float, denominator: float) -> float:
    if math.isinf(denominator):
        return math.nan if math.isinf(numerator) else 0.0
    return numerator / denominator


def _order(ordered: NDArray[np.float64], share: float) -> float:
    if len(ordered) == 0:
        return math.nan
    return float(ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))])
