"""REINFORCE++: no group baseline; rewards are whitened over the whole batch."""

from __future__ import annotations

from torch import Tensor

from dro_lab import checks
from dro_lab.advantages._outcome import tokens_scored, whiten
from dro_lab.advantages._process import advantages, by_batch
from dro_lab.types import Rewards

TAKES_PROCESS = True


def reinforce_pp(
    rewards: Rewards,
    keep_PG: Tensor,
    loss_mask_PGC: Tensor,
    values_PGC: Tensor | None = None,
    *,
    eps: float = 1e-8,
) -> Tensor:
    """Outcomes whitened over the tokens of the batch (REINFORCE++, arXiv 2501.03262).

        A_i = (r_i - mean) / sqrt(var + eps)        over all tokens of the loss, each with its rollout's outcome
        A_t = A_i + alpha * sum of r' at or after t,    r' = the segment rewards whitened over all points of the batch

    A long rollout weighs more in mean and variance: every token of it carries its outcome (discount 1, no KL penalty
    in the reward). The variance is unbiased and eps stands under the root, as in verl's ``masked_whiten``. The process
    part is REPRO's under RF++ (arXiv 2512.01925); its mask is that of the scored points. The batch is the step's.

    A nan reward's tokens and points count nowhere, and its rollout gets 0. A rollout that is not kept gets 0, but its
    tokens count as long as they are in ``loss_mask_PGC``: it was sampled from the policy like the others. A rollout
    without a token in the loss gets 0; where all outcomes are equal every rollout does. A group all of whose rollouts
    have the same outcome still gets an advantage here. Edge cases: `dro_lab.advantages._process`. ``values_PGC`` is
    not used.

    Returns:
        (P, G), or (P, G, C) where there are process rewards; float32.
    """
    outcome_PG = whiten(rewards.outcome_PG, tokens_scored(rewards.outcome_PG, loss_mask_PGC), eps=eps)
    return advantages(outcome_PG, rewards, keep_PG, loss_mask_PGC, normalise=by_batch(eps))


def check(*, eps: float = 1e-8) -> None:
    """Check the arguments.

    Raises:
        UserError: ``eps`` is no positive number.
    """
    checks.number("advantage.eps", eps, low=1e-12, todo="1e-8 (under the root) is that of the REINFORCE++ reference")
