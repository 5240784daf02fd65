"""GRPO's group normalisation: a rollout's advantage is its reward against the other rollouts of its prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.types import Rewards


def group_norm(
    rewards: Rewards,
    keep_PG: Tensor,
    loss_mask_PGC: Tensor,
    values_PGC: Tensor | None = None,
    *,
    eps: float = 1e-4,
    scale: bool = True,
) -> Tensor:
    """One advantage for all tokens of a rollout (arXiv 2402.03300, section 4.1.2).

        A_i = (r_i - mean_G) / (std_G + eps)        unbiased std; scale=false (Dr.GRPO): A_i = r_i - mean_G

    A nan reward is left out of mean and std, and its rollout gets 0. A rollout that is not kept gets 0 but stays in the
    baseline: it was sampled from the policy like the others. A group of one scorable rollout gets 0. Equals TRL's
    ``scale_rewards="group"`` (``"none"`` for scale=false). ``loss_mask_PGC`` and ``values_PGC`` are not used: one value
    serves all tokens, and there is no critic.

    Returns:
        (P, G), float32.

    Raises:
        UserError: the reward gives process rewards, which this estimator has no place for.
    """
    if rewards.process_PGC is not None:
        raise UserError(
            "advantage=group_norm: the reward gives process rewards (credit on tokens), and this estimator takes one "
            "outcome per rollout; choose an advantage that takes process rewards, or a reward without them"
        )
    reward_PG = rewards.outcome_PG.float()
    scorable_PG = ~reward_PG.isnan()
    centred_PG = (reward_PG - reward_PG.nanmean(1, keepdim=True)).nan_to_num(0.0)
    if scale:
        count_P1 = scorable_PG.sum(1, keepdim=True)
        std_P1 = (centred_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
        centred_PG = centred_PG / (std_P1 + eps)
    return torch.where(keep_PG & scorable_PG, centred_PG, 0.0)


def check(*, eps: float = 1e-4, scale: bool = True) -> None:
    """Check the arguments.

    Raises:
        UserError: ``eps`` is no positive number, or ``scale`` neither true nor false.
    """
    checks.number("advantage.eps", eps, low=1e-12, todo="1e-4 is TRL's, 1e-6 that of REPRO and RLPR")
    checks.flag("advantage.scale", scale, todo="true divides by the group's std, false does not (Dr.GRPO)")
