"""What the estimators share about outcomes: the group mean, and whitening over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def group_centred(outcome_PG: Tensor) -> Tensor:
    """(P, G): the outcome less the mean of its group's scorable rollouts; 0 where the outcome is nan.

    Unkept rollouts stay in the mean: they were sampled from the policy like the others.
    """
    return (outcome_PG - outcome_PG.nanmean(1, keepdim=True)).nan_to_num(0.0)


def tokens_scored(outcome_PG: Tensor, loss_mask_PGC: Tensor) -> Tensor:
    """(P, G): how many tokens of the loss a rollout has; 0 where its outcome is nan."""
    return torch.where(outcome_PG.isnan(), 0, loss_mask_PGC.bool().sum(-1))


def whiten(values: Tensor, counts: Tensor, *, eps: float, center: bool = True) -> Tensor:
    """Values of which each stands ``counts`` times, to mean 0 and variance 1; 0 where ``counts`` is 0.

        mean = sum n x / N,   var = sum n (x - mean)^2 / (N - 1),   (x - mean) / sqrt(var + eps),   N = sum n

    This is verl's ``masked_whiten`` (verl/utils/torch_functional.py: unbiased, eps 1e-8 under the root), which its
    REINFORCE++ estimators call. It raises where N is below 2; here nothing then has any
    spread, and the result is 0. ``center=False``: nothing is subtracted, var = sum n x^2 / N.

    Float64 inside: equal values then leave no rounding error that a small ``eps`` could blow up.
    """
    counted = counts > 0
    values = torch.where(counted, values, 0.0).double()
    weights, total = counts.double(), counts.sum()
    if center:
        values = values - (weights * values).sum() / total.clamp(min=1)
    spread = (weights * values.square()).sum() / (total - int(center)).clamp(min=1)
    return torch.where(counted, values * (spread + eps).rsqrt(), 0.0)
