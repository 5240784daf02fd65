"""No judge: no quality, no verdicts, no comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dro_lab.errors import UserError
from dro_lab.judges.protocol import UNKNOWN, Pair, Question
from dro_lab.types import Need, Stat, Task


class NoJudge:
    """Knows nothing."""

    name = "none"
    asks_reference = False

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        return [UNKNOWN] * len(questions)

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        return [math.nan] * len(pairs)

    def metrics(self) -> Mapping[str, float]:
        return {}

    def attach(self, **_: Any) -> None:
        """There is nothing to ask."""


def none(task: Task, *, needs: Iterable[Need]) -> NoJudge:
    """A judge that knows nothing; quality is not measured either.

    Raises:
        UserError: something needs the verifier or verdicts.
    """
    if {Stat.VERIFIER, Stat.VERDICTS} & {need.stat for need in needs}:
        raise UserError(
            "judge=none: the chosen reward, gate or filter needs verdicts; choose judge=exact, or a reward that needs "
            "no verifier (reward=r3) with gating=none"
        )
    return NoJudge()
