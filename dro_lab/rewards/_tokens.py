"""What rewards over reference tokens share: which tokens count, and how they vary within a group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dro_lab.types import TokenStats

SIGMA_FLOOR = 1e-6
"""A standard deviation below this counts as 0: rounding noise must not pick tokens."""


def reference_tokens(stats: TokenStats, *, include_eos: bool) -> tuple[Tensor, Tensor]:
    """``(log-probabilities (P, G, R), mask (P, R))`` of the tokens that count; masked entries are 0.

    Raises:
        ValueError: the reference was not scored (the reward's module does not declare `Stat.REFERENCE`).
    """
    logps_PGR, mask_PR, eos_PR = stats.reference_logps_PGR, stats.reference_mask_PR, stats.reference_eos_PR
    if logps_PGR is None or mask_PR is None:
        raise ValueError("no reference scores: declare Need(Stat.REFERENCE) in the module's needs()")
    if include_eos:
        if eos_PR is None:
            raise ValueError("include_eos=true, but the scores do not mark the end-of-sequence token")
        mask_PR = mask_PR | eos_PR
    return logps_PGR.float().where(mask_PR[:, None], 0.0), mask_PR


def masked_mean(values_PGR: Tensor, mask_PR: Tensor) -> Tensor:
    """Mean over counted tokens, (P, G); nan for a reference without tokens."""
    mask_P1R = mask_PR[:, None]
    return values_PGR.where(mask_P1R, 0.0).sum(-1) / mask_P1R.sum(-1)


def uniform_weights(mask_PR: Tensor) -> Tensor:
    """Equal weights over counted tokens, (P, R), float32; 0 elsewhere."""
    return mask_PR.float() / mask_PR.sum(-1, keepdim=True).clamp(min=1)


def group_sigma(values_PGR: Tensor, mask_PR: Tensor, *, floor: float = SIGMA_FLOOR) -> Tensor:
    """Population standard deviation over the group, (P, R); below ``floor`` and outside the mask it is 0."""
    sigma_PR = values_PGR.std(dim=1, correction=0)
    return sigma_PR.where(mask_PR & (sigma_PR >= floor), 0.0)


def sigma_weights(sigma_PR: Tensor, mask_PR: Tensor, *, omega: float, weighting: str) -> Tensor:
    """R3's token weights, (P, R): sigma^omega or exp(omega sigma), summing to 1 where a group has any; else 0."""
    if weighting == "exp":
        scores_PR = (omega * sigma_PR).masked_fill(~mask_PR, -torch.inf)
        return scores_PR.softmax(-1).nan_to_num(0.0)
    # softmax(omega * log sigma): no power of a small sigma can vanish, and sigma 0 has weight 0 even at omega 0
    scores_PR = (omega * sigma_PR.log()).masked_fill(sigma_PR == 0, -torch.inf)
    return scores_PR.softmax(-1).nan_to_num(0.0)


def sigma_bar(sigma_PR: Tensor, mask_PR: Tensor, *, share: float = 0.1) -> Tensor:
    """Mean sigma over the top ``max(1, ceil(share * R))`` reference tokens by sigma, (P,); nan without tokens."""
    values = []
    for sigma_R, mask_R in zip(sigma_PR, mask_PR, strict=True):
        tokens = int(mask_R.sum())
        # 0.07 * 100 is 7.000000000000001 in floats, and its ceiling 8
        top = max(1, math.ceil(round(share * tokens, 9)))
        values.append(sigma_R[mask_R].topk(min(top, tokens)).values.mean())
    return torch.stack(values) if values else sigma_PR.new_zeros(0)


def finite_mean(values: Tensor) -> float:
    """Mean of the entries that are not nan; nan if there are none."""
    return float(values.nanmean())
