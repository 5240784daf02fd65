"""Laws of steps to target on literal curves."""

import math

import pytest

from analysis.steps_to_target import (
    CENSORED,
    baseline_target,
    ratio_of_medians,
    seed_average,
    smoothed,
    steps_to_target,
)

RISING = [(0, 0.2), (4, 0.3), (8, 0.4), (12, 0.8), (16, 0.9)]


def test_smoothing_is_a_trailing_mean_at_the_last_step():
    assert smoothed(RISING, window=3) == [(8, pytest.approx(0.3)), (12, pytest.approx(0.5)), (16, pytest.approx(0.7))]


def test_the_target_is_reached_at_the_first_smoothed_value_not_below_it():
    assert steps_to_target(RISING, 0.5, window=3) == 12
    assert steps_to_target(RISING, 0.71, window=3) == CENSORED
    assert steps_to_target(RISING, 0.2, window=1) == 0


def test_the_baseline_target_is_the_best_mean_of_the_seed_average():
    curves = {0: [(0, 0.2), (4, 0.4), (8, 0.4)], 1: [(0, 0.4), (4, 0.8), (8, 0.6)]}
    target = baseline_target(curves, window=2, minimum_gain=0.1)
    assert target.level == pytest.approx(0.55)
    assert target.start == pytest.approx(0.3)
    assert target.valid
    assert not baseline_target(curves, window=2, minimum_gain=0.3).valid


def test_different_evaluation_grids_are_refused():
    with pytest.raises(ValueError, match="different steps"):
        seed_average({0: [(0, 0.1)], 1: [(1, 0.1)]})


def test_a_planted_ratio_comes_back():
    ratio = ratio_of_medians([40, 48, 44], [20, 22, 24], confidence=0.9, resamples=500, seed=0)
    assert ratio.value == pytest.approx(2.0)
    assert 40 / 24 <= ratio.low <= 2.0 <= ratio.high <= 48 / 20


def test_censored_runs_stay_censored():
    ratio = ratio_of_medians([CENSORED, CENSORED, 90], [30, 30, 30], confidence=0.9, resamples=500, seed=0)
    assert ratio.value == math.inf
    assert ratio.low == 3.0
    assert ratio.high == math.inf
    assert math.isnan(ratio_of_medians([CENSORED], [CENSORED], confidence=0.9, resamples=10, seed=0).value)


def test_the_median_of_an_even_number_does_not_average_with_infinity():
    assert ratio_of_medians([10, CENSORED], [10, 10], confidence=0.9, resamples=10, seed=0).value == math.inf
