"""The closed formula against a table of 32 settings of a tiny policy, and its limits."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.probe.formula import G, gradient_snr, relative_steps, rho, smallest_as_good, snr

# setting, sigma_R, sigma_N, S_R, S_N, rho_oracle, predicted for avg_prob and omega 1, measured at omega 2 and 4. Inputs
# are means over 40 queries; the predictions were made query by query, so they differ a little.
TABLE = [
    ("main c 0.0 L48 R3 AS0.4 x0", 0.48, 0.004, 1.26, 0.09, 0.97, 0.97, 0.97, 0.97, 0.97),
    ("m3 c 0.1 L48 R3 AS0.4 x0", 0.48, 0.023, 1.24, 0.7, 0.97, 0.84, 0.97, 0.97, 0.97),
    ("m3 c 0.2 L48 R3 AS0.4 x0", 0.48, 0.077, 1.24, 2.52, 0.97, 0.44, 0.89, 0.96, 0.97),
    ("m3 c 0.4 L48 R3 AS0.4 x0", 0.48, 0.138, 1.24, 4.51, 0.97, 0.26, 0.58, 0.79, 0.96),
    ("m3 r 0.03 L48 R3 AS0.4 x0", 0.48, 0.042, 1.24, 1.23, 0.97, 0.69, 0.96, 0.97, 0.97),
    ("main i 0.4 L48 R3 AS0.4 x0", 0.48, 0.042, 1.26, 0.35, 0.97, 0.93, 0.97, 0.97, 0.97),
    ("main c 0.4 L48 R3 AS0.4 x0", 0.48, 0.077, 1.26, 2.51, 0.97, 0.46, 0.87, 0.96, 0.97),
    ("main c 0.0 L96 R3 AS0.4 x0", 0.45, 0.003, 1.17, 0.15, 0.97, 0.96, 0.97, 0.96, 0.96),
    ("m3 c 0.1 L96 R3 AS0.4 x0", 0.48, 0.018, 1.24, 1.22, 0.97, 0.71, 0.96, 0.97, 0.97),
    ("m3 c 0.2 L96 R3 AS0.4 x0", 0.47, 0.076, 1.23, 5.47, 0.97, 0.22, 0.72, 0.94, 0.97),
    ("m3 c 0.4 L96 R3 AS0.4 x0", 0.48, 0.139, 1.24, 9.98, 0.97, 0.12, 0.33, 0.56, 0.94),
    ("m3 r 0.03 L96 R3 AS0.4 x0", 0.48, 0.044, 1.25, 2.81, 0.97, 0.4, 0.95, 0.97, 0.97),
    ("main i 0.4 L96 R3 AS0.4 x0", 0.48, 0.035, 1.26, 0.4, 0.97, 0.92, 0.97, 0.97, 0.97),
    ("main c 0.4 L96 R3 AS0.4 x0", 0.48, 0.072, 1.25, 5.21, 0.97, 0.25, 0.73, 0.93, 0.97),
    ("main c 0.0 L192 R3 AS0.4 x0", 0.39, 0.003, 1.0, 0.25, 0.96, 0.92, 0.96, 0.95, 0.95),
    ("m3 c 0.1 L192 R3 AS0.4 x0", 0.43, 0.013, 1.09, 1.75, 0.95, 0.56, 0.95, 0.96, 0.96),
    ("m3 c 0.2 L192 R3 AS0.4 x0", 0.44, 0.072, 1.15, 10.63, 0.97, 0.11, 0.49, 0.85, 0.96),
    ("m3 c 0.4 L192 R3 AS0.4 x0", 0.47, 0.13, 1.22, 19.16, 0.97, 0.06, 0.19, 0.39, 0.9),
    ("m3 r 0.03 L192 R3 AS0.4 x0", 0.48, 0.041, 1.24, 5.39, 0.97, 0.22, 0.94, 0.97, 0.97),
    ("main i 0.4 L192 R3 AS0.4 x0", 0.48, 0.028, 1.26, 0.51, 0.97, 0.89, 0.97, 0.97, 0.97),
    ("main c 0.4 L192 R3 AS0.4 x0", 0.45, 0.059, 1.17, 8.7, 0.97, 0.14, 0.6, 0.9, 0.96),
    ("m3 c 0.2 L96 R3 AS0.0 x0", 0.48, 0.071, 1.25, 0.56, 0.97, 0.87, 0.96, 0.97, 0.97),
    ("m3 c 0.2 L96 R3 AS0.1 x0", 0.48, 0.071, 1.25, 1.38, 0.97, 0.67, 0.94, 0.97, 0.97),
    ("m3 c 0.2 L96 R3 AS0.2 x0", 0.48, 0.072, 1.25, 2.74, 0.97, 0.42, 0.88, 0.96, 0.97),
    ("m3 c 0.2 L96 R1 AS0.4 x0", 0.45, 0.074, 0.45, 5.54, 0.79, 0.07, 0.31, 0.64, 0.79),
    ("m3 c 0.2 L96 R2 AS0.4 x0", 0.47, 0.075, 0.88, 5.52, 0.89, 0.14, 0.55, 0.83, 0.89),
    ("m3 c 0.2 L96 R6 AS0.4 x0", 0.48, 0.074, 2.48, 4.91, 0.97, 0.44, 0.9, 0.96, 0.97),
    ("main c 0.2 L96 R3 AS0.4 x1", 0.48, 0.02, 1.25, 1.35, 0.97, 0.66, 0.96, 0.97, 0.97),
    ("main c 0.2 L96 R3 AS0.4 x2", 0.48, 0.026, 1.26, 1.78, 0.97, 0.57, 0.96, 0.97, 0.97),
    ("main c 0.2 L96 R3 AS0.4 x4", 0.48, 0.032, 1.26, 2.08, 0.97, 0.52, 0.95, 0.96, 0.97),
    ("main c 0.2 L96 R3 AS0.4 x6", 0.48, 0.036, 1.26, 2.22, 0.97, 0.49, 0.93, 0.96, 0.97),
    ("main c 0.4 L96 R3 AS0.4 x6", 0.48, 0.076, 1.26, 4.77, 0.97, 0.26, 0.75, 0.93, 0.96),
]


def predicted(row, omega):
    _, sigma_r, sigma_n, s_r, s_n, oracle, *_ = row
    return float(rho(snr(omega, s_r=s_r, s_n=s_n, sigma_r=sigma_r, sigma_n=sigma_n), oracle=oracle))


@pytest.mark.parametrize(("omega", "column", "mean", "worst"), [(0, 6, 0.012, 0.06), (1, 7, 0.015, 0.062)])
def test_predictions_are_those_of_the_table(omega, column, mean, worst):
    errors = [abs(predicted(row, omega) - row[column]) for row in TABLE]
    assert statistics.fmean(errors) < mean
    assert max(errors) < worst


@pytest.mark.parametrize(("omega", "column", "mean"), [(2, 8, 0.021), (4, 9, 0.006)])
def test_predictions_are_as_near_to_what_was_measured_as_was_published(omega, column, mean):
    assert statistics.fmean(abs(predicted(row, omega) - row[column]) for row in TABLE) < mean


def test_one_row_by_hand():
    row = next(row for row in TABLE if row[0] == "main c 0.4 L96 R3 AS0.4 x0")
    assert predicted(row, 0) == pytest.approx(0.97 / math.sqrt(1 + (5.21 / 1.25) ** 2))
    assert predicted(row, 0) == pytest.approx(0.25, abs=0.03)
    assert predicted(row, 1) == pytest.approx(0.73, abs=0.04)


PARTS = {"s_r": 1.25, "s_n": 5.21, "sigma_r": 0.48, "sigma_n": 0.072}


def test_without_noise_it_is_the_oracle_and_without_signal_nothing():
    assert float(snr(2, **{**PARTS, "s_n": 0.0, "sigma_n": 0.0})) == math.inf
    assert float(rho(math.inf, oracle=0.97)) == pytest.approx(0.97)
    assert float(snr(2, **{**PARTS, "s_r": 0.0})) == 0
    assert float(rho(0.0)) == 0
    assert math.isnan(float(snr(0, s_r=0.0, s_n=0.0, sigma_r=0.0, sigma_n=0.0)))


@given(st.floats(0, 8), st.floats(0.01, 8))
def test_omega_helps_exactly_where_reflective_tokens_vary_more(omega, more):
    better, worse = {**PARTS, "sigma_n": 0.3}, {**PARTS, "sigma_n": 0.5}  # against .8 * .48 = .384
    assert float(snr(omega + more, **better)) >= float(snr(omega, **better))
    assert float(snr(omega + more, **worse)) <= float(snr(omega, **worse))


def test_it_takes_a_number_a_query():
    both = snr(1, s_r=np.array([1.25, 1.0]), s_n=np.array([5.21, 2.0]), sigma_r=0.48, sigma_n=0.072)
    assert both[0] == pytest.approx(float(snr(1, **PARTS)))
    assert both.shape == (2,)


# ------------------------------------------------------------------------------------------------ speed


@pytest.mark.parametrize(
    ("rho_avg", "rho_r3", "published"), [(0.75, 0.97, 1.08), (0.43, 0.97, 1.33), (0.22, 0.92, 2.2), (0.10, 0.93, 4.0)]
)
def test_speeds_are_the_published_ones(rho_avg, rho_r3, published):
    steps = relative_steps([rho_avg / 0.97, rho_r3 / 0.97], g=G)
    assert steps[0] / steps[1] == pytest.approx(published, rel=0.08)


def test_the_oracle_needs_its_own_steps_and_no_signal_never_arrives():
    assert relative_steps([1.0, 0.0, -0.3], g=2.1).tolist() == [1.0, math.inf, math.inf]


@given(st.floats(0.05, 1), st.floats(0.05, 1))
def test_more_correlation_is_never_slower(a, b):
    low, high = sorted((a, b))
    assert float(relative_steps(low, g=2.1)) >= float(relative_steps(high, g=2.1))


def test_a_large_batch_averages_noise_away_and_a_tiny_one_pays_for_it_in_full():
    assert float(relative_steps(0.2, g=1e6)) == pytest.approx(1.0)
    assert float(relative_steps(0.2, g=1e-6)) == pytest.approx(5.0)


def test_g_grows_with_the_root_of_the_prompts():
    assert gradient_snr(4) == pytest.approx(2.1)
    assert gradient_snr(2) == pytest.approx(2.1 / math.sqrt(2))
    assert gradient_snr(16, g=1.0) == pytest.approx(2.0)


def test_the_smallest_omega_that_is_as_good():
    assert smallest_as_good([0, 1, 2, 4], [2.0, 1.015, 1.0, 1.0]) == 1
    assert smallest_as_good([0, 1, 2, 4], [2.0, 1.03, 1.0, 1.3]) == 2
    assert smallest_as_good([4, 2], [1.0, 1.0]) == 2
    assert smallest_as_good([0, 1], [math.inf, math.inf]) is None
