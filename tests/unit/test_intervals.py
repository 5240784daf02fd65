"""Laws of means and win rates over rows, on literal tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.evaluation.intervals import mean_over_rows, win_rate_per_row

SETTINGS = {"confidence": 0.9, "resamples": 500, "seed": 0}


def test_rows_that_cannot_be_judged_are_left_out_and_counted():
    found = mean_over_rows("quality", np.array([0.0, 1.0, np.nan, 0.5]), **SETTINGS)
    assert found.value == 0.5
    assert found.n == 3
    assert 0.0 <= found.low <= 0.5 <= found.high <= 1.0


def test_one_row_has_a_value_and_no_interval():
    found = mean_over_rows("quality", np.array([0.25]), **SETTINGS)
    assert found.value == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_row_gives_nan_and_zero_rows():
    found = mean_over_rows("quality", np.array([np.nan]), **SETTINGS)
    assert math.isnan(found.value)
    assert found.n == 0


def test_equal_rows_give_an_interval_of_no_width():
    found = mean_over_rows("quality", np.full(8, 0.5), **SETTINGS)
    assert (found.low, found.high) == (0.5, 0.5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = mean_over_rows("x", rng.random(32), confidence=0.9, resamples=300, seed=seed)
        hits += found.low <= 0.5 <= found.high
    assert 0.82 <= hits / 200 <= 0.97


def test_a_win_is_a_higher_quality_on_the_same_row_and_a_tie_counts_half():
    ours = np.array([[1.0, 1.0], [0.5, 0.0], [0.5, 0.5]])
    base = np.array([[0.0, 0.5], [0.5, 1.0], [0.5, 0.5]])
    assert win_rate_per_row(ours, base).tolist() == [1.0, (0.5 + 0 + 0 + 0) / 4, 0.5]


def test_the_two_sides_may_hold_different_numbers_of_samples_but_not_of_rows():
    assert win_rate_per_row(np.array([[1.0]]), np.array([[0.0, 1.0]])).tolist() == [0.75]
    with pytest.raises(ValueError, match="same rows"):
        win_rate_per_row(np.zeros((2, 1)), np.zeros((3, 1)))


def test_a_row_without_a_judgement_has_no_win_rate():
    assert math.isnan(win_rate_per_row(np.array([[np.nan, 1.0]]), np.array([[0.0, 0.0]]))[0])


QUALITY = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=2), min_size=1, max_size=6)


@given(QUALITY, st.randoms())
def test_swapping_the_sides_gives_the_complement(rows, random):
    ours = np.array(rows)
    base = np.array([[random.choice([0.0, 0.5, 1.0]) for _ in range(3)] for _ in rows])
    np.testing.assert_allclose(win_rate_per_row(ours, base) + win_rate_per_row(base, ours), 1.0)
