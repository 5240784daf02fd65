"""Means over held-out rows, with bootstrap intervals that resample rows.

Samples of one row are not independent, so the row is the unit that is resampled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dro_lab.record.summary import Estimate

FloatArray = NDArray[np.float64]


def mean_over_rows(metric: str, per_row: FloatArray, *, confidence: float, resamples: int, seed: int) -> Estimate:
    """Mean of one number per row with a percentile bootstrap interval over rows.

    ``low`` and ``high`` are nan where fewer than two rows could be judged; ``n`` counts the rows that could.

    Args:
        metric: name of what is measured.
        per_row: shape (rows,); nan rows are left out (and out of ``n``).
        confidence: e.g. 0.9.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    finite = per_row[np.isfinite(per_row)]
    if finite.size == 0:
        return Estimate(metric=metric, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    mean = float(finite.mean())
    if finite.size == 1:
        return Estimate(metric=metric, value=mean, low=float("nan"), high=float("nan"), n=1)
    drawn = np.random.default_rng(seed).integers(0, finite.size, (resamples, finite.size))
    low, high = _ends(finite[drawn].mean(axis=-1), confidence)
    return Estimate(metric=metric, value=mean, low=low, high=high, n=int(finite.size))


def _ends(means: FloatArray, confidence: float) -> tuple[float, float]:
    """The quantiles that leave equal shares outside, linear between the sorted means.

    This is `scipy.stats.bootstrap` with ``method="percentile"``, to the last digit: importing that takes a third of a
    second before a run's first step.
    """
    tail = (1 - confidence) / 2
    ordered, ends = np.sort(means), []
    for share in (tail, 1 - tail):
        place = share * ordered.size + (1 - share)  # counted from one
        below, part = int(place // 1) - 1, place % 1
        above = min(below + 1, ordered.size - 1)
        ends.append(float((1 - part) * ordered[below] + part * ordered[above]))
    return ends[0], ends[1]
