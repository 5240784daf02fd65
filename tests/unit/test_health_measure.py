"""What a step's answers show: copies of the input, one text for all, references that fail their own checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from dro_lab.health.measure import ReferenceChecks, answer_metrics
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Question
from dro_lab.types import RolloutGroups


def groups(answers_PG: Sequence[Sequence[str]], *columns: dict) -> RolloutGroups:
    """Groups with these answers; nothing else of them is read."""
    shape = len(answers_PG), len(answers_PG[0])
    nothing, none = torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, 1, dtype=torch.bool)
    columns = columns or tuple({} for _ in answers_PG)
    return RolloutGroups(
        prompts_P=[[{"role": "user", "content": "?"}]] * shape[0],
        references_P=[f"reference {p}" for p in range(shape[0])],
        completions_PG=answers_PG,
        reasonings_PG=answers_PG,
        answers_PG=answers_PG,
        truncated_PG=nothing,
        malformed_PG=nothing,
        completion_ids_PGC=none.long(),
        completion_mask_PGC=none,
        reasoning_mask_PGC=none,
        columns_P=[{"id": f"row-{p}", **column} for p, column in enumerate(columns)],
    )


def test_an_answer_that_is_the_paragraph_is_a_copy_whatever_its_case_and_spacing():
    found = answer_metrics(
        groups(
            [["The  Text.\n", "Another.", "the text."], ["Mine.", "mine.", "Yours."]],
            {"paragraph": "The text."},
            {"input": "Mine."},
        )
    )
    assert found["answers/equal_input_share"] == pytest.approx(4 / 6)


def test_rows_without_an_input_are_left_out_and_none_with_one_is_not_measured():
    found = answer_metrics(groups([["a", "a"], ["b", "c"]], {"paragraph": "a"}, {}))
    assert found["answers/equal_input_share"] == 1.0
    assert math.isnan(answer_metrics(groups([["a", "a"], ["b", "c"]]))["answers/equal_input_share"])


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ([["x", "x"], ["x", "x"]], 1.0),
        ([["", " "], ["", "y"]], 0.75),
        ([["x", "x"], ["y", "y"]], 0.0),
        ([["x", "z"], ["y", "X "]], 0.5),
        ([["x", "x", "x"], ["y", "y", "z"], ["z", "y", "y"]], 4 / 9),
    ],
)
def test_a_constant_is_a_text_that_stands_under_several_prompts(answers, share):
    assert answer_metrics(groups(answers))["answers/most_common_share"] == pytest.approx(share)


def test_one_prompt_shows_no_constant():
    assert math.isnan(answer_metrics(groups([["x", "x"]]))["answers/most_common_share"])


class Judge:
    """Says what it is told by the check's text, and keeps the questions."""

    def __init__(self, **said: int) -> None:
        self.said, self.asked = said, list[Question]()

    def verdicts(self, questions):
        self.asked += questions
        return [self.said[question.check.text] for question in questions]


def rubric(*texts: str, expect: str = "yes") -> dict:
    return {"rubric": [{"id": text, "text": text, "expect": expect} for text in texts]}


def test_the_share_of_checks_that_references_fail_and_each_reference_is_judged_once():
    judge = Judge(good=YES, bad=NO, dark=UNKNOWN)
    measure = ReferenceChecks(judge)
    step = groups([["a"], ["b"], ["c"]], rubric("good", "bad"), rubric("good", "dark"), {})
    for _ in range(2):
        found = measure(step)
        assert found["rubric/reference_failed_share"] == pytest.approx(1 / 3)
        assert found["rubric/reference_unknown_share"] == pytest.approx(1 / 4)
    assert [(q.row.id, q.check.text, q.answer) for q in judge.asked] == [
        ("row-0", "good", "reference 0"),
        ("row-0", "bad", "reference 0"),
        ("row-1", "good", "reference 1"),
        ("row-1", "dark", "reference 1"),
    ]


def test_a_check_that_a_good_answer_gets_a_no_for_is_failed_by_a_yes():
    found = ReferenceChecks(Judge(pitfall=YES))(groups([["a"]], rubric("pitfall", expect="no")))
    assert found["rubric/reference_failed_share"] == 1.0


def test_without_checks_there_is_nothing_to_fail():
    found = ReferenceChecks(Judge())(groups([["a"]]))
    assert all(math.isnan(value) for value in found.values())
