"""Win rates by a judge: both orders, ties, what is left out, and the questions that are asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.evaluation.wins import compare, paired
from dro_lab.judges.exact import ExactJudge
from dro_lab.judges.protocol import Pair
from dro_lab.types import Provenance, Row, Task

ROWS = [Row(id=str(i), prompt=[{"role": "user", "content": "?"}], reference="") for i in range(3)]


class Scripted:
    """A judge that is asked: `rule` says what it answers; calls and questions are kept."""

    name = "openai"
    asks_reference = False

    def __init__(self, rule: Callable[[Pair], float]) -> None:
        self.rule, self.calls = rule, list[list[Pair]]()

    def preferences(self, pairs: Sequence[Pair]) -> list[float]:
        self.calls.append(list(pairs))
        return [self.rule(pair) for pair in pairs]


def longer(pair: Pair) -> float:
    first, second = len(pair.first), len(pair.second)
    return 0.5 if first == second else float(first > second)


def metric_of(values: dict[str, float]) -> ExactJudge:
    provenance = Provenance(dataset="d", kind="file", location="f")
    metric = lambda answer, row: values[answer]  # noqa: E731
    return ExactJudge(Task(name="d", provenance=provenance, splits={}, metric=metric, metric_name="m"))


def test_a_judge_without_a_bias_gives_wins_ties_and_losses_and_never_disagrees():
    judge = Scripted(longer)
    found = compare(ROWS, [["long"], ["a"], ["ab"]], [["no"], ["bcd"], ["cd"]], judge, pairs="auto")
    assert found["win_rate"].tolist() == [1.0, 0.0, 0.5]
    assert found["order_disagreement"].tolist() == [0.0, 0.0, 0.0]
    assert found["win_unknown_share"].tolist() == [0.0, 0.0, 0.0]
    assert len(judge.calls) == 1, "all questions at once"
    asked = {(pair.row.id, pair.first, pair.second) for pair in judge.calls[0]}
    assert {("0", "long", "no"), ("0", "no", "long")} <= asked
    assert len(judge.calls[0]) == 6


def test_a_judge_that_always_takes_the_first_place_ties_every_pair_and_is_found_out():
    found = compare(ROWS[:1], [["x", "y"]], [["v", "w"]], Scripted(lambda pair: 1.0), pairs="all")
    assert found["win_rate"].tolist() == [0.5]
    assert found["order_disagreement"].tolist() == [1.0]


def test_a_pair_that_one_order_leaves_open_is_left_out_and_counted():
    judge = Scripted(lambda pair: math.nan if pair.first == "dark" else longer(pair))
    found = compare(ROWS[:2], [["dark", "long"], ["dark", "dark"]], [["no", "no"], ["x", "x"]], judge, pairs="matched")
    assert found["win_rate"][0] == 1.0
    assert found["win_unknown_share"].tolist() == [0.5, 1.0]
    assert math.isnan(found["win_rate"][1])
    assert math.isnan(found["order_disagreement"][1])


def test_equal_texts_tie_without_a_question_and_equal_questions_are_asked_once():
    judge = Scripted(lambda pair: 0.0)
    found = compare(ROWS[:1], [["same", "other"]], [["same", " same "]], judge, pairs="all")
    assert found["win_rate"].tolist() == [(0.5 + 0.5 + 0.5 + 0.5) / 4]
    assert [(pair.first, pair.second) for pair in judge.calls[0]] == [
        ("other", "same"),
        ("same", "other"),
        ("other", " same "),
        (" same ", "other"),
    ]
    judge = Scripted(lambda pair: 0.0)
    compare(ROWS[:1], [["a"]], [["a"]], judge, pairs="all")
    assert judge.calls == []


def test_which_samples_meet():
    assert paired(2, 3, "all", free=False) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert paired(2, 3, "matched", free=True) == [(0, 0), (1, 1)]
    assert paired(2, 2, "auto", free=True) == paired(2, 2, "all", free=True)
    assert paired(2, 2, "auto", free=False) == paired(2, 2, "matched", free=False)


def test_the_two_sides_must_answer_the_same_rows():
    with pytest.raises(ValueError, match="same rows"):
        compare(ROWS, [["a"]] * 3, [["a"]] * 2, Scripted(longer), pairs="all")


def by_quality(ours: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Independent: share of pairs of samples on the same row in which ours has the higher quality, ties one half."""
    left, right = ours[:, :, None], base[:, None, :]
    wins = (left > right) + 0.5 * (left == right)
    return np.where(np.isnan(left) | np.isnan(right), np.nan, wins).mean(axis=(1, 2))


VALUES = {"a": 0.0, "b": 0.25, "c": 1.0, "d": 1.0}
ANSWERS = st.lists(st.lists(st.sampled_from("abcd"), min_size=2, max_size=2), min_size=3, max_size=3)


@given(ANSWERS, ANSWERS)
def test_by_the_exact_judge_it_is_the_comparison_of_qualities(ours, base):
    quality = [np.array([[VALUES[answer] for answer in row] for row in side]) for side in (ours, base)]
    judge = metric_of(VALUES)
    found = compare(ROWS, ours, base, judge, pairs="auto")
    assert "order_disagreement" not in found
    np.testing.assert_allclose(found["win_rate"], by_quality(*quality))
    back = compare(ROWS, base, ours, judge, pairs="auto")
    np.testing.assert_allclose(found["win_rate"] + back["win_rate"], 1.0)


def test_an_answer_without_a_quality_leaves_its_pairs_out():
    judge = metric_of({**VALUES, "?": math.nan})
    found = compare(ROWS[:2], [["?", "c"], ["?", "?"]], [["a", "a"], ["a", "a"]], judge, pairs="auto")
    assert found["win_rate"][0] == 1.0
    assert math.isnan(found["win_rate"][1])
    assert found["win_unknown_share"].tolist() == [0.5, 1.0]
