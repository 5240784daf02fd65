"""Figures of all answers together: the value, the interval over rows, and their names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dro_lab.errors import UserError
from dro_lab.evaluation.corpus import corpus_estimates, figure_names
from dro_lab.types import Provenance, Row, Task
from tests.unit.test_evaluation_settings import settings

ROWS = [
    Row(id=str(i), prompt=[{"role": "user", "content": "?"}], reference="yes" if i % 2 else "no") for i in range(20)
]


def f1(answers, rows):
    """F1 of the class yes; nan without any yes."""
    hits = sum(a == r.reference == "yes" for a, r in zip(answers, rows, strict=True))
    said, true = answers.count("yes"), sum(r.reference == "yes" for r in rows)
    return {"f1_yes": 2 * hits / (said + true) if said + true else math.nan}


def test_the_value_is_that_of_all_answers_and_the_interval_resamples_rows_with_all_their_answers():
    answers = [["yes", "no"] if i < 10 else ["yes", "yes"] for i in range(20)]
    found = corpus_estimates(f1, answers, ROWS, settings=settings(corpus_bootstrap=400))["f1_yes"]
    flat = [a for row in answers for a in row]
    assert found.value == f1(flat, [r for r in ROWS for _ in range(2)])["f1_yes"]
    assert found.n == 20
    assert found.low < found.value < found.high
    rng = np.random.default_rng(99)
    again = []
    for _ in range(2000):
        rows = rng.integers(20, size=20)
        again.append(f1([a for r in rows for a in answers[r]], [ROWS[r] for r in rows for _ in range(2)])["f1_yes"])
    assert [found.low, found.high] == pytest.approx(np.percentile(again, [5, 95]), abs=0.03)


def test_a_resample_in_which_it_cannot_be_computed_is_left_out_of_the_interval():
    found = corpus_estimates(f1, [["yes"], ["no"]], [ROWS[1], ROWS[0]], settings=settings())["f1_yes"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_one_row_has_a_value_and_no_interval():
    found = corpus_estimates(f1, [["yes"]], ROWS[1:2], settings=settings())["f1_yes"]
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def task(metric=None) -> Task:
    provenance = Provenance(dataset="mine", kind="file", location="f")
    return Task(name="mine", provenance=provenance, splits={}, metric=None, metric_name="m", corpus_metric=metric)


def test_the_names_are_learnt_from_the_references():
    assert figure_names(task(), ROWS) == ()
    assert figure_names(task(f1), []) == ()
    assert figure_names(task(f1), ROWS) == ("f1_yes",)


@pytest.mark.parametrize("name", ["quality", "pass@2", "a/b"])
def test_a_figure_may_not_take_a_name_that_is_used(name):
    with pytest.raises(UserError, match=f"dataset=mine: its figure '{name}'"):
        figure_names(replace(task(), corpus_metric=lambda answers, rows: {name: 1.0}), ROWS)
