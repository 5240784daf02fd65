"""What a policy does on held-out rows: sampled and greedy answers on one or more splits, with intervals.

The headline part, sampled answers on `evaluation.split`, goes through the whole pipeline and so has a reward too. The
others are read by the data set's metric and the judge alone: greedy decoding gives one answer a row, and a reward
compares several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dro_lab.evaluation.corpus import corpus_estimates
from dro_lab.evaluation.divergence import kl_to_start
from dro_lab.evaluation.intervals import FloatArray, mean_over_rows
from dro_lab.evaluation.passk import pass_at_k
from dro_lab.evaluation.reasoning import certainty, prefix_needs, reasoning_metrics
from dro_lab.evaluation.settings import EvaluationSettings, full_name, parts_of, pass_name
from dro_lab.evaluation.wins import compare
from dro_lab.judges.protocol import Judge
from dro_lab.pipeline import rejected
from dro_lab.record.summary import Estimate
from dro_lab.training.rollouts import RolloutScorer, ScoredStep
from dro_lab.types import RolloutGroups, Row, Task

Sampler = Callable[..., list[list[int]]]
"""``sample(prompt_ids, n, batch_size=, seed=, greedy=) -> completion ids``, prompt-major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One split by one decoding."""

    split: str
    decoding: str  # "sampled" or "greedy"
    rows: Sequence[Row]
    groups: RolloutGroups  # the answers, by row and sample
    quality_PG: FloatArray
    wins: Mapping[str, FloatArray]  # against the base, per row (`dro_lab.evaluation.wins.compare`); of the base: empty
    estimates: Mapping[str, Estimate]  # by metric

    @property
    def answers(self) -> Sequence[Sequence[str]]:
        """By row and sample."""
        return self.groups.answers_PG


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: its parts, the headline part first, and what that rests on."""

    step: int
    parts: Sequence[Part]
    step_result: ScoredStep  # of the headline part

    @property
    def split(self) -> str:
        """The headline part's."""
        return self.parts[0].split

    @property
    def rows(self) -> Sequence[Row]:
        """The headline part's."""
        return self.parts[0].rows

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All parts by full name (`dro_lab.evaluation.settings.full_name`)."""
        return {
            (name := full_name(metric, split=part.split, decoding=part.decoding, main=self.split)): replace(
                estimate, metric=name
            )
            for part in self.parts
            for metric, estimate in part.estimates.items()
        }

    def part(self, split: str, decoding: str) -> Part | None:
        """The part, where it was evaluated."""
        return next((part for part in self.parts if (part.split, part.decoding) == (split, decoding)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Evaluates a policy, the same way each time.

    Every evaluation draws the same random numbers, so two evaluations differ by the policy and not by luck, and an
    evaluation never changes what training samples next.

    Args:
        sample: of the trainer.
        model: the policy, unwrapped.
        rows: the rows of every split that is evaluated.
        autocast: the context in which the policy runs, as in training.
        alike: the context in which all ranks ask the judge the same.
    """

    sample: Sampler
    scoring: RolloutScorer
    model: Callable[[], Any]
    rows: Mapping[str, Sequence[Row]]
    task: Task
    judge: Judge
    settings: EvaluationSettings
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    alike: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, step: int, base: Evaluation | None = None, *, extras: bool = True) -> Evaluation:
        """Evaluate now.

        Args:
            step: optimizer steps done.
            base: the evaluation of the base policy on the same rows; gives the win rate.
            extras: also greedy answers and further splits.
        """
        with self.alike():
            evaluation = self._headline(step, base)
        return self.with_extras(evaluation, base) if extras else evaluation

    def _headline(self, step: int, base: Evaluation | None) -> Evaluation:
        """The evaluation with its headline part alone."""
        settings = self.settings
        rows = self.rows[settings.split]
        completion_ids = self._complete(rows, "sampled")
        with self.autocast():
            result = self.scoring.score(
                self.model(),
                rows,
                completion_ids,
                group_size=settings.samples,
                step=step,
                progress=0.0,
                held_out=True,
                extra=prefix_needs(settings),
            )
        headline = self._part(
            settings.split,
            "sampled",
            result.scored.groups,
            quality_PG=result.quality_PG,
            base=base,
            more={**_scored(result, settings), **self._kl(rows, completion_ids, first=base is None)},
        )
        return Evaluation(step=step, parts=[headline], step_result=result)

    def _kl(
        self, rows: Sequence[Row], completion_ids: Sequence[Sequence[int]], *, first: bool
    ) -> dict[str, FloatArray]:
        """Per row: the divergence from the policy before training, where the run keeps that one; 0 before training."""
        policies = {} if self.settings.kl is False else self.scoring.policies.models(self.model(), step=None)
        if "reference" not in policies:
            return {}
        if first:
            return {"kl": np.zeros(len(rows))}
        with self.autocast():
            found = kl_to_start(
                policies["current"],
                policies["reference"],
                self.scoring.prompt_ids(rows),
                completion_ids,
                group_size=self.settings.samples,
            )
        return {"kl": found}

    def with_extras(self, evaluation: Evaluation, base: Evaluation | None = None) -> Evaluation:
        """The evaluation with the parts that it lacks; the policy must not have changed since."""
        parts = list(evaluation.parts)
        for split, decoding in parts_of(self.settings):
            if evaluation.part(split, decoding) is None:
                samples = self.settings.samples if decoding == "sampled" else 1
                groups, _ = self.scoring.split(
                    self.rows[split], self._complete(self.rows[split], decoding), group_size=samples
                )
                with self.alike():
                    quality_PG = self.scoring.quality(groups)
                    parts.append(self._part(split, decoding, groups, quality_PG=quality_PG, base=base))
        return replace(evaluation, parts=parts)

    def _complete(self, rows: Sequence[Row], decoding: str) -> list[list[int]]:
        settings, greedy = self.settings, decoding == "greedy"
        with self.autocast():
            return self.sample(
                self.scoring.prompt_ids(rows),
                1 if greedy else settings.samples,
                batch_size=settings.batch_size,
                seed=settings.seed,
                greedy=greedy,
            )

    def _part(
        self,
        split: str,
        decoding: str,
        groups: RolloutGroups,
        *,
        quality_PG: Tensor,
        base: Evaluation | None,
        more: Mapping[str, FloatArray] | None = None,
    ) -> Part:
        settings, rows, answers = self.settings, self.rows[split], groups.answers_PG
        quality = quality_PG.double().numpy()
        per_row = {"quality": quality.mean(axis=1), **(more or {}), **_lengths(groups), **reasoning_metrics(groups)}
        if decoding == "sampled":
            for k in settings.pass_at:
                per_row[pass_name(k)] = pass_at_k(quality, k, threshold=settings.pass_quality)
        wins = {}
        if base is not None and (start := base.part(split, decoding)) is not None:
            wins = compare(rows, answers, start.answers, self.judge, pairs=settings.pairs)
            per_row.update(wins)
        estimates = {
            name: mean_over_rows(
                name, values, confidence=settings.confidence, resamples=settings.bootstrap, seed=settings.seed
            )
            for name, values in per_row.items()
        }
        if self.task.corpus_metric is not None:
            estimates.update(corpus_estimates(self.task.corpus_metric, answers, rows, settings=settings))
        return Part(
            split=split,
            decoding=decoding,
            rows=rows,
            groups=groups,
            quality_PG=quality,
            wins=wins,
            estimates=estimates,
        )


def _lengths(groups: RolloutGroups) -> dict[str, FloatArray]:
    """Per row: tokens, and shares of completions that are not whole."""
    reasoning_P = groups.reasoning_mask_PGC.sum(-1).double().numpy().mean(axis=1)
    completion_P = groups.completion_mask_PGC.sum(-1).double().numpy().mean(axis=1)
    return {
        "reasoning_tokens": reasoning_P,
        "answer_tokens": completion_P - reasoning_P,
        "completion_tokens": completion_P,
        "truncated_share": groups.truncated_PG.double().numpy().mean(axis=1),
        "malformed_share": groups.malformed_PG.double().numpy().mean(axis=1),
    }


def _scored(result: ScoredStep, settings: EvaluationSettings) -> dict[str, FloatArray]:
    """Per row: what needs the reward, the gate, the filter or the reference's probabilities."""
    stats = result.stats_for_reports
    found = {
        "reward": _nanmean_rows(result.scored.sampled.outcome_PG),
        "gate_rejected_share": rejected(result.scored.gate).double().numpy(),
        "filter_dropped_share": 1.0 - result.scored.filtered.keep_PG.double().numpy().mean(axis=1),
    }
    if stats.reference_logps_PGR is not None and stats.reference_mask_PR is not None and settings.samples > 1:
        probabilities = stats.reference_logps_PGR.exp()
        reflective = (probabilities.std(dim=1, correction=0) >= settings.reflective_sigma) & stats.reference_mask_PR
        shares = reflective.sum(-1) / stats.reference_mask_PR.sum(-1).clamp(min=1)
        found["reflective_share"] = shares.double().numpy()
    if settings.certainty is not False:
        found.update(certainty(result.scored.groups, stats, threshold=settings.certain))
    return found


def _nanmean_rows(values_PG: torch.Tensor) -> FloatArray:
    """Mean over rollouts, leaving out those that could not be scored."""
    values = values_PG.double()
    scored = torch.isfinite(values)
    total = torch.where(scored, values, torch.zeros_like(values)).sum(dim=1)
    return np.asarray(torch.where(scored.any(1), total / scored.sum(1).clamp(min=1), torch.nan))
