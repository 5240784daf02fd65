"""What monitors need of a step's rollouts beside the pipeline's own metrics: cheap, and of texts alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dro_lab.judges.protocol import NO, UNKNOWN, Judge, Question
from dro_lab.judges.quality import met, rows_of
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import RolloutGroups

INPUTS = ("paragraph", "input")
"""Columns that hold the text which an answer revises; the first that a row has counts."""


def answer_metrics(groups: RolloutGroups) -> Mapping[str, float]:
    """``answers/equal_input_share`` and ``answers/most_common_share``, up to case and runs of white space.

    The first: share of the answers that equal their row's input, over the rows that carry one; nan where none does.
    The second: share of the step's answers that are its most common text, of the texts given under two prompts at
    least; 0 where there is no such text, nan with one prompt only. An empty answer is a text like any other.
    """
    answers_PG = [[_plain(answer) for answer in answers_G] for answers_G in groups.answers_PG]
    inputs_P = [next((_plain(str(c[k])) for k in INPUTS if c.get(k)), None) for c in groups.columns_P]
    copied = [
        answer == text for answers_G, text in zip(answers_PG, inputs_P, strict=True) if text for answer in answers_G
    ]
    prompts_with = Counter(text for answers_G in answers_PG for text in set(answers_G))
    counts = Counter(text for answers_G in answers_PG for text in answers_G if prompts_with[text] > 1)
    total = sum(map(len, answers_PG))
    return {
        "answers/equal_input_share": sum(copied) / len(copied) if copied else math.nan,
        "answers/most_common_share": max(counts.values(), default=0) / total if len(answers_PG) > 1 else math.nan,
    }


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


class ReferenceChecks:
    """Share of the checks of a step's rows that their own references fail, by the run's judge.

    Each reference is judged once a run: verdicts are kept by row and check.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[tuple[str, str], int] = {}

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on, and not ask again."""
        return {"known": [[*key, verdict] for key, verdict in self._known.items()]}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self._known = {(row, check): verdict for row, check, verdict in carried["known"]}

    def __call__(self, groups: RolloutGroups) -> Mapping[str, float]:
        """``rubric/reference_failed_share`` of the checks with a verdict, ``rubric/reference_unknown_share`` of all;
        nan where no row has a check."""
        asked = {
            (row.id, check.text): Question(row=row, answer=row.reference, check=check)
            for row in rows_of(groups)
            for check in checks_of(row.columns)
        }
        new = {key: question for key, question in asked.items() if key not in self._known}
        if new:
            self._known.update(zip(new, self._judge.verdicts(list(new.values())), strict=True))
        found = [met(self._known[key], question.check) for key, question in asked.items()]
        decided = [verdict for verdict in found if verdict != UNKNOWN]
        return {
            "rubric/reference_failed_share": decided.count(NO) / len(decided) if decided else math.nan,
            "rubric/reference_unknown_share": found.count(UNKNOWN) / len(found) if found else math.nan,
        }
