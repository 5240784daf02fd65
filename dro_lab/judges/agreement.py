"""How often a judge agrees with the data set's own program, wherever that program knows the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dro_lab.judges.protocol import NO, UNKNOWN, YES, Question
from dro_lab.types import Task


class Agreement:
    """Counts verdicts against ``task.check_program``; nothing where the data set has none.

    Metrics: ``agreement_with_exact``, the share of the judge's known verdicts that equal the program's;
    ``exact_says_yes``, what always saying yes would agree with; ``balanced_agreement``, the mean of the agreement over
    the program's yes and its no, which always saying the same brings to 0.5; ``compared_with_exact``, how many verdicts
    were compared (an unknown verdict is not among them).
    """

    def __init__(self, task: Task) -> None:
        self._program = task.check_program
        self._table = {(truth, said): 0 for truth in (YES, NO) for said in (YES, NO, UNKNOWN)}

    def add(self, questions: Sequence[Question], verdicts: Sequence[int]) -> None:
        """Compare these verdicts."""
        if self._program is None:
            return
        for question, said in zip(questions, verdicts, strict=True):
            truth = self._program(question.answer, question.row, question.check)
            if truth != UNKNOWN:
                self._table[truth, said] += 1

    def carried(self) -> Sequence[Sequence[int]]:
        """The counts: the program's verdict, the judge's, how often."""
        return [[*key, count] for key, count in self._table.items()]

    def resume(self, carried: Sequence[Sequence[int]]) -> None:
        """Go on counting from there."""
        self._table = {(truth, said): count for truth, said, count in carried}

    def metrics(self) -> Mapping[str, float]:
        """The figures; none before anything could be compared."""
        known = {truth: self._table[truth, YES] + self._table[truth, NO] for truth in (YES, NO)}
        if not sum(known.values()):
            return {}
        metrics = {
            "agreement_with_exact": (self._table[YES, YES] + self._table[NO, NO]) / sum(known.values()),
            "exact_says_yes": known[YES] / sum(known.values()),
            "compared_with_exact": float(sum(known.values())),
        }
        if all(known.values()):
            shares = [self._table[truth, truth] / known[truth] for truth in (YES, NO)]
            metrics["balanced_agreement"] = sum(shares) / 2
        return metrics
