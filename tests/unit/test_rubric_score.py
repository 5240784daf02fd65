"""The rubric score on literal verdicts, and its polarity."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.judges.none import NoJudge
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.judges.quality import asked_once, met, quality, rubric_score, verdicts
from dro_lab.types import Check, Provenance, Task
from tests.tiny_step import groups_of


def check(weight: float, expect: str = "yes") -> Check:
    return Check(id=f"{weight} {expect}", text="t", weight=weight, expect=expect)


ESSENTIAL, IMPORTANT, OPTIONAL = check(5), check(3), check(2)
FAULT = check(-2, "no")  # "Recommends X.": a good answer gets no
AVOIDED = check(-2, "yes")  # "Avoids X.": a good answer gets yes
RUBRIC = (ESSENTIAL, IMPORTANT, OPTIONAL, FAULT)


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        ((YES, YES, YES, NO), 1.0),
        ((YES, YES, YES, YES), 0.8),  # fell into the pitfall: (10 - 2) / 10
        ((YES, NO, NO, NO), 0.5),
        ((NO, YES, NO, YES), 0.1),
        ((NO, NO, NO, NO), 0.0),
        ((NO, NO, NO, YES), 0.0),  # -0.2 is clipped
        ((YES, UNKNOWN, UNKNOWN, UNKNOWN), 0.5),  # unknown earns nothing and costs nothing
        ((UNKNOWN, UNKNOWN, UNKNOWN, YES), 0.0),
    ],
)
def test_met_weights_over_positive_weights_with_pitfalls_taken_off(verdicts, wanted):
    known = [met(verdict, each) for verdict, each in zip(verdicts, RUBRIC, strict=True)]
    assert rubric_score(known, RUBRIC) == pytest.approx(wanted)


@pytest.mark.parametrize("fell", [True, False])
def test_both_wordings_of_a_pitfall_cost_the_same(fell):
    # the literal answers are opposite: "Recommends X." is true where "Avoids X." is false
    named = rubric_score([YES, met(YES if fell else NO, FAULT)], [ESSENTIAL, FAULT])
    denied = rubric_score([YES, met(NO if fell else YES, AVOIDED)], [ESSENTIAL, AVOIDED])
    assert named == denied == pytest.approx(0.6 if fell else 1.0)


def test_nothing_to_score_is_nan():
    assert math.isnan(rubric_score([], []))
    assert math.isnan(rubric_score([UNKNOWN, UNKNOWN], [ESSENTIAL, FAULT]))
    assert math.isnan(rubric_score([YES], [FAULT]))  # no positive weight


def test_a_positive_check_that_wants_no_earns_by_the_no():
    wanted = check(4, "no")
    assert rubric_score([met(NO, wanted), met(NO, ESSENTIAL)], [wanted, ESSENTIAL]) == pytest.approx(4 / 9)


VERDICTS = st.sampled_from([YES, NO, UNKNOWN])


@given(st.lists(st.tuples(st.sampled_from([-2, -1, 1, 3, 5]), VERDICTS), min_size=1, max_size=10))
def test_the_score_lies_in_the_unit_interval_and_meeting_a_check_never_lowers_it(drawn):
    checks = [check(weight) for weight, _ in drawn]
    values = [value for _, value in drawn]
    score = rubric_score(values, checks)
    if not any(each.weight > 0 for each in checks) or set(values) == {UNKNOWN}:
        assert math.isnan(score)
        return
    assert 0 <= score <= 1
    for place in range(len(values)):
        better = [*values[:place], YES, *values[place + 1 :]]
        assert rubric_score(better, checks) >= score


class Counting(NoJudge):
    """Says yes to everything, and counts what it is asked."""

    name = "counting"

    def __init__(self):
        self.asked = 0

    def verdicts(self, questions):
        self.asked += len(questions)
        return [YES] * len(questions)


def test_gate_and_rubric_score_ask_the_judge_once_a_step():
    task = Task(
        name="t",
        provenance=Provenance(dataset="t", kind="file", location="t"),
        splits={},
        metric=None,
        metric_name="rubric_score",
        rubric_score=True,
    )
    made = groups_of(2, 2)
    rubric = [{"id": "a", "text": "Is it so?"}]
    first, second = (
        replace(made, columns_P=[{**columns, "rubric": rubric} for columns in made.columns_P]) for _ in range(2)
    )
    judge = Counting()
    ask = asked_once(judge)
    scores = quality(first, task, judge, ask=ask)
    once = judge.asked
    assert once > 0
    assert scores.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert torch.equal(ask(first)[0], verdicts(first, Counting())[0])
    assert judge.asked == once
    ask(second)  # equal, but another step's
    assert judge.asked == 2 * once


def test_checks_beyond_the_ten_count_in_the_score():
    """Fourteen checks of weight 1; the judge says yes to those whose text asks for it."""

    class ByText(NoJudge):
        name = "by text"

        def verdicts(self, questions):
            return [YES if "yes" in question.check.text else NO for question in questions]

    task = Task(
        name="t",
        provenance=Provenance(dataset="t", kind="file", location="t"),
        splits={},
        metric=None,
        metric_name="rubric_score",
        rubric_score=True,
    )
    first = [{"id": f"a{n}", "text": "yes?" if n < 5 else "no?"} for n in range(10)]
    rest = [{"id": f"b{n}", "text": "yes?" if n < 2 else "no?"} for n in range(4)]
    made = groups_of(1, 2)
    groups = replace(made, columns_P=[{**made.columns_P[0], "rubric": first, "rubric_rest": rest}])
    assert quality(groups, task, ByText())[0].tolist() == pytest.approx([7 / 14] * 2)
    assert verdicts(groups, ByText())[0].shape[-1] == 10  # what gates is the ten
