"""REINFORCE++-baseline: the group mean as the baseline, then whitening over the whole batch."""

from __future__ import annotations

from torch import Tensor

from dro_lab import checks
from dro_lab.advantages._outcome import group_centred, tokens_scored, whiten
from dro_lab.advantages._process import advantages, less_group_mean
from dro_lab.types import Rewards

TAKES_PROCESS = True


def reinforce_pp_baseline(
    rewards: Rewards,
    keep_PG: Tensor,
    loss_mask_PGC: Tensor,
    values_PGC: Tensor | None = None,
    *,
    eps: float = 1e-8,
) -> Tensor:
    """Outcomes less their group's mean, then whitened over the tokens of the batch (arXiv 2501.03262).

        c_i = r_i - mean_G
        A_i = (c_i - mean) / sqrt(var + eps)        over all tokens of the loss, each with its rollout's c
        A_t = A_i + alpha * sum of r' at or after t,    r' = r - mean over the prompt's scored segments

    Unlike the group's std, the batch's gives groups with hardly any spread no larger steps than the others. The
    variance is unbiased and eps stands under the root, as in verl's ``masked_whiten``. The mean of c over tokens is
    not 0 where lengths differ: whitening subtracts it, so that a group whose outcomes are all equal gets a small value.
    The process part is REPRO's under RF++-baseline (arXiv 2512.01925): centred by group, and not whitened.

    A nan reward counts in no mean, and its rollout gets 0. A rollout that is not kept gets 0, but counts in its group's
    mean, and its tokens in the batch's as long as they are in ``loss_mask_PGC``. A rollout without a token in the loss
    gets 0. Edge cases: `dro_lab.advantages._process`. ``values_PGC`` is not used.

    Returns:
        (P, G), or (P, G, C) where there are process rewards; float32.
    """
    tokens_PG = tokens_scored(rewards.outcome_PG, loss_mask_PGC)
    outcome_PG = whiten(group_centred(rewards.outcome_PG.double()), tokens_PG, eps=eps)
    return advantages(outcome_PG, rewards, keep_PG, loss_mask_PGC, normalise=less_group_mean)


def check(*, eps: float = 1e-8) -> None:
    """Check the arguments.

    Raises:
        UserError: ``eps`` is no positive number.
    """
    checks.number("advantage.eps", eps, low=1e-12, todo="1e-8 (under the root) is that of the REINFORCE++ reference")
