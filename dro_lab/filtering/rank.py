"""The filter of DRO's first version: queries whose reference is out of reach, then those that vary least.

arXiv 2506.13351, v1. Its numbers (``worst_share``, ``top_k``, ``drop_share``) are ours; so is that the lowest
``drop_share`` is taken over the last ``window`` groups and not over the step's own: a step of four groups has no lowest
tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dro_lab import checks
from dro_lab.filtering import _running
from dro_lab.filtering._sigma import check_part, check_sigma, r3_sigma
from dro_lab.rewards._tokens import finite_mean
from dro_lab.types import FilterResult, Need, Rewards, RolloutGroups, Stat, TokenStats


def rank(
    groups: RolloutGroups,
    stats: TokenStats,
    rewards: Rewards,
    *,
    worst_share: float = 0.1,
    top_k: int = 100,
    drop_share: float = 0.1,
    window: int = 64,
    refresh: int = 16,
    clip_low: float = 0.05,
    clip_high: float = 0.85,
    sigma_on: str = "clipped",
    include_eos: bool = False,
    state: Mapping[str, Any],
) -> tuple[FilterResult, Mapping[str, Any]]:
    """Keeps a group that some rollout brings within reach of its reference, unless its tokens hardly vary.

        worst_i = mean rank of the max(1, ceil(worst_share R)) reference tokens with the highest rank in rollout i
        in reach: min_i worst_i < top_k                         (rank 0 is the likeliest word of the vocabulary)
        of the groups in reach, those with max_j sigma_j < floor are dropped

    floor is the ``drop_share`` quantile of max_j sigma_j over the last ``window`` groups in reach, with the timing of
    ``filtering=r3_variance tau=auto``: everything in reach is kept until the window is full or ``refresh`` steps are
    done. sigma_j as R3 has it. A reference without tokens is dropped.

    Raises:
        ValueError: the ranks were not measured.
    """
    if stats.reference_ranks_PGR is None:
        raise ValueError("no ranks: the filter needs Stat.RANKS, and the scorer did not deliver it")
    sigma_PR, mask_PR = r3_sigma(
        stats, clip_low=clip_low, clip_high=clip_high, sigma_on=sigma_on, include_eos=include_eos
    )
    worst_P = _worst_ranks(stats.reference_ranks_PGR, mask_PR, worst_share).amin(-1)
    reach_P = worst_P < top_k  # nan, a reference without tokens, is not
    spread_P = sigma_PR.amax(-1).double()
    floor = float(state["threshold"] or 0.0) if drop_share else 0.0
    keep_P = reach_P & (spread_P >= floor)
    result = FilterResult(
        keep_PG=keep_P[:, None].expand(groups.shape).clone(),
        reasons_P=[
            _reason(worst, spread, top_k=top_k, floor=floor) if not keep else ""
            for keep, worst, spread in zip(keep_P.tolist(), worst_P.tolist(), spread_P.tolist(), strict=True)
        ],
        metrics={
            "worst_rank": finite_mean(worst_P),
            "out_of_reach_share": finite_mean((~reach_P).float()),
            "sigma_max": finite_mean(spread_P.float()),
            "sigma_floor": floor,
        },
    )
    return result, _running.remember(
        state, spread_P[reach_P].tolist(), step=groups.step, percentile=drop_share, window=window, refresh=refresh
    )


def _worst_ranks(ranks_PGR: Tensor, mask_PR: Tensor, share: float) -> Tensor:
    """(P, G): mean over the top ``share`` of a rollout's ranks; nan for a reference without tokens."""
    rows = []
    for ranks_GR, mask_R in zip(ranks_PGR, mask_PR, strict=True):
        tokens = int(mask_R.sum())
        top = min(tokens, max(1, math.ceil(round(share * tokens, 9))))
        rows.append(ranks_GR[:, mask_R].topk(top, dim=-1).values.mean(-1))
    return torch.stack(rows) if rows else ranks_PGR.new_zeros(ranks_PGR.shape[:2])


def _reason(worst: float, spread: float, *, top_k: int, floor: float) -> str:
    if worst != worst:
        return "rank: the reference has no tokens"
    if worst >= top_k:
        return f"worst tokens' rank {worst:.4g} >= top_k {top_k}"
    return f"sigma_max {spread:.4g} < floor {floor:.4g}"


def needs(**_: Any) -> frozenset[Need]:
    """The reference's token probabilities, and their ranks in the vocabulary."""
    return frozenset({Need(Stat.REFERENCE), Need(Stat.RANKS)})


def initial_state(**_: Any) -> Mapping[str, Any]:
    """No group seen."""
    return _running.empty()


def check(
    *,
    worst_share: Any = 0.1,
    top_k: Any = 100,
    drop_share: Any = 0.1,
    window: Any = 64,
    refresh: Any = 16,
    clip_low: Any = 0.05,
    clip_high: Any = 0.85,
    sigma_on: Any = "clipped",
    include_eos: Any = False,
) -> None:
    """Check the arguments.

    Raises:
        UserError: a value out of its range.
    """
    checks.share("filtering.worst_share", worst_share, todo="0.1 looks at the worst tenth of the reference's tokens")
    checks.whole("filtering.top_k", top_k, low=1, todo="100 is the default; half the vocabulary drops nothing")
    check_part("filtering.drop_share", drop_share, zero=True, todo="0 drops nothing for its variance")
    _running.check(window=window, refresh=refresh)
    check_sigma(clip_low=clip_low, clip_high=clip_high, sigma_on=sigma_on, include_eos=include_eos)
