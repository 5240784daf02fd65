"""The reference's tokens: which are reflective, how they move, and what the closed formula makes of it."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from dro_lab.probe import formula, measures
from dro_lab.probe.findings import TokenFinding
from dro_lab.probe.measures import TokenParts
from dro_lab.probe.settings import Settings
from dro_lab.types import TokenStats


def probabilities(stats: TokenStats) -> tuple[Tensor, Tensor]:
    """Probability and mask of the reference's own tokens."""
    assert stats.reference_logps_PGR is not None
    assert stats.reference_mask_PR is not None
    mask_PR = stats.reference_mask_PR
    return stats.reference_logps_PGR.double().exp().where(mask_PR[:, None], 0.0), mask_PR


def token_finding(
    stats: TokenStats, truth_PR: Tensor | None, settings: Settings, *, clip: tuple[float, float]
) -> tuple[TokenFinding, TokenParts]:
    """Means over queries, and the parts query by query.

    Args:
        truth_PR: tokens inside the rows' truth_spans; None where a row has none.
    """
    probs_PGR, mask_PR = probabilities(stats)
    guess_PR = measures.reflective_by_threshold(
        probs_PGR.clamp(*clip).std(1, correction=0), mask_PR, share=settings.reflective
    )
    reflective_PR = guess_PR if truth_PR is None else truth_PR
    parts = measures.token_parts(probs_PGR, mask_PR, reflective_PR, clip_low=clip[0], clip_high=clip[1])
    found = (None, None) if truth_PR is None else measures.agreement(guess_PR, truth_PR, mask_PR)
    source = (
        "known: the rows' truth_spans"
        if truth_PR is not None
        else f"guessed: tokens with at least {settings.reflective:g} of the largest sigma in their reference"
    )
    means = {name: mean(getattr(parts, f"{name}_P")) for name in ("tokens", "reflective", *MEANS)}
    share = float((parts.reflective_P / parts.tokens_P).nanmean())
    return TokenFinding(
        known=truth_PR is not None,
        source=source,
        share=share,
        positions=measures.relative_positions(reflective_PR, mask_PR),
        threshold_precision=found[0],
        threshold_recall=found[1],
        **means,
    ), parts


MEANS = ("sigma_r", "sigma_n", "s_r", "s_n", "coherence", "together", "shrink")


def mean(values_P: Tensor) -> float:
    """Mean over the queries of which the value is known."""
    return float(values_P.double().nanmean())


TOGETHER = 0.3
"""Below this mean correlation, reflective tokens are taken as independent sub-answers."""


def formula_notes(tokens: TokenFinding) -> list[str]:
    """Where the closed formula does not hold on these rollouts; none where it does."""
    notes = []
    if not tokens.reflective:
        notes.append("no token is reflective: there is nothing to predict from")
    if tokens.together < TOGETHER:
        notes.append(
            f"reflective tokens hardly move together (mean correlation {tokens.together:.2f}): they are independent "
            "sub-answers, a large omega follows one of them, and the formula, which rises with omega, does not see it"
        )
    if tokens.sigma_n >= tokens.sigma_r * tokens.shrink:
        notes.append(
            f"other tokens vary as much as the reflective ones (sigma {tokens.sigma_n:.3f} against "
            f"{tokens.sigma_r:.3f}): sigma does not tell them apart, and a larger omega makes R3 worse"
        )
    if not tokens.known:
        notes.append(
            "reflective tokens are guessed by their sigma, so the formula cannot see a distractor, a token that "
            "varies without a reason"
        )
    return notes


def predicted(parts: TokenParts, omega: float, *, oracle: float | None, weights_P: Tensor | None) -> float:
    """rho of the closed formula: its mean over queries, each by the spread of its quality where that is known.

    The pooled correlation weighs a group by the spread of its quality, so the prediction does too. Without a label it
    is rho over rho_oracle.
    """
    ratio_P = formula.snr(
        omega,
        s_r=parts.s_r_P.nan_to_num(0.0).numpy(),
        s_n=parts.s_n_P.nan_to_num(0.0).numpy(),
        sigma_r=parts.sigma_r_P.nan_to_num(0.0).numpy(),
        sigma_n=parts.sigma_n_P.nan_to_num(0.0).numpy(),
        shrink=parts.shrink_P.nan_to_num(formula.SHRINK).numpy(),
    )
    rho_P = formula.rho(ratio_P, oracle=1.0 if oracle is None else oracle)
    weights = np.ones_like(rho_P) if weights_P is None else weights_P.nan_to_num(0.0).double().numpy()
    known = np.isfinite(rho_P) & (weights > 0)
    return float(np.average(rho_P[known], weights=weights[known])) if known.any() else math.nan
