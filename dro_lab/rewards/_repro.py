"""REPRO's scores of a series of log-probabilities: magnitude and stability (arXiv 2512.01925)."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-6
"""Nats. Points nearer than this are equal in the order of a series: rounding noise must not rank them."""


def magnitude(logps_PGK: Tensor, baseline_P: Tensor, *, floor: float) -> Tensor:
    """``1 - tanh(J / min(J_b, -floor))``, (P, G, K): 1 where the reference is certain, 0.238 at the baseline.

    Written as ``2 sigmoid(-2x)``, which is the same and keeps its digits where tanh rounds to 1.
    """
    ratio_PGK = logps_PGK / baseline_P.clamp(max=-floor)[:, None, None]
    return 2 * torch.sigmoid(-2 * ratio_PGK)


def kendall(series_PGN: Tensor) -> Tensor:
    """Kendall's tau-a of ``series[..., :n + 1]`` against its index, for every n: (P, G, N); 0 for a series of one.

    tau_n = sum_{a < b <= n} sign(x_b - x_a) / (n (n + 1) / 2)        pairs nearer than 1e-6 count 0
    """
    steps_PGNN = series_PGN[..., :, None] - series_PGN[..., None, :]  # [later, earlier]
    signs_PGNN = steps_PGNN.sign().where(steps_PGNN.abs() >= TIE, 0.0).tril(-1)
    last_N = torch.arange(series_PGN.shape[-1], dtype=series_PGN.dtype, device=series_PGN.device)
    pairs_N = last_N * (last_N + 1) / 2
    return signs_PGNN.sum(-1).cumsum(-1) / pairs_N.clamp(min=1)


def smoothed(series_PGN: Tensor, ema: float | None) -> Tensor:
    """``e_1 = x_1, e_t = ema x_t + (1 - ema) e_(t-1)`` along the last axis; None: the series as it is."""
    if ema is None:
        return series_PGN
    values = [series_PGN[..., 0]]
    for place in range(1, series_PGN.shape[-1]):
        values.append(ema * series_PGN[..., place] + (1 - ema) * values[-1])
    return torch.stack(values, -1)


def stability(logps_PGK: Tensor, baseline_P: Tensor, *, ema: float | None) -> Tensor:
    """``(tau_a + 1) / 2`` of the series J_b, J_1 .. J_j at every point j, (P, G, K)."""
    first_PG1 = baseline_P[:, None, None].expand(*logps_PGK.shape[:2], 1)
    series_PGN = smoothed(torch.cat([first_PG1, logps_PGK], -1), ema)
    return (kendall(series_PGN)[..., 1:] + 1) / 2


def differences(scores_PGK: Tensor) -> Tensor:
    """``r_1 = S_1, r_j = S_j - S_(j-1)``: they add up to the last score."""
    return torch.cat([scores_PGK[..., :1], scores_PGK[..., 1:] - scores_PGK[..., :-1]], -1)


def at_tokens(values_PGK: Tensor, ends_PGK: Tensor, mask_PGK: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Values of points put on the tokens that they sit on: ``(values (P, G, C), scored (P, G, C))``, 0 elsewhere."""
    kept_PGK = mask_PGK & (ends_PGK >= 0) & (ends_PGK < tokens)
    place_PGK = ends_PGK.clamp(0, max(tokens - 1, 0))
    out_PGC = values_PGK.new_zeros(*values_PGK.shape[:2], tokens)
    if not tokens:
        return out_PGC, out_PGC.bool()
    scored_PGC = out_PGC.scatter_add(-1, place_PGK, kept_PGK.to(out_PGC.dtype)) > 0
    return out_PGC.scatter_add(-1, place_PGK, values_PGK.where(kept_PGK, 0.0)), scored_PGC


def last_value(values_PGK: Tensor, mask_PGK: Tensor) -> Tensor:
    """The value at each rollout's last point, (P, G); nan where it has none."""
    if not mask_PGK.shape[-1]:
        return values_PGK.new_full(values_PGK.shape[:2], torch.nan)
    last_PG1 = (mask_PGK.sum(-1, keepdim=True) - 1).clamp(min=0)
    return values_PGK.gather(-1, last_PG1)[..., 0].masked_fill(~mask_PGK.any(-1), torch.nan)
