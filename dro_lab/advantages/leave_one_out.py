"""RLOO: a rollout's reward less the mean of the *other* rollouts of its prompt."""

from __future__ import annotations

from torch import Tensor

from dro_lab.advantages._outcome import group_centred
from dro_lab.advantages._process import advantages, less_mean_of_the_others
from dro_lab.types import Rewards

TAKES_PROCESS = True


def leave_one_out(rewards: Rewards, keep_PG: Tensor, loss_mask_PGC: Tensor, values_PGC: Tensor | None = None) -> Tensor:
    """The mean of the other scorable rollouts as the baseline (RLOO, arXiv 2402.14740, section 2.3).

        A_i = r_i - mean_{j != i} r_j = n / (n - 1) (r_i - mean_G)      n scorable rollouts
        A_t = A_i + alpha * sum of r' at or after t,    r' = r - mean over the segments of the prompt's other rollouts

    A nan reward is left out of every baseline, and its rollout gets 0; a rollout that is not kept gets 0 and stays in
    the others' baselines; a group of one scorable rollout gets 0. REPRO's paper does not say what its process part is
    here: r' is ours, the same idea (a baseline that the rollout itself has no part in) taken on segments; a rollout
    beside which no other one has a point gets no process credit. Further edge cases: `dro_lab.advantages._process`.
    ``values_PGC`` is not used.

    Returns:
        (P, G), or (P, G, C) where there are process rewards; float32.
    """
    count_P1 = (~rewards.outcome_PG.isnan()).sum(1, keepdim=True)
    outcome_PG = group_centred(rewards.outcome_PG.float()) * count_P1 / (count_P1 - 1).clamp(min=1)
    return advantages(outcome_PG, rewards, keep_PG, loss_mask_PGC, normalise=less_mean_of_the_others)
