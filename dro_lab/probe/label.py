"""The quality that rewards are ranked by: the data set's metric, an LLM judge's grade, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dro_lab.build import Built
from dro_lab.errors import UserError
from dro_lab.judges.protocol import UNKNOWN, Question
from dro_lab.judges.quality import met, rows_of
from dro_lab.probe.settings import Settings
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, RolloutGroups, Task

SURFACE = "reference_overlap"
"""The metric of data that names none: surface similarity, no label of quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Quality of each rollout; all nan, and without a name, where nothing tells it."""

    values_PG: Tensor
    name: str
    note: str


def check_label(task: Task, judge: str, settings: Settings) -> None:
    """Refuse, before anything is sampled, a label that data set and judge cannot give.

    Raises:
        UserError: ``probe.label`` is metric or judge, and there is none.
    """
    if settings.label == "metric" and not _exact(task) and not task.rubric_score:
        raise UserError(
            f"probe.label=metric: dataset={task.name} has no exact quality (its metric: {task.metric_name}); name a "
            "metric (dataset=jsonl: dataset.metric=my_lab.metrics.right), or take probe.label=auto"
        )
    if settings.label == "judge" and judge in NO_GRADERS:
        raise UserError(
            f"probe.label=judge: judge={judge} cannot grade answers; choose judge=openai (with judge.base_url and "
            "judge.model) or judge=policy"
        )


NO_GRADERS = ("exact", "none")
"""Judges that can say nothing of an answer beside the data set's own programs."""


def _exact(task: Task) -> bool:
    return task.metric is not None and task.metric_name != SURFACE


def label_of(built: Built, groups: RolloutGroups, values_PG: Tensor, settings: Settings) -> Label:
    """The label that ``probe.label`` asks for, as far as it can be had.

    Args:
        values_PG: what metric and judge of the run say of each answer, nan where they cannot.
    """
    task, judge = built.task, built.judge.name
    unknown_PG = torch.full(groups.shape, math.nan)
    if settings.label == "none":
        return Label(values_PG=unknown_PG, name="", note="probe.label=none: no quality was asked for")
    exact = _exact(task)
    told = (exact or task.rubric_score) and not values_PG.isnan().all()
    if settings.label in ("auto", "metric") and told:
        by = "" if exact else f", by judge={judge}: as good as that judge"
        return Label(values_PG=values_PG, name=task.metric_name, note=f"quality is {task.metric_name}{by}")
    if settings.label != "metric" and judge not in NO_GRADERS:
        return _graded(built, groups)
    metric = f"its metric, {SURFACE}, is surface similarity" if task.metric_name == SURFACE else f"judge={judge}"
    note = (
        f"no quality label ({metric}): rewards are held against their noise floor instead; an LLM judge gives a label "
        "(judge=openai judge.base_url=... judge.model=...)"
    )
    return Label(values_PG=unknown_PG, name="", note=note)


def _graded(built: Built, groups: RolloutGroups) -> Label:
    """An LLM judge's grade: the share of the row's rubric that an answer meets; without one, whether it agrees with
    the reference."""
    rows = rows_of(groups)
    checks_P = [checks_of(row.columns) or (_agrees(row.reference),) for row in rows]
    asked: dict[tuple[int, str, int], Question] = {}
    for p, row in enumerate(rows):
        for answer in groups.answers_PG[p]:
            for v, check in enumerate(checks_P[p]):
                asked.setdefault((p, answer, v), Question(row=row, answer=answer, check=check))
    found = dict(zip(asked, built.judge.verdicts(list(asked.values())), strict=True))
    values = [
        [_share([met(found[p, answer, v], check) for v, check in enumerate(checks)]) for answer in groups.answers_PG[p]]
        for p, checks in enumerate(checks_P)
    ]
    rubrics = any(checks_of(row.columns) for row in rows)
    what = "the share of the rubric that an answer meets" if rubrics else "whether an answer agrees with the reference"
    return Label(
        values_PG=torch.tensor(values, dtype=torch.float32).reshape(groups.shape),
        name=f"judge={built.judge.name}",
        note=f"quality is {what}, by judge={built.judge.name}: as good as that judge (`python -m dro_lab.judge_audit`)",
    )


def _agrees(reference: str) -> Check:
    return Check(id="agrees", text=f"Does the answer agree in substance with this reference answer? {reference}")


def _share(met_V: Sequence[int]) -> float:
    known = [verdict for verdict in met_V if verdict != UNKNOWN]
    return sum(known) / len(known) if known else math.nan
