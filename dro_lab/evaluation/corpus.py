"""The data set's figures of all answers together (macro-F1, mAP, ...), with intervals by resampling rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from dro_lab.errors import UserError
from dro_lab.evaluation.settings import METRICS, EvaluationSettings
from dro_lab.record.summary import Estimate
from dro_lab.types import CorpusMetric, Row, Task


def corpus_estimates(
    metric: CorpusMetric, answers: Sequence[Sequence[str]], rows: Sequence[Row], *, settings: EvaluationSettings
) -> dict[str, Estimate]:
    """Each figure with a percentile bootstrap interval: rows are drawn with replacement, each with all its answers, and
    the figure is computed anew.

    ``low`` and ``high`` are nan where fewer than two rows are there, or a figure could be computed on no resample (a
    resample without a class, for example, leaves the figure out of it). ``n`` counts rows.
    """
    found = _figures(metric, answers, rows, range(len(rows)))
    rng = np.random.default_rng(settings.seed)
    draws = [
        _figures(metric, answers, rows, rng.integers(len(rows), size=len(rows)).tolist())
        for _ in range(settings.corpus_bootstrap if len(rows) > 1 else 0)
    ]
    tail = 50 * (1 - settings.confidence)
    estimates = {}
    for name, value in found.items():
        values = [draw[name] for draw in draws if math.isfinite(draw.get(name, math.nan))]
        low, high = np.percentile(values, [tail, 100 - tail]) if values else (math.nan, math.nan)
        estimates[name] = Estimate(metric=name, value=value, low=float(low), high=float(high), n=len(rows))
    return estimates


def _figures(
    metric: CorpusMetric, answers: Sequence[Sequence[str]], rows: Sequence[Row], chosen: Iterable[int]
) -> dict[str, float]:
    pairs = [(answer, rows[r]) for r in chosen for answer in answers[r]]
    found = metric([answer for answer, _ in pairs], [row for _, row in pairs])
    return {name: float(value) for name, value in found.items()}


def figure_names(task: Task, rows: Sequence[Row]) -> tuple[str, ...]:
    """The figures that the data set gives, learnt by judging the rows' references.

    Raises:
        UserError: a figure has the name of something that every evaluation measures.
    """
    if task.corpus_metric is None or not rows:
        return ()
    names = tuple(task.corpus_metric([row.reference for row in rows], rows))
    if taken := sorted(name for name in names if name in METRICS or "/" in name or "@" in name):
        raise UserError(
            f"dataset={task.name}: its figure {taken[0]!r} has a name that evaluations use already or cannot use; "
            "give the figure another name in the data set's corpus metric"
        )
    return names
