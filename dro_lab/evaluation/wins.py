"""Win rate against the base policy: pairs of answers to one query, put to the run's judge in both orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dro_lab.evaluation.intervals import FloatArray
from dro_lab.judges.protocol import Judge, Pair
from dro_lab.types import Row

FREE = ("exact", "none")
"""Judges that compute: asking costs nothing, and the order of two answers does not matter."""

Answers = Sequence[Sequence[str]]
"""Answers by row and sample."""


def paired(ours: int, base: int, pairs: str, *, free: bool) -> list[tuple[int, int]]:
    """Which sample meets which of the base: all with all, or the i-th with the i-th (``auto``: all where free)."""
    if pairs == "all" or (pairs == "auto" and free):
        return [(i, j) for i in range(ours) for j in range(base)]
    return [(i, i) for i in range(min(ours, base))]


def compare(rows: Sequence[Row], ours: Answers, base: Answers, judge: Judge, *, pairs: str) -> dict[str, FloatArray]:
    """Per row: ``win_rate``, ``win_unknown_share`` and, of a judge that is asked, ``order_disagreement``.

    ``win = (p(ours first) + 1 - p(base first)) / 2``, p = 1 where the first is better, 0.5 for a tie; a row's win rate
    is the mean over its pairs. A pair that the judge cannot decide in both orders is left out and counted (one order
    alone would carry the judge's preference for a place). A disagreement is a pair judged otherwise in the other order.
    Equal texts tie without a question to a judge that is asked. All questions of a call go to the judge at once.

    Returns:
        Shape (rows,) each; nan where a row has no decided pair.

    Source: Zheng et al. 2023 (arXiv 2306.05685) on position bias; DRO (arXiv 2506.13351) for win rate against the base.
    """
    if len(ours) != len(base):
        raise ValueError(f"win rate needs the same rows on both sides, got {len(ours)} and {len(base)}")
    free = judge.name in FREE
    meetings = [
        (r, ours[r][i], base[r][j])
        for r in range(len(rows))
        for i, j in paired(len(ours[r]), len(base[r]), pairs, free=free)
    ]
    questions: dict[tuple[int, str, str], Pair] = {}
    for r, own, other in meetings:
        if free or own.strip() != other.strip():
            for first, second in ((own, other),) if free else ((own, other), (other, own)):
                questions.setdefault((r, first, second), Pair(row=rows[r], first=first, second=second))
    said = dict(zip(questions, judge.preferences(list(questions.values())), strict=True)) if questions else {}
    wins: list[list[float]] = [[] for _ in rows]
    disagreements: list[list[float]] = [[] for _ in rows]
    for r, own, other in meetings:
        if (r, own, other) not in said:
            wins[r].append(0.5)
            continue
        ahead = said[r, own, other]
        behind = ahead if free else 1.0 - said[r, other, own]
        wins[r].append((ahead + behind) / 2)
        if not np.isnan(ahead + behind):
            disagreements[r].append(float(ahead != behind))
    found = {
        "win_rate": np.array([_mean([w for w in row if not np.isnan(w)]) for row in wins]),
        "win_unknown_share": np.array([_mean([float(np.isnan(w)) for w in row]) for row in wins]),
    }
    if not free:
        found["order_disagreement"] = np.array([_mean(row) for row in disagreements])
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
