"""Segments, backtracking and the length until the answer is first certain, on literals and by plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dro_lab.data.backtracking import PHRASES
from dro_lab.evaluation.reasoning import backtracks, certainty, prefix_needs, reasoning_metrics, segments
from dro_lab.types import Need, PrefixPlan, RolloutGroups, Stat, TokenStats
from tests.unit.test_evaluation_settings import settings


def groups_of(reasonings_PG, *, starts=None, lengths=None, width=12) -> RolloutGroups:
    """Groups with these reasonings; the reasoning of each rollout is ``lengths`` tokens from ``starts`` on."""
    shape = (len(reasonings_PG), len(reasonings_PG[0]))
    starts_PG1 = torch.tensor(starts if starts is not None else [[0] * shape[1]] * shape[0])[..., None]
    lengths_PG1 = torch.tensor(lengths if lengths is not None else [[4] * shape[1]] * shape[0])[..., None]
    places_C = torch.arange(width)
    inside = (places_C >= starts_PG1) & (places_C < starts_PG1 + lengths_PG1)
    return RolloutGroups(
        prompts_P=[[{"role": "user", "content": "q"}]] * shape[0],
        references_P=["42"] * shape[0],
        completions_PG=reasonings_PG,
        reasonings_PG=reasonings_PG,
        answers_PG=reasonings_PG,
        truncated_PG=torch.zeros(shape, dtype=torch.bool),
        malformed_PG=torch.zeros(shape, dtype=torch.bool),
        completion_ids_PGC=torch.zeros(*shape, width, dtype=torch.int64),
        completion_mask_PGC=torch.ones(*shape, width, dtype=torch.bool),
        reasoning_mask_PGC=inside,
        columns_P=[{"id": str(p)} for p in range(shape[0])],
    )


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("", []),
        (" \n\n ", []),
        ("One.", ["One."]),
        ("One.\nTwo.", ["One.", "Two."]),
        ("One.\nstill one\n\nTwo.", ["One.\nstill one", "Two."]),
        ("One.\n \t\nTwo.\n\n\n\nThree.\n\n", ["One.", "Two.", "Three."]),
        ("One.\r\n\r\nTwo.", ["One.", "Two."]),
    ],
)
def test_segments_end_at_blank_lines_and_at_lines_where_there_is_none(reasoning, expected):
    assert [piece.strip() for piece in segments(reasoning)] == expected


@given(st.text("ab \n", max_size=40))
def test_no_segment_is_empty_and_nothing_but_white_space_is_lost(reasoning):
    found = segments(reasoning)
    assert all(piece.strip() for piece in found)
    assert "".join("".join(found).split()) == "".join(reasoning.split())


@pytest.mark.parametrize(
    "segment",
    [
        "Wait, 3 + 4 is 7.",
        "so 8? HMM.",
        "Let me\ncheck that.",
        "I double-check it",
        "(actually) 9",
        "…on second thought",
    ],
)
def test_a_phrase_counts_as_whole_words_in_either_case(segment):
    assert backtracks(segment)


@pytest.mark.parametrize("segment", ["The waiter awaits.", "factually so", "hmmph", "let me checkmate", "7", ""])
def test_a_part_of_a_word_is_no_phrase(segment):
    assert not backtracks(segment)


@given(st.sampled_from(PHRASES), st.sampled_from(["", " ", "\n", "- ", "“"]), st.sampled_from(["", ".", ",", "\n"]))
def test_every_phrase_is_found_at_the_edges_and_beside_punctuation(phrase, before, after):
    assert backtracks(f"{before}{phrase}{after}")
    assert backtracks(f"{before}{phrase.upper()}{after}")
    assert backtracks(f"{before}{phrase}{after}".replace("'", "’"))
    assert not backtracks(f"{before}x{phrase}x{after}")


def test_shares_are_means_over_the_completions_that_have_reasoning():
    found = reasoning_metrics(
        groups_of(
            [
                ["3 + 4.\n\nWait, no.\n\nHmm, wait.\n\n7.", "7."],  # 2 of 4, 0 of 1
                ["Actually 7.", ""],  # 1 of 1, nothing
                ["", " "],
            ]
        )
    )
    assert found["segments"].tolist() == [2.5, 0.5, 0.0]
    np.testing.assert_array_equal(found["backtracking_share"], [0.25, 1.0, math.nan])


def stats_of(probabilities_PGKR, mask_PGK, ends_PGK, mask_PR) -> TokenStats:
    mask_PR = torch.tensor(mask_PR)
    return TokenStats(
        prefix_logps_PGKR=torch.tensor(probabilities_PGKR).log(),
        prefix_mask_PGK=torch.tensor(mask_PGK),
        prefix_ends_PGK=torch.tensor(ends_PGK),
        reference_mask_PR=mask_PR,
    )


def test_the_first_certain_prefix_counts_and_a_rollout_that_never_is_certain_is_left_out():
    sure, half, no = [0.96, 0.96], [0.9, 0.4], [0.1, 0.1]
    stats = stats_of(
        # certain at the second point; at the first and not later; never; at a masked place only, so never
        [[[half, sure, sure], [sure, no, no], [half, half, half], [no, no, sure]]],
        [[[True] * 3, [True] * 3, [True] * 3, [True, True, False]]],
        [[[2, 5, 9], [3, 6, 9], [3, 6, 9], [3, 6, 0]]],
        [[True, True]],
    )
    groups = groups_of([["x"] * 4], starts=[[2, 0, 0, 0]], lengths=[[8, 10, 10, 10]])
    found = certainty(groups, stats, threshold=0.9)
    assert found["certain_share"].tolist() == [0.5]
    assert found["certain_at"].tolist() == [4.0]  # (5 + 1 - 2) and (3 + 1 - 0)


def test_certain_is_the_mean_log_probability_of_the_references_own_tokens():
    """sqrt(0.9 * 0.4) = 0.6; the end-of-sequence place behind the reference does not count."""
    stats = stats_of([[[[0.9, 0.4, 0.01]]]], [[[True]]], [[[3]]], [[True, True, False]])
    groups = groups_of([["x"]])
    assert certainty(groups, stats, threshold=0.59)["certain_share"].tolist() == [1.0]
    assert certainty(groups, stats, threshold=0.61)["certain_share"].tolist() == [0.0]


def test_no_reasoning_is_a_length_of_nothing_and_no_certain_rollout_is_no_length():
    stats = stats_of([[[[0.99]]], [[[0.5]]]], [[[True]], [[True]]], [[[-1]], [[3]]], [[True], [True]])
    found = certainty(groups_of([[""], ["x"]], lengths=[[0], [4]]), stats, threshold=0.9)
    np.testing.assert_array_equal(found["certain_at"], [0.0, math.nan])
    assert found["certain_share"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_what_is_not_a_number_is_not_certain(value):
    stats = replace(
        stats_of([[[[0.5], [0.99]]]], [[[True, True]]], [[[1, 3]]], [[True]]),
        prefix_logps_PGKR=torch.tensor([[[[value], [-0.01]]]]),
    )
    assert certainty(groups_of([["x"]]), stats, threshold=0.9)["certain_at"].tolist() == [4.0]


def test_without_prefixes_nothing_is_said():
    assert certainty(groups_of([["x"]]), TokenStats(), threshold=0.9) == {}


@given(st.data())
def test_it_is_what_a_plain_loop_finds(data):
    p, g, k, r = (data.draw(st.integers(1, 3)) for _ in range(4))
    draw = lambda low, high, n: data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))  # noqa: E731
    probabilities = torch.tensor(draw(80, 100, p * g * k * r)).view(p, g, k, r) / 100
    steps = torch.tensor(draw(1, 3, p * g * k)).view(p, g, k)
    points = torch.tensor(draw(1, k, p * g)).view(p, g)
    starts = torch.tensor(draw(0, 3, p * g)).view(p, g)
    ends = steps.cumsum(-1) + starts[..., None] - 1
    own = torch.tensor(draw(1, r, p))
    stats = TokenStats(
        prefix_logps_PGKR=probabilities.log(),
        prefix_mask_PGK=torch.arange(k) < points[..., None],
        prefix_ends_PGK=ends,
        reference_mask_PR=torch.arange(r) < own[:, None],
    )
    groups = groups_of([["x"] * g] * p, starts=starts.tolist(), lengths=[[9] * g] * p, width=13)
    found = certainty(groups, stats, threshold=0.9)
    for row in range(p):
        lengths = []
        means = [[geometric(probabilities[row, i, j, : own[row]]) for j in range(points[row, i])] for i in range(g)]
        assume(all(abs(mean - 0.9) > 1e-6 for of_rollout in means for mean in of_rollout))  # else rounding decides
        certain = [[j for j, mean in enumerate(of_rollout) if mean > 0.9] for of_rollout in means]
        lengths = [int(ends[row, i, js[0]]) + 1 - int(starts[row, i]) for i, js in enumerate(certain) if js]
        assert found["certain_share"][row] == len(lengths) / g
        np.testing.assert_allclose(found["certain_at"][row], np.mean(lengths) if lengths else math.nan)


def geometric(values: torch.Tensor) -> float:
    return math.prod(values.tolist()) ** (1 / len(values))


def test_prefixes_are_asked_for_only_where_the_user_says_so():
    assert prefix_needs(settings()) == prefix_needs(settings(certainty=False)) == frozenset()
    asked = prefix_needs(settings(certainty=True, certain_points=3))
    assert asked == {Need(Stat.PREFIXES, plan=PrefixPlan(k=3))}
