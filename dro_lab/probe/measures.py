"""What the probe measures on one set of rollouts: correlations, token statistics, spreads. Tensors in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from dro_lab.pipeline import NO_SPREAD
from dro_lab.rewards._tokens import group_sigma, sigma_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number with its bootstrap interval over queries; ``n`` queries count. low and high are nan where n < 2."""

    value: float
    low: float
    high: float
    n: int


# ------------------------------------------------------------------------------------------------ correlations


def varies(values_PG: Tensor) -> Tensor:
    """(P,): groups in which at least two known values differ by more than rounding."""
    known_PG = ~values_PG.isnan()
    high_P = values_PG.masked_fill(~known_PG, -math.inf).amax(1)
    low_P = values_PG.masked_fill(~known_PG, math.inf).amin(1)
    return high_P - low_P > NO_SPREAD


def z_scores(values_PG: Tensor) -> Tensor:
    """Group z-scores with the population's standard deviation; 0 in a group without spread; nan stays nan."""
    values_PG = values_PG.double()
    centred_PG = values_PG - values_PG.nanmean(1, keepdim=True)
    std_P1 = centred_PG.square().nanmean(1, keepdim=True).sqrt()
    flat_PG = torch.zeros_like(values_PG).masked_fill(values_PG.isnan(), math.nan)
    return (centred_PG / std_P1).where(varies(values_PG)[:, None], flat_PG)


def rank_correlation(reward_PG: Tensor, quality_PG: Tensor) -> Tensor:
    """Spearman's correlation within each group, (P,), over the rollouts of which both are known; ties share ranks.

    nan where quality does not vary; 0 where only the reward does not: it ranks nothing.
    """
    reward_PG, quality_PG = _both_known(reward_PG, quality_PG)
    ranks = [
        torch.from_numpy(rankdata(values.numpy(), axis=1, nan_policy="omit")) for values in (reward_PG, quality_PG)
    ]
    products_PG = z_scores(ranks[0]) * z_scores(ranks[1])
    return products_PG.nanmean(1).masked_fill(~varies(quality_PG), math.nan)


def _both_known(reward_PG: Tensor, quality_PG: Tensor) -> tuple[Tensor, Tensor]:
    unknown_PG = reward_PG.isnan() | quality_PG.isnan()
    # a spread below rounding is none, and must not become ranks
    reward_PG = reward_PG.double().masked_fill(unknown_PG, math.nan)
    quality_PG = quality_PG.double().masked_fill(unknown_PG, math.nan)
    flat_P1 = reward_PG.nanmean(1, keepdim=True)
    return torch.where(varies(reward_PG)[:, None] | unknown_PG, reward_PG, flat_P1.expand_as(reward_PG)), quality_PG


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What each group adds to the pooled correlation of z-scores with centred quality; 0 where it adds nothing."""

    product_P: Tensor
    reward_P: Tensor
    quality_P: Tensor

    def correlation(self, index_DP: Tensor | None = None) -> Tensor:
        """The correlation, ``()``, or one a draw of groups, (D,); nan without any quality that varies."""
        product, reward, quality = (
            part.sum(-1) if index_DP is None else part[index_DP].sum(-1)
            for part in (self.product_P, self.reward_P, self.quality_P)
        )
        found = product / (reward * quality).sqrt()
        return torch.where((quality > 0) & (reward == 0), torch.zeros_like(found), found)


def z_sums(reward_PG: Tensor, quality_PG: Tensor) -> Sums:
    """Sums of ``rho = corr( (r - mean) / std, q - mean )`` over all rollouts of the groups whose quality varies.

    A reward without spread in a group has z-scores 0 there, and earns nothing.
    """
    reward_PG, quality_PG = _both_known(reward_PG, quality_PG)
    counts_P1 = varies(quality_PG)[:, None]
    z_PG = z_scores(reward_PG).where(counts_P1, 0.0).nan_to_num(0.0)
    q_PG = (quality_PG - quality_PG.nanmean(1, keepdim=True)).where(counts_P1, 0.0).nan_to_num(0.0)
    # a group whose reward is flat still counts as one whose z-scores had no say
    return Sums(
        product_P=(z_PG * q_PG).sum(1),
        reward_P=z_PG.square().sum(1),
        quality_P=q_PG.square().sum(1),
    )


def draws(queries: int, *, resamples: int, seed: int) -> Tensor:
    """(D, P): bootstrap draws of query indices; the same for every reward, so that differences are paired."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, max(1, queries), size=(resamples, queries)))


def interval(value: float, drawn_D: Tensor, *, confidence: float, n: int) -> Interval:
    """``value`` with the percentile interval of its draws."""
    known_D = drawn_D[drawn_D.isfinite()].double()
    if n < 2 or not len(known_D):
        return Interval(value=value, low=math.nan, high=math.nan, n=n)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(known_D, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value=value, low=low, high=high, n=n)


def mean_interval(values_P: Tensor, index_DP: Tensor, *, confidence: float) -> Interval:
    """Mean over the queries of which the value is known, with its interval."""
    values_P = values_P.double()
    known = int((~values_P.isnan()).sum())
    return interval(float(values_P.nanmean()), values_P[index_DP].nanmean(-1), confidence=confidence, n=known)


def ratio_interval(above_P: Tensor, below_P: Tensor, index_DP: Tensor, *, confidence: float) -> Interval:
    """Mean of ``above`` over mean of ``below`` on the queries where both are known, with its interval."""
    known_P = ~(above_P.isnan() | below_P.isnan())
    above_P, below_P = (part.double().masked_fill(~known_P, math.nan) for part in (above_P, below_P))
    drawn_D = above_P[index_DP].nanmean(-1) / below_P[index_DP].nanmean(-1)
    value = float(above_P.nanmean() / below_P.nanmean())
    return interval(value, drawn_D, confidence=confidence, n=int(known_P.sum()))


def spread(reward_PG: Tensor) -> Tensor:
    """(P,): population standard deviation of the known rewards of each group; nan where none is known.

    0 where they differ by no more than rounding: such a group teaches nothing.
    """
    values_PG = reward_PG.double()
    std_P = (values_PG - values_PG.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()
    return torch.where(varies(reward_PG) | std_P.isnan(), std_P, torch.zeros_like(std_P))


def reliability(spread_over_floor: float) -> float:
    """``sqrt(1 - (floor / spread)^2)``, 0 at or below the floor: rho / rho_oracle if all that moves the reward on
    another query's reference is noise, and moves it as much on its own."""
    if math.isnan(spread_over_floor):
        return math.nan
    return math.sqrt(1 - spread_over_floor**-2) if spread_over_floor > 1 else 0.0


# ------------------------------------------------------------------------------------------------ tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenParts:
    """Reflective tokens and the rest, query by query, each (P,); nan where a query has none of the kind."""

    tokens_P: Tensor  # reference tokens
    reflective_P: Tensor  # of them reflective
    sigma_r_P: Tensor  # mean sigma of a reflective token, unclipped
    sigma_n_P: Tensor
    s_r_P: Tensor  # std over the rollouts of the sum over reflective tokens
    s_n_P: Tensor
    coherence_P: Tensor  # of the rest: s_n over sqrt(sum sigma^2), what independent tokens would have
    together_P: Tensor  # mean correlation of two reflective tokens, weighted by their sigmas; nan below two
    shrink_P: Tensor  # s: what the clip leaves of sigma_r over what it leaves of sigma_n


def token_parts(
    probs_PGR: Tensor, mask_PR: Tensor, reflective_PR: Tensor, *, clip_low: float, clip_high: float
) -> TokenParts:
    """The inputs of the closed formula (`dro_lab.probe.formula`).

    Args:
        probs_PGR: probability of each reference token after each rollout's reasoning.
        mask_PR: the reference's own tokens.
        reflective_PR: the tokens that depend on the reasoning.
    """
    probs_PGR = probs_PGR.double()
    kinds = {"r": mask_PR & reflective_PR, "n": mask_PR & ~reflective_PR}
    sigma_PR = probs_PGR.std(1, correction=0)
    clipped_PR = probs_PGR.clamp(clip_low, clip_high).std(1, correction=0)
    sigma = {kind: _mean(sigma_PR, of_PR) for kind, of_PR in kinds.items()}
    clipped = {kind: _mean(clipped_PR, of_PR) for kind, of_PR in kinds.items()}
    total = {kind: _std_of_sum(probs_PGR, of_PR) for kind, of_PR in kinds.items()}
    alone = {kind: sigma_PR.square().where(of_PR, 0.0).sum(1) for kind, of_PR in kinds.items()}
    whole_r_P = sigma_PR.where(kinds["r"], 0.0).sum(1).square()
    return TokenParts(
        tokens_P=mask_PR.sum(1),
        reflective_P=kinds["r"].sum(1),
        sigma_r_P=sigma["r"],
        sigma_n_P=sigma["n"],
        s_r_P=total["r"],
        s_n_P=total["n"],
        coherence_P=_over(total["n"], alone["n"].sqrt()),
        together_P=_over(total["r"].square() - alone["r"], whole_r_P - alone["r"]),
        shrink_P=_over(clipped["r"] * sigma["n"], sigma["r"] * clipped["n"]),
    )


def _mean(values_PR: Tensor, of_PR: Tensor) -> Tensor:
    return values_PR.where(of_PR, 0.0).sum(1) / of_PR.sum(1)


def _std_of_sum(probs_PGR: Tensor, of_PR: Tensor) -> Tensor:
    total_P = probs_PGR.where(of_PR[:, None], 0.0).sum(-1).std(1, correction=0)
    return total_P.masked_fill(~of_PR.any(1), math.nan)


def _over(above_P: Tensor, below_P: Tensor) -> Tensor:
    return (above_P / below_P).masked_fill(below_P <= 1e-12, math.nan)


def reflective_by_threshold(sigma_PR: Tensor, mask_PR: Tensor, *, share: float) -> Tensor:
    """(P, R): the tokens whose sigma is above 0 and at least ``share`` of the largest of their reference."""
    sigma_PR = sigma_PR.where(mask_PR, 0.0)
    return (sigma_PR > 0) & (sigma_PR >= share * sigma_PR.amax(1, keepdim=True))


def relative_positions(reflective_PR: Tensor, mask_PR: Tensor) -> list[float]:
    """Where reflective tokens stand in their references: 0 the beginning, 1 the end (the middle of the token)."""
    places_PR = (mask_PR.cumsum(1) - 0.5) / mask_PR.sum(1, keepdim=True)
    return places_PR[reflective_PR & mask_PR].tolist()


def agreement(found_PR: Tensor, truth_PR: Tensor, mask_PR: Tensor) -> tuple[float, float]:
    """(precision, recall) of the found tokens against the known ones; nan without any."""
    found_PR, truth_PR = found_PR & mask_PR, truth_PR & mask_PR
    hits = float((found_PR & truth_PR).sum())
    found, truths = float(found_PR.sum()), float(truth_PR.sum())
    return hits / found if found else math.nan, hits / truths if truths else math.nan


def effective_tokens(probs_PGR: Tensor, mask_PR: Tensor, omegas: Sequence[float]) -> list[float]:
    """``1 / sum_j w_j^2`` of R3's weights, mean over the queries that have any, for each omega.

    Args:
        probs_PGR: as R3 takes sigma of them (clipped, by default).
    """
    sigma_PR = group_sigma(probs_PGR, mask_PR)
    found = []
    for omega in omegas:
        squares_P = sigma_weights(sigma_PR, mask_PR, omega=omega, weighting="power").square().sum(1)
        found.append(float((1 / squares_P[squares_P > 0]).mean()))
    return found
