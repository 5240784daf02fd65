"""The judge that needs no model: the data set's own programs, for the rubric's checks and for comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dro_lab.errors import UserError
from dro_lab.judges.protocol import UNKNOWN, Pair, Question
from dro_lab.types import Need, Stat, Task


class ExactJudge:
    """Answers checks by ``task.check_program`` and compares by ``task.metric``."""

    name = "exact"
    asks_reference = False

    def __init__(self, task: Task) -> None:
        self._program, self._metric = task.check_program, task.metric
        self._unknown = 0

    def verdicts(self, questions: Sequence[Question]) -> list[int]:
        """The program's verdicts; UNKNOWN for a check that it does not know."""
        if self._program is None:
            found = [UNKNOWN] * len(questions)
        else:
            found = [self._program(question.answer, question.row, question.check) for question in questions]
        self._unknown += found.count(UNKNOWN)
        return found

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        """By the metric: the order of the two answers does not matter."""
        return [math.nan if self._metric is None else self._prefer(pair) for pair in pairs]

    def _prefer(self, pair: Pair) -> float:
        assert self._metric is not None
        first, second = self._metric(pair.first, pair.row), self._metric(pair.second, pair.row)
        if math.isnan(first) or math.isnan(second):
            return math.nan
        return 0.5 if first == second else float(first > second)

    def metrics(self) -> Mapping[str, float]:
        return {"unknown_verdicts": float(self._unknown)}

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on."""
        return {"unknown": self._unknown}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self._unknown = carried["unknown"]

    def attach(self, **_: Any) -> None:
        """It asks no policy."""


def exact(task: Task, *, needs: Iterable[Need]) -> ExactJudge:
    """The data set's programs as a judge.

    Raises:
        UserError: something needs the verifier and the data set has no metric, or needs verdicts and it has no program
            for its checks.
    """
    stats = {need.stat for need in needs}
    if Stat.VERIFIER in stats and task.metric is None:
        raise UserError(
            f"judge=exact with dataset {task.name}: the data set has no metric, so its answers cannot be verified; "
            "choose a data set with one (dataset=jsonl: dataset.metric=PATH), or a reward that needs no verifier "
            "(reward=r3)"
        )
    if Stat.VERDICTS in stats and task.check_program is None:
        raise UserError(
            f"judge=exact with dataset {task.name}: the data set has no program that decides a rubric's checks; choose "
            "judge=openai or judge=policy, or gating=none (dataset=jsonl: or dataset.check_program=PATH)"
        )
    return ExactJudge(task)
