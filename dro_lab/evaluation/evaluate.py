"""What a policy does on held-out rows: sampled answers, judged exactly, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dro_lab.evaluation.intervals import FloatArray, mean_over_rows, win_rate_per_row
from dro_lab.evaluation.settings import EvaluationSettings
from dro_lab.pipeline import rejected
from dro_lab.record.summary import Estimate
from dro_lab.training.rollouts import RolloutScorer, ScoredStep
from dro_lab.types import Row

Sampler = Callable[..., list[list[int]]]
"""``sample(prompt_ids, n, batch_size=, seed=) -> completion ids``, prompt-major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: estimates by metric name, and what they rest on."""

    step: int
    split: str
    estimates: Mapping[str, Estimate]
    quality: FloatArray  # (rows, samples); nan where the row cannot be judged
    step_result: ScoredStep
    rows: Sequence[Row]


def evaluate(
    *,
    sample: Sampler,
    scoring: RolloutScorer,
    model: Any,
    rows: Sequence[Row],
    step: int,
    settings: EvaluationSettings,
    base: Evaluation | None = None,
) -> Evaluation:
    """Sample ``settings.samples`` answers a row, judge and score them.

    Every evaluation draws the same random numbers, so two evaluations differ by the policy and not by luck, and an
    evaluation never changes what training samples next.

    Args:
        base: the evaluation of the base policy on the same rows; gives the win rate.
    """
    completion_ids = sample(
        scoring.prompt_ids(rows), settings.samples, batch_size=settings.batch_size, seed=settings.seed
    )
    result = scoring.score(
        model, rows, completion_ids, group_size=settings.samples, step=step, progress=0.0, held_out=True
    )
    groups, stats = result.scored.groups, result.stats_for_reports
    per_row: dict[str, FloatArray] = {
        "quality": result.quality_PG.double().numpy().mean(axis=1),
        "reward": _nanmean_rows(result.scored.sampled.outcome_PG),
        "reasoning_tokens": groups.reasoning_mask_PGC.sum(-1).double().numpy().mean(axis=1),
        "completion_tokens": groups.completion_mask_PGC.sum(-1).double().numpy().mean(axis=1),
        "truncated_share": groups.truncated_PG.double().numpy().mean(axis=1),
        "malformed_share": groups.malformed_PG.double().numpy().mean(axis=1),
        "gate_rejected_share": rejected(result.scored.gate).double().numpy(),
        "filter_dropped_share": 1.0 - result.scored.filtered.keep_PG.double().numpy().mean(axis=1),
    }
    if stats.reference_logps_PGR is not None and stats.reference_mask_PR is not None and settings.samples > 1:
        probabilities = stats.reference_logps_PGR.exp()
        reflective = (probabilities.std(dim=1, correction=0) >= settings.reflective_sigma) & stats.reference_mask_PR
        per_row["reflective_share"] = (
            (reflective.sum(-1) / stats.reference_mask_PR.sum(-1).clamp(min=1)).double().numpy()
        )
    quality = result.quality_PG.double().numpy()
    if base is not None:
        per_row["win_rate"] = win_rate_per_row(quality, base.quality)
    estimates = {
        name: mean_over_rows(
            name, values, confidence=settings.confidence, resamples=settings.bootstrap, seed=settings.seed
        )
        for name, values in per_row.items()
    }
    return Evaluation(
        step=step, split=settings.split, estimates=estimates, quality=quality, step_result=result, rows=rows
    )


def _nanmean_rows(values_PG: torch.Tensor) -> FloatArray:
    """Mean over rollouts, leaving out those that could not be scored."""
    values = values_PG.double()
    scored = torch.isfinite(values)
    total = torch.where(scored, values, torch.zeros_like(values)).sum(dim=1)
    return np.asarray(torch.where(scored.any(1), total / scored.sum(1).clamp(min=1), torch.nan))
