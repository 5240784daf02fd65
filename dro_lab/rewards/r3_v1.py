"""R3 as the first version of DRO has it: on log-probabilities, against the reasoning masked (arXiv 2506.13351, v1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dro_lab import checks
from dro_lab.errors import UserError
from dro_lab.rewards._tokens import finite_mean, group_sigma, masked_mean, reference_tokens, sigma_bar, sigma_weights
from dro_lab.types import Need, Rewards, RolloutGroups, Stat, TokenStats

LOG_SIGMA_FLOOR = 1e-5
"""As R3's floor for probabilities; log-probabilities of unlikely tokens carry more rounding noise."""


def r3_v1(
    groups: RolloutGroups,
    stats: TokenStats,
    *,
    weighting: Literal["power", "exp"] = "power",
    omega: float = 1.0,
    masked_baseline: bool = True,
    self_influence: bool = False,
    gamma: float = 0.1,
    reflective_share: float = 0.1,
    length_beta: float = 0.0,
    include_eos: bool = False,
) -> Rewards:
    """Weights the log-probability that the reasoning adds to each reference token.

        r_i = sum_j w_j [log p_ij - log p_masked,j]  +  r_len,i

        sigma_j      = population std over the G rollouts of log p_ij        (below 1e-5 it counts as 0)
        w_j          = as in R3 (`dro_lab.rewards.r3`): sigma_j^omega, or exp(omega sigma_j), normalised
        p_masked,j   = the same with the reasoning's tokens hidden from attention, positions kept
        r_len,i      = 1 - length_beta | |y| - |y_i| | / |y|        only where length_beta > 0

    ``self_influence`` replaces the baseline: reference tokens shown before j may do the reasoning's work, so p_ij is
    taken down by each earlier reflective token k < j that the rollout itself finds unlikely, less with its distance:

        log p_ij  ->  log ( p_ij prod_k P_ijk ),     P_ijk = p_ik + (1 - p_ik) (1 - exp(-gamma (j - k)))

    Open in the paper and ours: ``weighting`` and omega 1, gamma, and which tokens are reflective: the
    max(1, ceil(reflective_share R)) with the largest sigma above 0.

    Deviations: p_masked depends on the rollout through the length of its hidden reasoning alone (positions are kept);
    the group's mean of log p_masked stands for it, so that the term is constant within a group and cancels in the
    group's z-score: it acts with unscaled, batch-level or mixed rewards. Lengths |y| and |y_i| of reference and own
    answer are counted in words (separated by spaces): the answer's tokens are not told from delimiters and markers.

    A group whose sigmas are all 0 gets the mean over tokens and rollouts instead of the weighted sum. A reference
    without tokens gives nan. Without length term a rollout's own answer plays no part.

    Raises:
        ValueError: the masked scores are asked for and missing.
    """
    logps_PGR, mask_PR = reference_tokens(stats, include_eos=include_eos)
    sigma_PR = group_sigma(logps_PGR, mask_PR, floor=LOG_SIGMA_FLOOR)
    signal_P1 = sigma_PR.amax(-1, keepdim=True) > 0
    weights_PR = sigma_weights(sigma_PR, mask_PR, omega=omega, weighting=weighting).where(signal_P1, 0.0)
    gained_PGR = logps_PGR
    if masked_baseline:
        gained_PGR = logps_PGR - _masked(stats, mask_PR)
    elif self_influence:
        gained_PGR = logps_PGR + _influence(logps_PGR, sigma_PR, mask_PR, gamma=gamma, share=reflective_share)
    flat_P1 = masked_mean(gained_PGR, mask_PR).mean(-1, keepdim=True)
    reflection_PG = (weights_PR[:, None] * gained_PGR).sum(-1).where(signal_P1, flat_P1)
    parts = {"reflection": reflection_PG, "mean_logp": masked_mean(logps_PGR, mask_PR)}
    outcome_PG = reflection_PG
    if length_beta > 0:
        parts["length"] = _length(groups, length_beta)
        outcome_PG = reflection_PG + parts["length"]
    signal_P = signal_P1[:, 0]
    return Rewards(
        outcome_PG=outcome_PG,
        depends_on="completion" if length_beta > 0 else "reasoning",
        token_weights_PR=weights_PR,
        parts=parts,
        metrics={
            "sigma_bar": finite_mean(sigma_bar(sigma_PR, mask_PR)),
            "effective_tokens": finite_mean(1 / weights_PR[signal_P].square().sum(-1)),
            "no_signal_share": finite_mean((~signal_P).float()),
        },
    )


def _masked(stats: TokenStats, mask_PR: Tensor) -> Tensor:
    """(P, 1, R): the group's mean log-probability with the reasoning hidden."""
    if stats.masked_logps_PGR is None:
        raise ValueError("no masked scores: declare Need(Stat.MASKED), or set masked_baseline=false")
    return stats.masked_logps_PGR.float().mean(1, keepdim=True).where(mask_PR[:, None], 0.0)


def _influence(logps_PGR: Tensor, sigma_PR: Tensor, mask_PR: Tensor, *, gamma: float, share: float) -> Tensor:
    """(P, G, R): sum over earlier reflective tokens k of log P_ijk, at most 0."""
    reflective_PR = _reflective(sigma_PR, mask_PR, share)
    width = mask_PR.shape[1]
    distance_RR = torch.arange(width)[:, None] - torch.arange(width)  # j - k
    faded_RR = -torch.expm1(-gamma * distance_RR.clamp(min=0).float())
    total_PGR = torch.zeros_like(logps_PGR)
    for p, k in reflective_PR.nonzero().tolist():  # one row of later tokens at a time: no (P, G, R, R)
        probability_G1 = logps_PGR[p, :, k, None].exp()
        known_GR = probability_G1 + (1 - probability_G1) * faded_RR[:, k]
        total_PGR[p] += known_GR.log().where((distance_RR[:, k] > 0) & mask_PR[p], 0.0)
    return total_PGR


def _reflective(sigma_PR: Tensor, mask_PR: Tensor, share: float) -> Tensor:
    """(P, R): the tokens with the largest sigma above 0; where two are equal, both count."""
    tokens_P1 = mask_PR.sum(-1, keepdim=True)
    top_P1 = (share * tokens_P1 - 1e-6).ceil().clamp(min=1).long()  # 0.07 * 100 is 7.000000000000001 in floats
    border_P1 = sigma_PR.sort(-1, descending=True).values.gather(1, (top_P1 - 1).clamp(max=sigma_PR.shape[1] - 1))
    return (sigma_PR >= border_P1) & (sigma_PR > 0)


def _length(groups: RolloutGroups, beta: float) -> Tensor:
    """(P, G): 1 for an answer as long as the reference, less by ``beta`` for each share of it too long or short."""
    rows = []
    for reference, answers_G in zip(groups.references_P, groups.answers_PG, strict=True):
        words = max(1, len(reference.split()))
        rows.append([1 - beta * abs(words - len(answer.split())) / words for answer in answers_G])
    return torch.tensor(rows, dtype=torch.float32).reshape(groups.shape)


def needs(*, masked_baseline: bool = True, **_: Any) -> frozenset[Need]:
    """The reference's token probabilities, with the baseline also those with the reasoning hidden."""
    return frozenset({Need(Stat.REFERENCE), *([Need(Stat.MASKED)] if masked_baseline else [])})


def check(
    *,
    weighting: Any = "power",
    omega: Any = 1.0,
    masked_baseline: Any = True,
    self_influence: Any = False,
    gamma: Any = 0.1,
    reflective_share: Any = 0.1,
    length_beta: Any = 0.0,
    include_eos: Any = False,
) -> None:
    """Check the arguments.

    Raises:
        UserError: a value out of its range, or both corrections at once.
    """
    checks.choice("reward.weighting", weighting, ("power", "exp"), todo="power is the default")
    checks.number("reward.omega", omega, low=0, todo="1 is the default; log-probabilities need no sharper weights")
    checks.flag("reward.masked_baseline", masked_baseline, todo="true is the default")
    checks.flag("reward.self_influence", self_influence, todo="false is the default")
    checks.number("reward.gamma", gamma, low=0, todo="0.1 is the default; the larger, the sooner a token's help fades")
    checks.share("reward.reflective_share", reflective_share, todo="0.1 takes the tenth that varies most")
    checks.number("reward.length_beta", length_beta, low=0, todo="0 leaves the length term out")
    checks.flag("reward.include_eos", include_eos, todo="false is the default")
    if masked_baseline and self_influence:
        raise UserError(
            "reward.self_influence=true with reward.masked_baseline=true: the correction stands in the baseline's "
            "place; set reward.masked_baseline=false, or leave self_influence out"
        )
