"""Mean probability of the reference's tokens: the plain baseline that DRO compares R3 with (arXiv 2506.13351)."""

from __future__ import annotations

from typing import Any

from dro_lab import checks
from dro_lab.rewards._tokens import masked_mean, reference_tokens, uniform_weights
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, TokenStats


def avg_prob(groups: RolloutGroups, stats: TokenStats, *, include_eos: bool = False) -> Rewards:
    """Each reference token counts the same.

        r_i = (1/R) sum_j p_ij        in [0, 1]

    A reference without tokens gives nan. Rollouts are scored whatever their completion mask or format is.
    """
    logps_PGR, mask_PR = reference_tokens(stats, include_eos=include_eos)
    return Rewards(
        outcome_PG=masked_mean(logps_PGR.exp(), mask_PR),
        token_weights_PR=uniform_weights(mask_PR),
        depends_on="reasoning",
    )


def needs(**_: Any) -> frozenset[Need]:
    """The reference's token probabilities."""
    return frozenset({Need(Stat.REFERENCE)})


def check(*, include_eos: bool = False) -> None:
    """Check the arguments.

    Raises:
        UserError: ``include_eos`` is neither true nor false.
    """
    checks.flag("reward.include_eos", include_eos, todo="false is the default")
