"""The report's tokens that taught: their weights, and how the page speaks of each reward's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dro_lab.record import RunRecord
from dro_lab.record.rows import token_rows
from dro_lab.report import content, write_report
from dro_lab.rewards.avg_logprob import avg_logprob
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.rewards.r3 import r3
from dro_lab.rewards.seq_prob import seq_prob
from dro_lab.rewards.verifier import verifier
from dro_lab.types import Reward
from tests.record_fixture import step_rows, summary, two_references
from tests.report_fixture import Page


def _tokens(rows: list[tuple]) -> pd.DataFrame:
    columns = ["step", "prompt_id", "position", "token", "weight", "sigma", "truth"]
    return pd.DataFrame(rows, columns=columns).assign(mean_prob=0.5)


def test_the_tokens_that_taught_most_are_those_with_the_most_weight() -> None:
    frame = _tokens(
        [
            (0, "a", 0, "The", 0.0, 0.0, False),
            (0, "a", 1, " sum", 0.1, 0.1, False),
            (0, "a", 2, " 7", 0.9, 0.4, True),
            (5, "a", 0, "7", 0.3, 0.4, True),
            (5, "a", 1, " more", 0.7, 0.4, True),
        ]
    )
    weighted, weighting = content.with_weights(frame)
    assert weighting == "own"
    found = content.teachers(weighted)
    assert [(item.token, item.count) for item in found] == [("7", 2), ("more", 1), ("sum", 1)]
    assert [item.share for item in found] == pytest.approx([0.6, 0.35, 0.05])
    assert (found[0].left, found[0].right) == ("The sum ", "")
    assert content.truth_sentence(weighted).endswith("They are 60% of the tokens and carry 95% of the weight.")


EQUAL = "gives all tokens of the reference the same weight"
NONE = "has no weights for single tokens of the reference: it reads the sampled answer, or the reference as a whole"
OWN = "weighs each token of the reference by how much its probability depends on the reasoning"


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [(r3, OWN), (avg_prob, EQUAL), (avg_logprob, EQUAL), (seq_prob, NONE), (verifier, NONE)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_page_says_how_the_reward_weighs_tokens(tmp_path: Path, reward: Reward, sentence: str) -> None:
    groups, stats, tokenizer = two_references()
    rows = token_rows(groups, stats, reward(groups, stats), tokenizer=tokenizer, prompts=[0, 1], split="test")
    name = reward.__name__
    with RunRecord(tmp_path / "run") as record:
        record.tokens(rows)
        record.summary(summary(reward=name))
    page = Page(write_report(tmp_path / "run"))
    assert [text in page.text for text in (OWN, EQUAL, NONE)] == [text == sentence for text in (OWN, EQUAL, NONE)]
    assert f"The reward {name} {sentence}" in page.text
    assert ("taught" in page.text) == (sentence == OWN)
    assert ("tokens that react most to the reasoning" in page.text) == (sentence != OWN)
    assert ("% of the weight" in page.text) == (sentence == OWN)
    if sentence != OWN:
        # "7" moves with the reasoning and stands once; "the" stands five times and never moves
        assert re.search(r"1\. 100% of the reaction, seen 1 time\n7the the sum 7\n", page.text)
        shown = pd.read_csv(tmp_path / "run" / "figures" / "tokens.csv")
        assert shown.groupby("prompt_id")["reaction"].sum().tolist() == pytest.approx([1, 0])


def test_the_reaction_is_the_share_of_variance_in_a_reference() -> None:
    frame = _tokens([(0, "a", 0, "x", None, 0.1, None), (0, "a", 1, "y", None, 0.3, None)])
    weighted, weighting = content.with_weights(frame)
    assert weighting == "none"
    assert weighted["shown"].tolist() == pytest.approx([0.1, 0.9])
    assert content.truth_sentence(weighted) == ""
    long = _tokens([(0, p, j, "x", 1 / n, 0.1, True) for p, n in (("a", 3), ("b", 7)) for j in range(n)])
    weighted, weighting = content.with_weights(long)
    assert weighting == "equal", "weights differ between references of other lengths, not within one"
    assert content.truth_sentence(weighted, shown="reaction").endswith("carry 100% of the reaction.")


def test_no_token_is_named_where_none_taught(tmp_path: Path) -> None:
    _, tokens = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=1)
    with RunRecord(tmp_path / "run") as record:
        record.tokens([row | {"weight": 0.0, "sigma": 0.0} for row in tokens])
        record.summary(summary())
    page = Page(write_report(tmp_path / "run"))
    assert "None: in no sampled group did the probability of a reference token depend on the reasoning." in page.text
    assert "three tokens" not in page.text
