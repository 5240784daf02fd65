"""Where the probe's quality label comes from: a metric, an LLM judge's grade, or nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.judges.none import NoJudge
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.probe.label import check_label, label_of
from dro_lab.probe.settings import Settings
from dro_lab.types import Check, Provenance, Task
from tests.tiny_step import groups_of

VALUES = torch.tensor([[0.0, 1.0], [1.0, 1.0]])


class Grader(NoJudge):
    """Says yes where the answer holds the word that the check asks for."""

    name = "openai"

    def __init__(self):
        self.asked = []

    def verdicts(self, questions):
        self.asked += questions
        found = []
        for question in questions:
            word = question.check.text.split()[-1]
            found.append(UNKNOWN if question.answer == "?" else YES if word in question.answer else NO)
        return found


def task(metric=None, metric_name="", **more):
    provenance = Provenance(dataset="mine", kind="file", location="rows.jsonl")
    return Task(name="mine", provenance=provenance, splits={}, metric=metric, metric_name=metric_name, **more)


def groups(answers, rubrics=((), ())):
    made = groups_of(2, 2)
    columns = [{**columns, "rubric": rubric} for columns, rubric in zip(made.columns_P, rubrics, strict=True)]
    return replace(made, answers_PG=answers, references_P=["it is blue", "it is red"], columns_P=columns)


def label(built_task, judge, values=VALUES, answers=(("a", "b"), ("c", "d")), rubrics=((), ()), **settings):
    built = SimpleNamespace(task=built_task, judge=judge)
    return label_of(built, groups(answers, rubrics), values, Settings(**settings))


EXACT = task(metric=lambda answer, row: 1.0, metric_name="accuracy")
SURFACE = task(metric=lambda answer, row: 1.0, metric_name="reference_overlap")


def test_an_exact_metric_is_the_label():
    found = label(EXACT, NoJudge())
    assert found.name == "accuracy"
    assert torch.equal(found.values_PG, VALUES)


def test_surface_similarity_is_no_label():
    found = label(SURFACE, NoJudge())
    assert found.name == ""
    assert found.values_PG.isnan().all()
    assert "judge=openai" in found.note


def test_a_metric_that_knows_nothing_is_no_label():
    assert label(EXACT, NoJudge(), values=torch.full((2, 2), torch.nan)).name == ""


def test_a_judges_rubric_score_is_a_label_and_says_whose():
    found = label(task(rubric_score=True, metric_name="rubric_score"), Grader())
    assert found.name == "rubric_score"
    assert "by judge=openai" in found.note


def test_without_a_metric_an_llm_judge_is_asked_whether_answers_agree_with_their_reference():
    judge = Grader()
    found = label(SURFACE, judge, answers=(("blue", "green"), ("red", "red")))
    assert found.values_PG.tolist() == [[1, 0], [1, 1]]
    assert found.name == "judge=openai"
    assert len(judge.asked) == 3  # the two equal answers to one query are put to it once
    assert judge.asked[0].check.text.endswith("it is blue")


def test_with_a_rubric_it_is_the_share_of_the_checks_that_are_met():
    rubric = (
        Check(id="1", text="Does it say blue"),
        Check(id="2", text="Does it say dark"),
        Check(id="3", text="Does it say red", expect="no"),
    )
    found = label(SURFACE, Grader(), answers=(("dark blue", "red"), ("red", "?")), rubrics=(rubric, ()))
    assert found.values_PG[0].tolist() == pytest.approx([1.0, 0.0])
    assert found.values_PG[1, 0] == 1
    assert found.values_PG[1, 1].isnan()  # the judge cannot tell
    assert "rubric" in found.note


def test_a_label_can_be_asked_for_and_done_without():
    assert label(EXACT, Grader(), answers=(("blue", "x"), ("red", "y")), label="judge").values_PG.tolist() == [
        [1, 0],
        [1, 0],
    ]
    assert label(EXACT, NoJudge(), label="none").name == ""
    check_label(EXACT, "none", Settings(label="metric"))
    check_label(SURFACE, "policy", Settings(label="judge"))
    with pytest.raises(UserError, match=r"probe\.label=metric: dataset=mine has no exact quality"):
        check_label(SURFACE, "exact", Settings(label="metric"))
    with pytest.raises(UserError, match=r"probe\.label=judge: judge=none cannot grade"):
        check_label(EXACT, "none", Settings(label="judge"))
