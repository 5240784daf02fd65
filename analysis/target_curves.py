"""One run's way to a target: smoothing, the step that reaches it, and the level that a baseline sets.

A curve is a run's evaluations ``(step, value)``. It is smoothed by a trailing mean over ``window`` evaluations; the
run reaches the target at the first step whose smoothed value is at least the target. A run that never does is
*censored*: it enters medians as "later than the last step", it is neither dropped nor imputed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import CENSORED

Curve = Sequence[tuple[int, float]]


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
