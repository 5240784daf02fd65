"""pass@k: the chance that at least one of k sampled answers is right, unbiased from n >= k samples."""

from __future__ import annotations

import math

import numpy as np

from dro_lab.evaluation.intervals import FloatArray

ROUNDING = 1e-6
"""Slack on the threshold: qualities are float32 means of parts."""


def pass_at_k(quality: FloatArray, k: int, *, threshold: float) -> FloatArray:
    """``1 - C(n-c, k) / C(n, k)`` a row, c = answers of its n with ``quality >= threshold``; nan where a quality is.

    Args:
        quality: shape (rows, samples).
        k: at most the number of samples.
        threshold: quality from which an answer is right.

    Returns:
        Shape (rows,).

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    samples = quality.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= {samples} samples")
    right = (quality >= threshold - ROUNDING).sum(axis=1)
    missed = np.array([math.comb(samples - int(count), k) / math.comb(samples, k) for count in right])
    return np.where(np.isnan(quality).any(axis=1), np.nan, 1.0 - missed)
