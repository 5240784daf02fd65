"""Dr.GRPO: a rollout's reward less the mean of its prompt's rollouts, with no division by the std."""

from __future__ import annotations

from torch import Tensor

from dro_lab.advantages._outcome import group_centred
from dro_lab.advantages._process import advantages, less_group_mean
from dro_lab.types import Rewards

TAKES_PROCESS = True


def mean_baseline(rewards: Rewards, keep_PG: Tensor, loss_mask_PGC: Tensor, values_PGC: Tensor | None = None) -> Tensor:
    """The group mean as the baseline (Dr.GRPO, arXiv 2503.20783, section 3).

        A_i = r_i - mean_G
        A_t = A_i + alpha * sum of r' at or after t,    r' = r - mean over the prompt's scored segments

    A nan reward is left out of the mean, and its rollout gets 0; a rollout that is not kept gets 0 and stays in the
    mean; a group of one scorable rollout gets 0. Equals ``group_norm`` with scale=false, and TRL's
    ``scale_rewards="none"``. REPRO's paper does not say what its process part is here: r' is ours, the same step
    (subtract, do not divide) taken on segments. Edge cases: `dro_lab.advantages._process`. ``values_PGC`` is not used.

    Returns:
        (P, G), or (P, G, C) where there are process rewards; float32.
    """
    outcome_PG = group_centred(rewards.outcome_PG.float())
    return advantages(outcome_PG, rewards, keep_PG, loss_mask_PGC, normalise=less_group_mean)
