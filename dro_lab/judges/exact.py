"""The judge that needs no model: the data set's own metric on the sampled answer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dro_lab.errors import UserError
from dro_lab.scoring.stats import Judge
from dro_lab.types import Need, RolloutGroups, Row, Stat, Task


def exact(task: Task, *, needs: Iterable[Need]) -> Judge:
    """A judge that gives each rollout its answer's quality under ``task.metric``, (P, G), float32; nan = no verdict.

    Raises:
        UserError: something needs verdicts (``Stat.VERIFIER``), and the data set has no metric.
    """
    metric = task.metric
    if metric is None and any(need.stat is Stat.VERIFIER for need in needs):
        raise UserError(
            f"judge=exact with dataset {task.name}: the data set has no metric, so its answers cannot be verified; "
            "choose a data set with one, or a reward that needs no verifier (reward=r3)"
        )

    def judge(groups: RolloutGroups) -> Tensor:
        quality_PG = torch.full(groups.shape, torch.nan)
        if metric is None:
            return quality_PG
        rows = zip(groups.columns_P, groups.prompts_P, groups.references_P, groups.answers_PG, strict=True)
        for p, (columns, prompt, reference, answers_G) in enumerate(rows):
            row = Row(id=str(columns["id"]), prompt=prompt, reference=reference, columns=columns)
            quality_PG[p] = torch.tensor([metric(answer, row) for answer in answers_G])
        return quality_PG

    return judge
