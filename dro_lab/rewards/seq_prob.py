"""Probability of the whole reference, VeriFree's reward (arXiv 2505.21493)."""

from __future__ import annotations

from typing import Any

import torch

from dro_lab import checks
from dro_lab.rewards._tokens import finite_mean, reference_tokens
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, TokenStats


def seq_prob(groups: RolloutGroups, stats: TokenStats, *, include_eos: bool = False) -> Rewards:
    """The product of the token probabilities; it vanishes on long references.

        r_i = prod_j p_ij = exp(sum_j log p_ij)        in [0, 1]

    A reference without tokens gives nan. Rollouts are scored whatever their completion mask or format is.
    """
    logps_PGR, mask_PR = reference_tokens(stats, include_eos=include_eos)
    outcome_PG = logps_PGR.sum(-1).exp().where(mask_PR.any(-1, keepdim=True), float("nan"))
    vanished_PG = (outcome_PG < torch.finfo(torch.float32).tiny).float()
    return Rewards(outcome_PG=outcome_PG, metrics={"vanished_share": finite_mean(vanished_PG)}, depends_on="reasoning")


def needs(**_: Any) -> frozenset[Need]:
    """The reference's token probabilities."""
    return frozenset({Need(Stat.REFERENCE)})


def check(*, include_eos: bool = False) -> None:
    """Check the arguments.

    Raises:
        UserError: ``include_eos`` is neither true nor false.
    """
    checks.flag("reward.include_eos", include_eos, todo="false is the default")
