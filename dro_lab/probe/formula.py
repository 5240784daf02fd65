"""The closed formula of how well a reward over reference tokens ranks rollouts, and of the speed that follows.

Pure: numbers and arrays in, numbers and arrays out. Split the reward of rollout i into its reasoning-reflective tokens
R and the rest N, r_i = sum_j w_j p_ij, with sigma_R and sigma_N the mean standard deviation of such a token:

    S_R = std_i( sum_{j in R} p_ij )
    S_N = std_i( sum_{j in N} p_ij ) = sigma_N sqrt(N) coherence      (1: independent; sqrt(N): all move together)
    SNR(omega) = (S_R / S_N) (s sigma_R / sigma_N)^omega              (omega 0: average probability)
    rho(omega) = rho_oracle / sqrt(1 + 1 / SNR(omega)^2)

s is how much the clip band shrinks reflective sigmas against those of the rest; rho is the correlation of the group's
z-scores with quality, rho_oracle that of quality's own z-scores (below 1, since groups differ in spread). The formula
takes every weight as sigma^omega of the group's mean sigma, and reflective tokens as moving together: it does not see
that a large omega follows one of several independent sub-answers. With an adaptive optimiser

    steps(rho) / steps(oracle) = sqrt( (1 + 1 / (rho'^2 g^2)) / (1 + 1 / g^2) ),      rho' = rho / rho_oracle

g is the signal-to-noise ratio of one oracle batch. g = 2.1 at 4 prompts a step is a fit to three settings of one tiny
policy, not a measurement; it grows with the square root of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

SHRINK = 0.8
"""s of tokens that are either nearly 0 or nearly 1, under the band (.05, .85)."""
G = 2.1
G_PROMPTS = 4
"""The fit of g, and the prompts a step at which it was made."""


def snr(
    omega: float,
    *,
    s_r: ArrayLike,
    s_n: ArrayLike,
    sigma_r: ArrayLike,
    sigma_n: ArrayLike,
    shrink: ArrayLike = SHRINK,
) -> FloatArray:
    """Signal-to-noise ratio of the weighted sum; inf without noise, 0 without signal, nan without either.

    Args:
        omega: the exponent of the weights, at least 0.
        s_r, s_n: standard deviation of the sums over reflective tokens and over the rest.
        sigma_r, sigma_n: mean standard deviation of such a token.
        shrink: s.
    """
    signal, noise = np.asarray(s_r, dtype=float), np.asarray(s_n, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.asarray(shrink, dtype=float) * np.asarray(sigma_r, dtype=float) / np.asarray(sigma_n, dtype=float)
        ratio = signal / noise * gain**omega if omega else signal / noise
    ratio = np.where((noise == 0) & (signal > 0), np.inf, ratio)
    return np.where((signal == 0) & (noise > 0), 0.0, ratio)


def rho(ratio: ArrayLike, *, oracle: float = 1.0) -> FloatArray:
    """Correlation of the group's z-scores with quality at a signal-to-noise ratio; in [0, oracle]."""
    squared = np.asarray(ratio, dtype=float) ** 2
    with np.errstate(divide="ignore"):
        return oracle / np.sqrt(1 + 1 / squared)


def gradient_snr(prompts: float, *, g: float = G) -> float:
    """g at so many prompts a step: ``g sqrt(prompts / 4)``."""
    return g * float(np.sqrt(prompts / G_PROMPTS))


def relative_steps(relative_rho: ArrayLike, *, g: float) -> FloatArray:
    """Steps to a target over those of the oracle; inf where the correlation is 0 or below: it never gets there.

    Args:
        relative_rho: rho over rho_oracle.
        g: of one oracle batch (`gradient_snr`).
    """
    relative = np.asarray(relative_rho, dtype=float)
    with np.errstate(divide="ignore"):
        steps = np.sqrt((1 + 1 / (relative * g) ** 2) / (1 + 1 / g**2))
    return np.where(relative <= 0, np.inf, steps)


def smallest_as_good(omegas: Sequence[float], steps: Sequence[float], *, tolerance: float = 0.02) -> float | None:
    """The smallest omega whose steps are within this share of the fewest; None where none ever arrives.

    The smallest, since a sharper weighting leans on fewer tokens.
    """
    known = [(omega, value) for omega, value in zip(omegas, steps, strict=True) if np.isfinite(value)]
    if not known:
        return None
    fewest = min(value for _, value in known)
    return min(omega for omega, value in known if value <= (1 + tolerance) * fewest)
