"""R3: the probability of the reference's reasoning-reflective tokens (DRO, arXiv 2506.13351)."""

from __future__ import annotations

from typing import Any, Literal

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.rewards._tokens import finite_mean, group_sigma, masked_mean, reference_tokens, sigma_bar, sigma_weights
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, TokenStats


def r3(
    groups: RolloutGroups,
    stats: TokenStats,
    *,
    weighting: Literal["power", "exp"] = "power",
    omega: float = 2.0,
    clip_low: float = 0.05,
    clip_high: float = 0.85,
    sigma_on: Literal["clipped", "raw"] = "clipped",
    include_eos: bool = False,
) -> Rewards:
    """Weights each reference token by how much its probability varies over the group's rollouts.

        sigma_j = population std over the G rollouts of p_ij        (below 1e-6 it counts as 0)
        w_j     = sigma_j^omega / sum_k sigma_k^omega               (weighting=power)
        w_j     = exp(omega sigma_j) / sum_k exp(omega sigma_k)     (weighting=exp)
        r_i     = sum_j w_j clip(p_ij, clip_low, clip_high)

    ``sigma_on``: sigma of clipped or raw probabilities. The paper leaves this and ``weighting`` open.

    Where all sigmas of a group are 0 (identical rollouts, G = 1, everything clipped), the group carries no signal: each
    rollout gets the same reward, the group's mean clipped probability, and all token weights are 0. A reference without
    tokens gives nan. Rollouts are scored whatever their completion mask or format is.
    """
    logps_PGR, mask_PR = reference_tokens(stats, include_eos=include_eos)
    probs_PGR = logps_PGR.exp()
    clipped_PGR = probs_PGR.clamp(clip_low, clip_high)
    sigma_PR = group_sigma(clipped_PGR if sigma_on == "clipped" else probs_PGR, mask_PR)
    signal_P = sigma_PR.amax(-1) > 0
    weights_PR = sigma_weights(sigma_PR, mask_PR, omega=omega, weighting=weighting).where(signal_P[:, None], 0.0)
    weighted_PG = (weights_PR[:, None] * clipped_PGR).sum(-1)
    flat_P1 = masked_mean(clipped_PGR, mask_PR).mean(-1, keepdim=True)
    counted_PGR = mask_PR[:, None].expand_as(probs_PGR)
    probs_N = probs_PGR[counted_PGR]
    return Rewards(
        outcome_PG=weighted_PG.where(signal_P[:, None], flat_P1),
        depends_on="reasoning",
        token_weights_PR=weights_PR,
        parts={"mean_probability": masked_mean(probs_PGR, mask_PR)},
        metrics={
            "sigma_bar": finite_mean(sigma_bar(sigma_PR, mask_PR)),
            "effective_tokens": finite_mean(1 / weights_PR[signal_P].square().sum(-1)),
            "top_weight": finite_mean(weights_PR[signal_P].amax(-1)),
            "no_signal_share": finite_mean((~signal_P).float()),
            "clipped_low_share": finite_mean((probs_N < clip_low).float()),
            "clipped_high_share": finite_mean((probs_N > clip_high).float()),
        },
    )


def needs(**_: Any) -> frozenset[Need]:
    """The reference's token probabilities."""
    return frozenset({Need(Stat.REFERENCE)})


def check(
    *,
    weighting: str = "power",
    omega: float = 2.0,
    clip_low: float = 0.05,
    clip_high: float = 0.85,
    sigma_on: str = "clipped",
    include_eos: bool = False,
) -> None:
    """Check the arguments.

    Raises:
        UserError: a value out of its range, or an empty clip band.
    """
    checks.choice("reward.weighting", weighting, ("power", "exp"), todo="power is the default")
    checks.number("reward.omega", omega, low=0, todo="1 to 2 is good, above 4 few tokens take all the weight")
    checks.number("reward.clip_low", clip_low, low=0, high=1, todo="0.05 is the default, 0 switches it off")
    checks.number("reward.clip_high", clip_high, low=0, high=1, todo="0.85 is the default, 1 switches it off")
    checks.choice("reward.sigma_on", sigma_on, ("clipped", "raw"), todo="clipped is the default")
    checks.flag("reward.include_eos", include_eos, todo="false is the default")
    if clip_low >= clip_high:
        raise UserError(
            f"reward.clip_low={clip_low} with reward.clip_high={clip_high}: clip_low must be below clip_high, or every "
            "probability is clipped to one value; 0.05 and 0.85 are the defaults"
        )
