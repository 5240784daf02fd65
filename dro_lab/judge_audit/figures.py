"""Shares with their intervals: what every part of the audit comes to."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One share. ``n`` counts what could be judged, ``unknown`` what the judge did not decide (not in ``n``)."""

    part: str
    name: str
    value: float
    low: float
    high: float
    n: int
    unknown: int = 0


def share(part: str, name: str, hits: Sequence[bool], *, unknown: int = 0, confidence: float) -> Figure:
    """The share of True with Wilson's interval (scipy's binomtest): for independent yes/no outcomes, one a row."""
    n = len(hits)
    if not n:
        return Figure(part=part, name=name, value=math.nan, low=math.nan, high=math.nan, n=0, unknown=unknown)
    interval = binomtest(sum(hits), n).proportion_ci(confidence_level=confidence, method="wilson")
    return Figure(
        part=part,
        name=name,
        value=sum(hits) / n,
        low=float(interval.low),
        high=float(interval.high),
        n=n,
        unknown=unknown,
    )


def clustered_mean(
    part: str,
    name: str,
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    unknown: int = 0,
    confidence: float,
    resamples: int,
    seed: int,
) -> Figure:
    """The mean with a percentile bootstrap that resamples whole clusters (all judgements on one query together).

    nan values are left out and counted as unknown. Below two clusters there is no interval.
    """
    kept = [(value, cluster) for value, cluster in zip(values, clusters, strict=True) if not math.isnan(value)]
    unknown += len(values) - len(kept)
    if not kept:
        return Figure(part=part, name=name, value=math.nan, low=math.nan, high=math.nan, n=0, unknown=unknown)
    order = {cluster: number for number, cluster in enumerate(dict.fromkeys(cluster for _, cluster in kept))}
    sums, counts = np.zeros(len(order)), np.zeros(len(order))
    for value, cluster in kept:
        sums[order[cluster]] += value
        counts[order[cluster]] += 1
    low = high = math.nan
    if len(order) > 1:
        drawn = np.random.default_rng(seed).integers(len(order), size=(resamples, len(order)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        low, high = (float(bound) for bound in np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return Figure(
        part=part,
        name=name,
        value=float(sums.sum() / counts.sum()),
        low=low,
        high=high,
        n=len(kept),
        unknown=unknown,
    )
