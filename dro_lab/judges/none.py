"""No judge: quality is unknown."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dro_lab.errors import UserError
from dro_lab.scoring.stats import Judge
from dro_lab.types import Need, RolloutGroups, Stat, Task


def none(task: Task, *, needs: Iterable[Need]) -> Judge:
    """A judge that gives nan for every rollout, (P, G), float32.

    Raises:
        UserError: something needs verdicts (``Stat.VERIFIER``).
    """
    if any(need.stat is Stat.VERIFIER for need in needs):
        raise UserError(
            "judge=none: the chosen reward, gate or filter needs verdicts; choose judge=exact, or a reward that needs "
            "no verifier (reward=r3)"
        )

    def judge(groups: RolloutGroups) -> Tensor:
        return torch.full(groups.shape, torch.nan)

    return judge
