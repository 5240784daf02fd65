"""pass@k against every draw of k samples, and on literals."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.evaluation.passk import pass_at_k


def test_one_right_of_four_is_found_by_half_of_the_pairs():
    quality = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert pass_at_k(quality, 1, threshold=1.0).tolist() == [0.25, 0.0, 0.75]
    assert pass_at_k(quality, 2, threshold=1.0).tolist() == [0.5, 0.0, 1.0]
    assert pass_at_k(quality, 4, threshold=1.0).tolist() == [1.0, 0.0, 1.0]


def test_the_threshold_decides_what_is_right_and_forgives_rounding():
    quality = np.array([[0.5, 2 / 3, float(np.float32(2 / 3)), 0.0]])
    assert pass_at_k(quality, 1, threshold=2 / 3).tolist() == [0.5]
    assert pass_at_k(quality, 1, threshold=0.5).tolist() == [0.75]


def test_a_row_with_an_answer_that_cannot_be_judged_has_none():
    assert np.isnan(pass_at_k(np.array([[1.0, np.nan]]), 1, threshold=1.0)[0])


@pytest.mark.parametrize("k", [0, 3])
def test_k_lies_between_one_and_the_samples(k):
    with pytest.raises(ValueError, match="2 samples"):
        pass_at_k(np.zeros((1, 2)), k, threshold=1.0)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_it_is_the_share_of_draws_that_hold_a_right_answer(right, data):
    k = data.draw(st.integers(1, len(right)))
    draws = [any(draw) for draw in combinations(right, k)]
    found = pass_at_k(np.array([right], dtype=float), k, threshold=1.0)[0]
    assert found == pytest.approx(sum(draws) / len(draws))
