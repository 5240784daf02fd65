"""FinQA's figures: accuracy of numbers and of programs, and the official execution accuracy of all answers together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dro_lab.data.finqa_program import ProgramError, execute, execution_match, find_program
from dro_lab.data.metrics import agrees, numeric_accuracy
from dro_lab.types import Row


def program_accuracy(answer: str, row: Row) -> float:
    """`numeric_accuracy` of the result of the last program in the answer; of the answer itself where it holds none.

    A program that cannot be run scores 0. nan where the row has no judgeable truth.
    """
    program = find_program(answer)
    plain = numeric_accuracy(answer, row)
    if program is None or math.isnan(plain):
        return plain
    truth = row.columns["exe_ans"]
    try:
        result = execute(program, row.columns.get("table") or ())
    except ProgramError:
        return 0.0
    if isinstance(result, str) or isinstance(truth, str):
        return float(result == truth)
    return float(agrees(result, truth))


def execution_accuracy(answer: str, row: Row) -> float:
    """Official: 1 where the last program in the answer runs and gives exactly ``exe_ans`` (5 places), else 0.

    nan where ``exe_ans`` is not the executed program's result (it was read from the annotator's rounded answer) or the
    row has none.
    """
    truth = row.columns.get("exe_ans")
    if truth is None or not row.columns.get("executed", True):
        return math.nan
    return float(execution_match(find_program(answer), row.columns.get("table") or (), truth))


def figures(answers: Sequence[str], rows: Sequence[Row], *, programs_asked: bool = False) -> Mapping[str, float]:
    """``execution_accuracy`` and ``program_share``, the share of answers that hold a program.

    Execution accuracy is over all answers; one without a program scores 0, as officially. nan where no row can be
    judged, and where no answer holds a program and none was asked for.
    """
    scores = [execution_accuracy(answer, row) for answer, row in zip(answers, rows, strict=True)]
    known = [score for score in scores if not math.isnan(score)]
    held = sum(find_program(answer) is not None for answer in answers)
    return {
        "execution_accuracy": sum(known) / len(known) if known and (held or programs_asked) else math.nan,
        "program_share": held / len(answers) if answers else math.nan,
    }
