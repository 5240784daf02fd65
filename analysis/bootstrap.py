"""Bootstrap intervals over seeds and queries: ratios of medians with censoring, and means of crossed samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
CENSORED = math.inf
"""Steps to target of a run that never reached it: later than its last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median steps of the slower over the faster, with a bootstrap interval over seeds.

    ``inf`` means that the numerator's median run never reached the target; nan that neither did.
    """

    value: float
    low: float
    high: float


def resampled(*sizes: int, resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of resamples with replacement, (resamples, size) for each size, drawn independently."""
    highs = np.repeat(sizes, sizes)
    drawn = np.random.default_rng(seed).integers(0, highs, size=(resamples, len(highs)))
    return list(np.split(drawn, np.cumsum(sizes)[:-1], axis=1))


def ratio_of_medians(slow: ArrayLike, fast: ArrayLike, *, confidence: float, resamples: int, seed: int) -> Ratio:
    """``median(slow) / median(fast)`` with a percentile bootstrap interval, seeds of the two resampled independently.

    Args:
        slow, fast: (seeds,) steps to target of each seed; `CENSORED` where it was never reached.
    """
    a, b = np.asarray(slow, dtype=float), np.asarray(fast, dtype=float)
    drawn_a, drawn_b = resampled(len(a), len(b), resamples=resamples, seed=seed)
    return summarised(median(a), median(b), median(a[drawn_a]), median(b[drawn_b]), confidence=confidence)


def summarised(
    slow: FloatArray,
    fast: FloatArray,
    slow_B: FloatArray,
    fast_B: FloatArray,
    *,
    confidence: float,
    undecided_widen: bool = False,
) -> Ratio:
    """The ratio of two medians, its interval from those of the resamples.

    Percentiles are order statistics: interpolating towards infinity would invent numbers. A resample in which neither
    median run reached the target says nothing of the ratio: it is left out, or widens the interval at both ends.
    """
    draws = _divide(slow_B, fast_B)
    nothing = np.isnan(draws)
    if not undecided_widen:
        draws, nothing = draws[~nothing], nothing[~nothing]
    tail = (1 - confidence) / 2
    return Ratio(
        value=float(_divide(slow, fast)),
        low=_order(np.sort(np.where(nothing, 0.0, draws)), tail),
        high=_order(np.sort(np.where(nothing, np.inf, draws)), 1 - tail),
    )


def median(values: FloatArray) -> FloatArray:
    """The median along the last axis, where infinity sorts last; between a number and infinity it is infinity."""
    ordered = np.sort(values, axis=-1)
    middle = ordered.shape[-1] // 2
    high = ordered[..., middle]
    if ordered.shape[-1] % 2:
        return high
    low = ordered[..., middle - 1]
    return np.where(np.isinf(high), high, (low + np.where(np.isinf(high), 0.0, high)) / 2)


def crossed_mean(
    values: FloatArray, *, over: Sequence[int], confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean of a crossed sample (seeds by queries, say), with an interval that resamples each of the axes ``over``.

    Each axis is resampled with replacement, independently: a resample's mean weighs every cell by the product of how
    often its row and its column were drawn. Cells without a value (nan) weigh nothing. An axis of length 1 cannot be
    resampled: its share of the uncertainty is not in the interval.

    Returns:
        value, low, high; nan bounds where no axis can be resampled.

    Source: Owen 2007, The pigeonhole bootstrap (arXiv 0712.1111).
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    axes = [axis for axis in over if values.shape[axis] > 1]
    if not known.any():
        return math.nan, math.nan, math.nan
    mean = float(filled.sum() / known.sum())
    if not axes:
        return mean, math.nan, math.nan
    rng = np.random.default_rng(seed)
    weights = [
        rng.multinomial(size, np.full(size, 1 / size), size=resamples)
        if axis in axes
        else np.ones((resamples, size), dtype=int)
        for axis, size in enumerate(values.shape)
    ]
    letters = "ijklm"[: values.ndim]
    products = ",".join(f"b{letter}" for letter in letters) + f",{letters}->b"
    total, count = (np.einsum(products, *weights, part, optimize=True) for part in (filled, known.astype(float)))
    draws = total[count > 0] / count[count > 0]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return mean, float(low), float(high)


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """inf / inf and 0 / 0 are nan: neither median run says how much."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float)


def _order(ordered: FloatArray, share: float) -> float:
    if len(ordered) == 0:
        return math.nan
    return float(ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))])
