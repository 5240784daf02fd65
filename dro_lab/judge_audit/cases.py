"""What the judge is asked about: rows with one check each, and for each a wrong and a corrupted answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dro_lab.judge_audit.attacks import EMPTY, WHOLE_ANSWER
from dro_lab.judges.protocol import YES
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Row, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row with a check that separates (see `cases`)."""

    row: Row
    check: Check
    checks: Sequence[Check]  # the whole rubric
    wrong: str  # another row's reference
    corrupted: str  # the reference's words in another order; "" where that changes nothing


def cases(task: Task, rows: Sequence[Row], *, count: int, seed: int) -> tuple[list[Case], int]:
    """At most ``count`` cases from ``rows``, drawn by the seed; and how many drawn rows had no check that separates.

    A check separates where a good answer gets yes and, by the data set's program, the row's reference does and neither
    the empty nor the wrong answer does. Without a program every check that expects yes is taken to separate.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows)).tolist()
    found: list[Case] = []
    unusable = 0
    for place, number in enumerate(order):
        if len(found) == count:
            break
        row = rows[number]
        others = (rows[order[(place + step) % len(rows)]].reference for step in range(1, len(rows)))
        wrong = next((other for other in others if other != row.reference), None)
        checks = checks_of(row.columns) or (WHOLE_ANSWER,)
        usable = [] if wrong is None else [check for check in checks if _separates(task, row, check, wrong)]
        if wrong is None or not usable:
            unusable += 1
            continue
        found.append(
            Case(
                row=row,
                check=usable[int(rng.integers(len(usable)))],
                checks=checks,
                wrong=wrong,
                corrupted=_corrupted(row.reference, rng),
            )
        )
    return found, unusable


def _separates(task: Task, row: Row, check: Check, wrong: str) -> bool:
    if check.expect != "yes":
        return False
    if task.check_program is None or check is WHOLE_ANSWER:
        return True
    says = [task.check_program(answer, row, check) for answer in (row.reference, EMPTY, wrong)]
    return says[0] == YES and YES not in says[1:]


def _corrupted(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    shuffled = " ".join(words[number] for number in rng.permutation(len(words)))
    return "" if shuffled.split() == words else shuffled
