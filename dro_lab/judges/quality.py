"""Quality and verdicts of a step's rollouts: from the data set's metric and the run's judge to tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dro_lab.judges.protocol import NO, UNKNOWN, YES, Judge, Question
from dro_lab.rubrics.checks import checks_of
from dro_lab.scoring.stats import Verdicts
from dro_lab.types import Check, RolloutGroups, Row, Task


def rows_of(groups: RolloutGroups) -> list[Row]:
    """The rows that the groups answer."""
    return [
        Row(id=str(columns["id"]), prompt=prompt, reference=reference, columns=columns)
        for columns, prompt, reference in zip(groups.columns_P, groups.prompts_P, groups.references_P, strict=True)
    ]


def met(verdict: int, check: Check) -> int:
    """Whether the answer meets the check: the judge's literal answer held against what a good answer gets."""
    if verdict == UNKNOWN:
        return UNKNOWN
    return YES if (verdict == YES) == (check.expect == "yes") else NO


REST = "rubric_rest"
"""The column of checks beyond a rubric's ten: they count in the rubric score, and do not gate."""


def verdicts(groups: RolloutGroups, judge: Judge, *, rest: bool = False) -> tuple[Tensor, Tensor]:
    """``(verdicts_PGV int8, checks_mask_PV bool)``: 1 where the answer meets the check, 0 where not, -1 unknown.

    Equal answers to one query are put to the judge once; V is the longest rubric (at least 1). ``rest``: of the checks
    beyond the ten instead.
    """
    rows = rows_of(groups)
    rubrics = [_rest(row.columns) if rest else checks_of(row.columns) for row in rows]
    width = max(map(len, rubrics), default=0) or 1
    verdicts_PGV = torch.full((*groups.shape, width), UNKNOWN, dtype=torch.int8)
    mask_PV = torch.zeros(groups.shape[0], width, dtype=torch.bool)
    asked: dict[tuple[int, str, int], Question] = {}
    for p, (row, checks) in enumerate(zip(rows, rubrics, strict=True)):
        mask_PV[p, : len(checks)] = True
        for answer in groups.answers_PG[p]:
            for v, check in enumerate(checks):
                asked.setdefault((p, answer, v), Question(row=row, answer=answer, check=check))
    found = dict(zip(asked, judge.verdicts(list(asked.values())), strict=True))
    for p, answers_G in enumerate(groups.answers_PG):
        for g, answer in enumerate(answers_G):
            for v, check in enumerate(rubrics[p]):
                verdicts_PGV[p, g, v] = met(found[p, answer, v], check)
    return verdicts_PGV, mask_PV


def _rest(columns: Mapping[str, Any]) -> tuple[Check, ...]:
    return checks_of(columns, column=REST, limit=None)


def asked_once(judge: Judge) -> Verdicts:
    """`verdicts` by the judge that remembers the last groups, so that gate and rubric score ask for them once."""
    last: list[tuple[RolloutGroups, tuple[Tensor, Tensor]]] = []

    def ask(groups: RolloutGroups) -> tuple[Tensor, Tensor]:
        if not last or last[0][0] is not groups:
            last[:] = [(groups, verdicts(groups, judge))]
        return last[0][1]

    return ask


def rubric_score(met_V: Sequence[int], checks: Sequence[Check]) -> float:
    """RaR's rubric score of one answer: ``clip(earned / sum of positive weights, 0, 1)``.

    ``earned`` sums the positive weights of the checks that the answer meets, and the negative weights of the checks
    that it fails (a pitfall it fell into). ``met_V`` has the polarity applied (`met`): YES is good whatever the
    wording, so a pitfall worded as the fault and one worded as its avoidance cost the same. Unknown earns nothing and
    costs nothing, but its positive weight stays in the denominator.

    Args:
        met_V: YES, NO or UNKNOWN for every check.
        checks: in the same order.

    Returns:
        nan where no check has a positive weight, or no verdict is known: there is nothing to score.

    Source: Gunjal et al., Rubrics as Rewards (arXiv 2507.17746), explicit aggregation. Deviations: pitfalls stay out of
    the denominator, whose maximum is then what a faultless answer earns; the polarity is read from the wording
    (`dro_lab.data.rar_medicine_rubric`), since the data set words some pitfalls as their avoidance.
    """
    total = sum(check.weight for check in checks if check.weight > 0)
    if not total or all(value == UNKNOWN for value in met_V):
        return math.nan
    earned = 0.0
    for value, check in zip(met_V, checks, strict=True):
        if value == (YES if check.weight > 0 else NO):
            earned += check.weight
    return min(max(earned / total, 0.0), 1.0)


def quality(groups: RolloutGroups, task: Task, judge: Judge, *, ask: Verdicts | None = None) -> Tensor:
    """(P, G) float32 in [0, 1], nan = not known: the data set's metric, else the rubric score where it asks for it.

    ``ask``: how to come by verdicts (`asked_once`); None asks the judge.
    """
    quality_PG = torch.full(groups.shape, torch.nan)
    if judge.name == "none" or (task.metric is None and not task.rubric_score):
        return quality_PG
    if task.metric is None:
        verdicts_PGV, _ = ask(groups) if ask else verdicts(groups, judge)
        rest_PGV, _ = verdicts(groups, judge, rest=True)
        for p, columns in enumerate(groups.columns_P):
            checks, more = checks_of(columns), _rest(columns)
            for g in range(groups.shape[1]):
                found = [*verdicts_PGV[p, g, : len(checks)].tolist(), *rest_PGV[p, g, : len(more)].tolist()]
                quality_PG[p, g] = rubric_score(found, (*checks, *more))
        return quality_PG
    for p, (row, answers_G) in enumerate(zip(rows_of(groups), groups.answers_PG, strict=True)):
        scored: Mapping[str, float] = {answer: task.metric(answer, row) for answer in dict.fromkeys(answers_G)}
        quality_PG[p] = torch.tensor([scored[answer] for answer in answers_G])
    return quality_PG
