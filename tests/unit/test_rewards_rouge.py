"""ROUGE-L on texts whose longest common subsequence one can count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dro_lab.errors import UserError
from dro_lab.rewards import rouge as module
from dro_lab.rewards.rouge import rouge
from dro_lab.types import TokenStats
from tests.tiny_step import groups_of

REFERENCE = "the cat sat on the mat"


def scores(*answers, reference=REFERENCE, **arguments):
    groups = replace(groups_of(1, len(answers)), references_P=[reference], answers_PG=[list(answers)])
    return rouge(groups, TokenStats(), **arguments)


def test_f1_of_the_longest_common_subsequence():
    got = scores(
        REFERENCE,
        "The cat SAT, on the mat!",  # case and punctuation do not count
        "the cat",  # P 1, R 2/6
        "mat the on sat cat the",  # the on the: 3 of 6
        "a dog",
        "",
    )
    want = [1.0, 1.0, 2 * (2 / 6) / (1 + 2 / 6), 3 / 6, 0.0, 0.0]
    assert got.outcome_PG[0].tolist() == pytest.approx(want)
    assert got.metrics["no_overlap_share"] == pytest.approx(2 / 6)
    assert got.depends_on == "completion"


def test_the_reasoning_plays_no_part():
    groups = replace(groups_of(1, 2), references_P=[REFERENCE], answers_PG=[["nothing", "nothing"]])
    told = replace(groups, reasonings_PG=[[REFERENCE, ""]], completions_PG=[[REFERENCE, ""]])
    assert rouge(told, TokenStats()).outcome_PG.tolist() == [[0.0, 0.0]]


def test_stems():
    assert scores("cats sitting", reference="cat sits").outcome_PG.item() == 0.0
    assert scores("cats sitting", reference="cat sits", stemmer=True).outcome_PG.item() == 1.0


def test_a_reference_without_words_is_not_scorable():
    assert math.isnan(scores("anything", reference="...").outcome_PG.item())
    assert math.isnan(scores("日本語", reference="日本語").outcome_PG.item())


def test_keys():
    assert module.needs() == frozenset()
    with pytest.raises(UserError, match=r"reward\.stemmer=1: must be true or false"):
        module.check(stemmer=1)
