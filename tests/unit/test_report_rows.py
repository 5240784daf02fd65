"""What the page embeds of rollouts, answers and tokens: whole queries, evenly spread, counted, texts stored once."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.report import rows
from dro_lab.report.heat import heats


def _rollouts(groups: list[int], *, text: str = "four") -> pd.DataFrame:
    """A prompt a step, with as many rollouts as the list says."""
    written = [
        {"step": step, "prompt_id": f"p{step}", "rollout": g, "prompt": text, "reasoning": text, "answer": text}
        | {"reference": text, "reward": 0.12345, "quality": float("nan"), "advantage": 1 / 3, "parts": '{"r3": 0.5}'}
        | {"reasoning_tokens": 3, "answer_tokens": 4, "truncated": False, "malformed": g == 1, "kept": g == 0}
        | {"reason": "", "verdicts": json.dumps([["Is it?", 1, "yes"]] if g else [])}
        for step, size in enumerate(groups)
        for g in range(size)
    ]
    return pd.DataFrame(written)


def test_a_table_holds_every_text_once_and_numbers_of_four_digits() -> None:
    table = rows.table(_rollouts([2, 1]), rows.ROLLOUTS)
    assert table is not None
    columns, strings = table["columns"], table["strings"]
    assert (table["all"], table["count"]) == (3, 3)
    assert sorted(strings) == sorted({"four", "p0", "p1", "yes", "no", ""})
    assert [strings[i] for i in columns["prompt_id"]] == ["p0", "p0", "p1"]
    assert [strings[i] for i in columns["kept"]] == ["yes", "no", "yes"]
    assert columns["reward"] == [0.1235] * 3
    assert columns["step"] == [0, 0, 1]
    assert columns["malformed"] == [0, 1, 0]
    assert columns["parts"] == [[["r3", 0.5]]] * 3
    assert columns["verdicts"] == [[], [["Is it?", 1, "yes"]], []]
    assert "quality" not in table["numbers"], "no rollout has one"
    assert rows.shown_sentence(table, rows.ROLLOUTS) == "All 3 rollouts of rollouts.parquet are here."
    json.dumps(table, allow_nan=False)


def test_rows_without_any_are_none() -> None:
    assert rows.table(_rollouts([1]).iloc[:0], rows.ROLLOUTS) is None
    assert rows.shown_sentence(None, rows.ROLLOUTS) == ""


def test_a_long_run_shows_whole_groups_from_its_first_step_to_its_last() -> None:
    table = rows.table(_rollouts([4] * 50), rows.ROLLOUTS, rows=20)
    assert table is not None
    assert table["columns"]["step"] == sorted([0, 12, 24, 37, 49] * 4)
    assert rows.shown_sentence(table, rows.ROLLOUTS) == (
        "20 of 200 rollouts are here: whole queries, evenly spread; rollouts.parquet holds them all."
    )


def test_long_texts_limit_the_rows_and_one_query_is_always_there() -> None:
    frame = _rollouts([2] * 10, text="x" * 100)  # 400 characters a rollout, 800 a query
    shown = rows.limited(frame, rows.ROLLOUTS, rows=1000, characters=2500)
    assert shown["step"].tolist() == [0, 0, 4, 4, 9, 9]
    assert len(rows.limited(frame, rows.ROLLOUTS, rows=1000, characters=10)) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 60))
def test_what_is_shown_keeps_within_the_limit_and_holds_whole_queries(groups: list[int], limit: int) -> None:
    shown = rows.limited(_rollouts(groups), rows.ROLLOUTS, rows=limit, characters=10**6)
    sizes = shown.groupby("step").size()
    assert all(size == groups[step] for step, size in sizes.items())
    assert len(shown) <= limit or len(sizes) == 1
    if sum(groups) <= limit:
        assert len(shown) == sum(groups)


def test_of_several_runs_the_queries_that_they_share_come_first() -> None:
    both = pd.concat(
        [_rollouts([2, 2, 2, 2]).assign(run=0), _rollouts([2, 2]).assign(run=1)], ignore_index=True
    )  # p0 and p1 in both runs, p2 and p3 in the first alone
    four = rows.limited(both, rows.ROLLOUTS, rows=8, characters=10**6, by_run=True)
    assert set(four["prompt_id"]) == {"p0", "p1"}
    assert four.groupby("run").size().tolist() == [4, 4]
    six = rows.limited(both, rows.ROLLOUTS, rows=10, characters=10**6, by_run=True)
    assert set(six["prompt_id"]) == {"p0", "p1", "p2"}
    limited = rows.table(both, rows.ROLLOUTS, rows=8, by_run=True)
    assert rows.shown_sentence(limited, rows.ROLLOUTS, by_run=True) == (
        "8 of 12 rollouts are here: whole queries, those that most runs share first; "
        "each run's rollouts.parquet holds all of its own."
    )
    table = rows.table(both, rows.ROLLOUTS, by_run=True)
    assert table is not None
    assert table["columns"]["run"] == [0] * 8 + [1] * 4


def test_heat_maps_of_several_runs_prefer_shared_prompts_and_count_all() -> None:
    def tokens(run: int, prompts: list[str]) -> pd.DataFrame:
        written = [
            {"run": run, "step": step, "split": "test", "prompt_id": prompt, "position": j, "token": f"t{j}"}
            | {"sigma": 0.1 * j, "weight": None, "mean_prob": 0.5, "truth": None if run else j == 1}
            for step in (0, 9)
            for prompt in prompts
            for j in (1, 0)
        ]
        return pd.DataFrame(written)

    frame = pd.concat([tokens(0, ["a", "b", "c"]), tokens(1, ["b", "d"])], ignore_index=True)
    first, second, third = heats(frame, 3, queries=4)
    assert first is not None
    assert second is not None
    assert third is None, "a run without tokens has no heat map"
    assert [(query["query"], query["step"]) for query in first["queries"]] == [("b", 0), ("b", 9)]
    assert (first["all"], second["all"]) == (6, 4)
    query = first["queries"][0]
    assert (query["tokens"], query["sigma"], query["weight"]) == (["t0", "t1"], [0.0, 0.1], None)
    assert (query["truth"], second["queries"][0]["truth"]) == ([0, 1], [None, None])
    assert np.sum([len(found["queries"]) for found in heats(frame, 2, queries=100) if found]) == 10


@pytest.mark.parametrize(("value", "shown"), [(0.123456, 0.1235), (12345.678, 12345.7), (3.0, 3), (float("nan"), None)])
def test_numbers_are_short(value: float, shown: float | None) -> None:
    assert rows._number(value) == shown
