"""Laws of means over rows, on literal tables."""

import math

import numpy as np
import pytest
from scipy import stats

from dro_lab.evaluation.intervals import mean_over_rows

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


@pytest.mark.parametrize(
    ("rows", "resamples", "confidence"), [(2, 3, 0.5), (7, 2, 0.9), (32, 2000, 0.9), (33, 333, 0.99)]
)
def test_the_interval_is_that_of_scipy_to_the_last_digit(rows, resamples, confidence):
    values = np.random.default_rng(rows).normal(size=rows)
    rng = np.random.default_rng(5)
    options = {"n_resamples": resamples, "confidence_level": confidence, "method": "percentile", "rng": rng}
    low, high = stats.bootstrap((values,), lambda x, axis: x.mean(axis=axis), **options).confidence_interval
    found = mean_over_rows("x", values, confidence=confidence, resamples=resamples, seed=5)
    assert (found.low, found.high) == (low, high)
