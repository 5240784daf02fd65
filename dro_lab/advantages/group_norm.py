"""GRPO's group normalisation: a rollout's advantage is its reward against the other rollouts of its prompt."""

from __future__ import annotations

from torch import Tensor

from dro_lab import checks
from dro_lab.advantages._outcome import group_centred
from dro_lab.advantages._process import advantages, by_group_std, less_group_mean
from dro_lab.types import Rewards

TAKES_PROCESS = True


def group_norm(
    rewards: Rewards,
    keep_PG: Tensor,
    loss_mask_PGC: Tensor,
    values_PGC: Tensor | None = None,
    *,
    eps: float = 1e-4,
    scale: bool = True,
) -> Tensor:
    """One outcome for all tokens of a rollout (arXiv 2402.03300, section 4.1.2), and credit on tokens (REPRO).

        A_i = (r_i - mean_G) / (std_G + eps)        unbiased std; scale=false: A_i = r_i - mean_G, as mean_baseline
        A_t = A_i + alpha * sum of r' at or after t,    r' = (r - mean) / (std + 1e-6) over the prompt's scored segments

    A nan reward is left out of mean and std, and its rollout gets 0. A rollout that is not kept gets 0 but stays in the
    baseline: it was sampled from the policy like the others. A group of one scorable rollout gets 0. Equals TRL's
    ``scale_rewards="group"`` (``"none"`` for scale=false). The process part is that of REPRO (arXiv 2512.01925) under
    GRPO; scale=false leaves its division out too. `dro_lab.advantages._process` says what one point, no point,
    ``process_center`` and ``process_count_correction`` mean. ``values_PGC`` is not used: there is no critic.

    Returns:
        (P, G), or (P, G, C) where there are process rewards; float32.
    """
    outcome_PG = group_centred(rewards.outcome_PG.float())
    if not scale:
        return advantages(outcome_PG, rewards, keep_PG, loss_mask_PGC, normalise=less_group_mean)
    count_P1 = (~rewards.outcome_PG.isnan()).sum(1, keepdim=True)
    std_P1 = (outcome_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    return advantages(outcome_PG / (std_P1 + eps), rewards, keep_PG, loss_mask_PGC, normalise=by_group_std)


def check(*, eps: float = 1e-4, scale: bool = True) -> None:
    """Check the arguments.

    Raises:
        UserError: ``eps`` is no positive number, or ``scale`` neither true nor false.
    """
    checks.number("advantage.eps", eps, low=1e-12, todo="1e-4 is TRL's, 1e-6 that of REPRO and RLPR")
    checks.flag("advantage.scale", scale, todo="true divides by the group's std, false does not (Dr.GRPO)")
