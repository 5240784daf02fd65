"""What the reasoning of sampled answers is made of: segments, backtracking, and when the answer is first certain."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch

from dro_lab.data import backtracking
from dro_lab.evaluation.intervals import FloatArray
from dro_lab.evaluation.settings import EvaluationSettings
from dro_lab.types import Need, PrefixPlan, RolloutGroups, Stat, TokenStats

BLANK_LINE = re.compile(r"\n\s*\n")
LINE_END = re.compile(r"\n")


def segments(reasoning: str) -> list[str]:
    """The reasoning cut at blank lines; at line ends where it has no blank line. Empty pieces are no segments."""
    text = reasoning.strip()
    cut = BLANK_LINE if BLANK_LINE.search(text) else LINE_END
    return [piece for piece in cut.split(text) if piece.strip()]


def backtracks(segment: str) -> bool:
    """Whether a phrase of `dro_lab.data.backtracking.PHRASES` stands in the segment, in either case."""
    return backtracking.count(segment) > 0


def reasoning_metrics(groups: RolloutGroups) -> dict[str, FloatArray]:
    """Per row: ``segments`` a completion, and ``backtracking_share``.

    The share of a completion is that of its segments with a phrase of backtracking; a row's is the mean over its
    completions. A completion without reasoning has 0 segments and no share: it is left out of the mean, and a row of
    such completions alone is nan.

    Returns:
        Shape (rows,) each.

    Source: REPRO (arXiv 2512.01925), which reports that backtracking falls during training; the count is ours.
    """
    cut_PG = [[segments(reasoning) for reasoning in reasonings_G] for reasonings_G in groups.reasonings_PG]
    return {
        "segments": np.array([_mean([float(len(cut)) for cut in cut_G]) for cut_G in cut_PG]),
        "backtracking_share": np.array([_mean([_share(backtracks, cut) for cut in cut_G if cut]) for cut_G in cut_PG]),
    }


def _share(holds: Callable[[str], bool], pieces: list[str]) -> float:
    return sum(map(holds, pieces)) / len(pieces)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def prefix_needs(settings: EvaluationSettings) -> frozenset[Need]:
    """What an evaluation measures for `certainty` although no component may have asked for it."""
    if settings.certainty is not True:
        return frozenset()
    return frozenset({Need(Stat.PREFIXES, plan=PrefixPlan(k=settings.certain_points))})


def certainty(groups: RolloutGroups, stats: TokenStats, *, threshold: float) -> dict[str, FloatArray]:
    """Per row: how long the policy reasons until it is first certain of the reference.

    A rollout is certain at a scored point where ``exp(mean_j log p_j) >= threshold``, the mean over the reference's own
    tokens; its length is the reasoning tokens of the shortest such prefix (0 where there is no reasoning). Points are
    few, so the length is known up to the distance between them, from above.

    Returns:
        Shape (rows,) each. ``certain_share``: share of the rollouts that are certain at any point. ``certain_at``: mean
        length over *those rollouts only*; the others are censored (the length is unknown, at least the whole
        reasoning) and stand in ``certain_share`` alone, so the two are read together. A row without a certain rollout
        has no ``certain_at`` (nan). Empty where prefixes were not measured.
    """
    logps_PGKR, mask_PGK, ends_PGK = stats.prefix_logps_PGKR, stats.prefix_mask_PGK, stats.prefix_ends_PGK
    mask_PR = stats.reference_mask_PR
    if logps_PGKR is None or mask_PGK is None or ends_PGK is None or mask_PR is None:
        return {}
    own_P11R = mask_PR[:, None, None]
    total_PGK = logps_PGKR.double().masked_fill(~own_P11R, 0.0).sum(-1)
    certain_PGK = (total_PGK / own_P11R.sum(-1)).exp() >= threshold  # a reference without a token: nan, never certain
    start_PG = groups.reasoning_mask_PGC.long().cumsum(-1).eq(0).sum(-1)  # tokens before the reasoning
    start_PG = start_PG.masked_fill(~groups.reasoning_mask_PGC.any(-1), 0)
    length_PGK = (ends_PGK + 1 - start_PG[..., None]).clamp(min=0).double()
    first_PG = length_PGK.masked_fill(~(certain_PGK & mask_PGK), torch.inf).amin(-1).numpy()
    return {
        "certain_share": np.isfinite(first_PG).mean(axis=1),
        "certain_at": np.array([_mean([length for length in lengths if np.isfinite(length)]) for lengths in first_PG]),
    }
