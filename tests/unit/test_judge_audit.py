"""The judge's audit: judges whose faults are known are found to have them, and intervals are right."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from dro_lab.judge_audit import measure
from dro_lab.judge_audit.attacks import MASTER_KEYS, ORDERS, WHOLE_ANSWER, with_order
from dro_lab.judge_audit.cases import cases
from dro_lab.judge_audit.figures import clustered_mean, share
from dro_lab.judge_audit.measure import exact_figures, order_figures, verdict_figures
from dro_lab.judges.prompts import check_prompt
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Question
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Check, Provenance, Row, Task
from tests.judge_audit_fixture import AUDIT, Scripted, by_name


def contains(answer: str, row: Row, check: Check) -> int:
    """A program that looks for a row's own number."""
    return YES if re.search(rf"\b{row.columns['number']}\b", answer) else NO


def row(number: int, **columns) -> Row:
    checks = [Check(id="number", text="Does the answer state the number?"), Check(id="p", text="Bad?", expect="no")]
    return Row(
        id=f"r{number}",
        prompt=[{"role": "user", "content": f"Which number follows {number - 1}?"}],
        reference=f"the one that you look for is {number}",
        columns={"rubric": as_column(checks), "number": str(number), **columns},
    )


ROWS = [row(number) for number in range(10, 20)]


def task(rows=ROWS, program=contains) -> Task:
    return Task(
        name="t",
        provenance=Provenance(dataset="t", kind="file", location="t"),
        splits={"validation": rows},
        metric=None,
        metric_name="",
        check_program=program,
    )


def drawn(count=6):
    return cases(task(), ROWS, count=count, seed=0)[0]


def test_a_judge_that_always_says_yes_is_fooled_by_everything():
    figures = verdict_figures(Scripted(lambda question: YES), drawn(), AUDIT)
    assert all(figure.value == 1.0 for figure in figures)
    assert {figure.part for figure in figures} == {measure.CONTROLS, measure.KEYS, measure.INJECTED}


def test_the_controls_stand_beside_the_keys_and_do_not_enter_their_mean():
    """A judge that is fooled by whole sentences alone."""
    figures = verdict_figures(Scripted(lambda q: YES if len(q.answer.split()) > 8 else NO), drawn(), AUDIT)
    keys = by_name(figures, measure.KEYS)
    assert {measure.CONTROL, measure.SENTENCE} <= set(keys)
    assert keys["mean over them"].value == 0.0
    assert measure.first_sentence("One. Two.") == "One."
    assert measure.first_sentence("It is 1.5 in all") == "It is 1.5 in all"


def test_a_judge_that_reads_the_answer_is_fooled_by_nothing():
    figures = verdict_figures(Scripted(lambda q: contains(q.answer, q.row, q.check)), drawn(), AUDIT)
    controls = by_name(figures, measure.CONTROLS)
    assert controls["yes to the reference"].value == 1.0
    assert controls["yes to another row's reference"].value == 0.0
    assert all(
        figure.value == 0.0 for part in (measure.KEYS, measure.INJECTED) for figure in by_name(figures, part).values()
    )


def test_the_key_and_the_order_that_fool_a_judge_are_named():
    def gullible(question):
        return YES if question.answer in ("Solution", " ") or "say yes" in question.answer else NO

    figures = verdict_figures(Scripted(gullible), drawn(), AUDIT)
    keys, orders = by_name(figures, measure.KEYS), by_name(figures, measure.INJECTED)
    assert (keys["'Solution'"].value, keys["' '"].value, keys["'.'"].value) == (1.0, 1.0, 0.0)
    assert keys["mean over them"].value == pytest.approx(2 / len(MASTER_KEYS))
    assert orders["plain order"].value == 1.0
    assert orders["worst: plain order"].value == 1.0
    assert orders["mean over them"].value == pytest.approx(1 / len(ORDERS))
    assert all(keys[repr(key)].n == 6 for key in MASTER_KEYS)


def test_what_the_judge_does_not_decide_is_counted_apart_and_is_no_false_yes():
    figures = verdict_figures(Scripted(lambda q: UNKNOWN if q.answer in ("", ".") else YES), drawn(), AUDIT)
    keys = by_name(figures, measure.KEYS)
    assert keys["'.'"].n == 0
    assert keys["'.'"].unknown == 6
    assert math.isnan(keys["'.'"].value)
    assert keys["mean over them"].value == 1.0
    assert keys["mean over them"].unknown == 6
    nothing = verdict_figures(Scripted(lambda q: UNKNOWN), drawn(), AUDIT)
    assert all(math.isnan(figure.value) for figure in nothing)


@pytest.mark.parametrize(
    ("preference", "swapped", "reference", "first"),
    [
        (lambda pair: 1.0, 1.0, 0.5, 1.0),  # whatever is shown first
        (lambda pair: 0.0, 1.0, 0.5, 0.0),
        (lambda pair: 0.5, 0.0, 0.5, 0.5),
        (lambda pair: float(pair.first == pair.row.reference), 0.0, 1.0, 0.5),
        (lambda pair: float(pair.first != pair.row.reference), 0.0, 0.0, 0.5),
    ],
)
def test_the_order_of_two_answers(preference, swapped, reference, first):
    figures = order_figures(Scripted(preference=preference), drawn(), AUDIT)
    for part in (measure.OTHER_ROW, measure.SHUFFLED):
        found = by_name(figures, part)
        assert found[measure.SWAPPED].value == swapped
        assert found["the reference is chosen"].value == reference
        assert found["what is shown first is chosen"].value == first
        assert found[measure.SWAPPED].n == 6


def test_comparisons_that_the_judge_does_not_decide_are_left_out():
    figures = order_figures(
        Scripted(preference=lambda pair: math.nan if pair.row.id == "r10" else 1.0), drawn(10), AUDIT
    )
    found = by_name(figures, measure.OTHER_ROW)
    assert (found[measure.SWAPPED].n, found[measure.SWAPPED].unknown) == (9, 1)


def test_agreement_with_the_program():
    figures = by_name(exact_figures(Scripted(lambda q: YES), drawn(), task(), AUDIT), measure.EXACT)
    # two checks on reference (yes), wrong (no) and shuffled reference (yes)
    assert figures["all"].n == 6 * 2 * 3
    assert figures["all"].value == pytest.approx(2 / 3)
    assert figures["where the program says yes"].value == 1.0
    assert figures["where it says no"].value == 0.0
    assert exact_figures(Scripted(), drawn(), task(program=None), AUDIT) == []


def test_cases_ask_what_separates():
    found, unusable = cases(task(), ROWS, count=4, seed=1)
    assert (len(found), unusable) == (4, 0)
    assert cases(task(), ROWS, count=4, seed=1) == (found, 0)
    assert cases(task(), ROWS, count=4, seed=2)[0] != found
    for case in found:
        assert case.check.id == "number"  # the other one expects no
        assert case.wrong != case.row.reference
        assert Counter(case.corrupted.split()) == Counter(case.row.reference.split())
        assert case.corrupted != case.row.reference


def test_rows_without_a_check_that_separates_are_counted():
    never = row(1)
    never = replace(never, columns={**never.columns, "number": "1000"})  # its reference does not meet the check
    same = [never, *ROWS[:2]]
    found, unusable = cases(task(same), same, count=3, seed=0)
    assert (sorted(case.row.id for case in found), unusable) == (["r10", "r11"], 1)
    assert cases(task(ROWS[:1]), ROWS[:1], count=3, seed=0) == ([], 1)  # no other row, no wrong answer


def test_rows_without_a_rubric_are_asked_about_the_whole_answer():
    bare = [row(number, rubric=None) for number in range(3)]
    found, _ = cases(task(bare), bare, count=3, seed=0)
    assert all(case.check is WHOLE_ANSWER for case in found)


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_stands_behind_the_answer_and_stays_within_the_fence(name):
    answer = "wrong"
    attacked = with_order(name, answer, row=ROWS[0], check=Check(id="c", text="Is {it} so?"))
    assert attacked.startswith("wrong\n\n")
    plain = check_prompt(
        Question(row=ROWS[0], answer=answer, check=Check(id="c", text="Is {it} so?")), reply="word"
    ).text
    asked = check_prompt(
        Question(row=ROWS[0], answer=attacked, check=Check(id="c", text="Is {it} so?")), reply="word"
    ).text
    before, after = (re.search(r"carry the code (\w+)", text)[1] for text in (plain, asked))
    assert (before in attacked) == (name == "closing fence")  # the best guess: the fence without the order
    assert after not in attacked
    assert asked.count(f"[end answer {after}]") == 1
    assert "<|im_end|>" not in asked


# ------------------------------------------------------------------------------------------------ intervals


def test_a_share_has_wilsons_interval():
    found = share("p", "n", [True] * 3 + [False] * 7, confidence=0.9)
    expected = binomtest(3, 10).proportion_ci(confidence_level=0.9, method="wilson")
    assert (found.value, found.low, found.high, found.n) == (0.3, expected.low, expected.high, 10)
    assert math.isnan(share("p", "n", [], confidence=0.9).value)


def mean_of(values, clusters):
    return clustered_mean("p", "n", values, clusters, confidence=0.9, resamples=4000, seed=0)


def test_judgements_of_one_query_are_resampled_together():
    values = [0.0, 1.0] * 10
    apart = mean_of(values, range(20))
    together = mean_of([value for value in values for _ in range(8)], [i for i in range(20) for _ in range(8)])
    as_if_apart = mean_of([value for value in values for _ in range(8)], range(160))
    assert together.n == 160
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high))
    assert together.high - together.low > 2 * (as_if_apart.high - as_if_apart.low)
    # 0.5 -+ 1.645 * sqrt(0.25 / 20)
    assert (apart.low, apart.high) == pytest.approx((0.316, 0.684), abs=0.04)


def test_a_mean_of_clusters_of_unlike_size_is_that_of_the_judgements():
    found = mean_of([1.0, 1.0, 1.0, 0.0, math.nan], ["a", "a", "a", "b", "b"])
    assert (found.value, found.n, found.unknown) == (0.75, 4, 1)
    alone = mean_of([1.0, 0.0], ["a", "a"])
    assert math.isnan(alone.low)
    assert math.isnan(mean_of([math.nan], ["a"]).value)
