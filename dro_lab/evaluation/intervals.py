"""Means over held-out rows, with bootstrap intervals that resample rows.

Samples of one row are not independent, so the row is the unit that is resampled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

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
    interval = stats.bootstrap(
        (finite,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(metric=metric, value=mean, low=float(interval.low), high=float(interval.high), n=int(finite.size))
