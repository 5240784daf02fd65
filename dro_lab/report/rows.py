"""Rollouts and answers as the page's browser takes them: columns of numbers, texts stored once, and a count of all.

A page holds at most `ROWS` rows and `CHARACTERS` characters of text, whole queries, spread evenly; what is left out
is counted and said, and stays in the parquet file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Codes = NDArray[np.intp]
Numbers = NDArray[np.float64]

ROWS = 2_000
CHARACTERS = 16_000_000

TEXTS = ("prompt", "reasoning", "answer", "reference")
FLAGS = ("truncated", "malformed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A table that the page lets one browse: which columns are numbers, which can be chosen from, and its words."""

    noun: str
    file: str
    query: tuple[str, ...]  # the columns that name a query: its rows are shown together or not at all
    numbers: Mapping[str, str]
    choices: Mapping[str, str]
    ranges: Sequence[str]
    sorts: Sequence[str]
    plain: Sequence[str] = ()


ROLLOUTS = Kind(
    noun="rollouts",
    file="rollouts.parquet",
    query=("step", "prompt_id"),
    numbers={
        "step": "step",
        "rollout": "rollout",
        "reward": "reward",
        "quality": "quality",
        "advantage": "advantage",
        "reasoning_tokens": "tokens of reasoning",
        "answer_tokens": "other tokens",
    },
    choices={"kept": "taught", "prompt_id": "query"},
    ranges=("step", "reward", "quality"),
    sorts=("step", "reward", "quality", "advantage", "reasoning_tokens"),
    plain=("reason",),
)
ANSWERS = Kind(
    noun="answers",
    file="answers.parquet",
    query=("prompt_id",),
    numbers={
        "step": "step",
        "sample": "sample",
        "quality": "quality",
        "row_win_rate": "wins against the start",
        "row_order_disagreement": "judged otherwise in the other order",
        "reasoning_tokens": "tokens of reasoning",
        "answer_tokens": "other tokens",
    },
    choices={"split": "split", "decoding": "decoding", "prompt_id": "query"},
    ranges=("step", "quality", "row_win_rate"),
    sorts=("step", "quality", "row_win_rate", "reasoning_tokens"),
)


def table(
    frame: pd.DataFrame, kind: Kind, *, rows: int = ROWS, characters: int = CHARACTERS, by_run: bool = False
) -> dict[str, Any] | None:
    """The rows to embed, and how many there are in all; None where there are none.

    ``by_run``: ``frame`` holds several runs (column ``run``); queries that more runs share are taken first.
    """
    if frame.empty:
        return None
    shown = limited(frame, kind, rows=rows, characters=characters, by_run=by_run)
    strings: dict[str, int] = {}

    def stored(text: Any) -> int:
        return strings.setdefault("" if text is None or text != text else str(text), len(strings))

    names = [name for name in kind.numbers if name in shown and shown[name].notna().any()]
    columns: dict[str, list[Any]] = {name: [_number(value) for value in shown[name]] for name in names}
    chosen = [name for name in kind.choices if name in shown]
    for name in (*TEXTS, *chosen, *kind.plain):
        columns[name] = [stored(_choice(value)) for value in shown[name]]
    for name in FLAGS:
        columns[name] = [int(bool(value)) for value in shown[name]]
    choices = {name: kind.choices[name] for name in chosen}
    if by_run:
        columns["run"], choices = shown["run"].tolist(), {"run": "run", **choices}
    columns |= _json_columns(shown)
    return {
        "noun": kind.noun,
        "all": len(frame),
        "count": len(shown),
        "strings": list(strings),
        "columns": columns,
        "numbers": {name: kind.numbers[name] for name in names},
        "choices": choices,
        "ranges": [name for name in kind.ranges if name in names],
        "sorts": [name for name in kind.sorts if name in names],
    }


def limited(frame: pd.DataFrame, kind: Kind, *, rows: int, characters: int, by_run: bool = False) -> pd.DataFrame:
    """At most ``rows`` rows and ``characters`` of text: whole queries, evenly spread in the order of the frame.

    One query is always shown. Of several runs, the queries that most runs share come first.
    """
    codes, _ = pd.factorize(pd.MultiIndex.from_frame(frame[["prompt_id"] if by_run else list(kind.query)]))
    texts = frame[list(TEXTS)].fillna("").map(len).sum(axis=1).to_numpy(dtype=float)
    shared = frame["run"].groupby(codes).nunique().to_numpy() if by_run else np.ones(codes.max() + 1)
    return frame[spread(codes, shared, [(np.ones(len(frame)), rows), (texts, characters)])]


def spread(codes: Codes, shared: Numbers, limits: Sequence[tuple[Numbers, float]]) -> NDArray[np.bool_]:
    """Which rows are taken: whole queries within every limit, evenly spread, those that more runs share first.

    Args:
        codes: each row's query, numbered from 0 in the order that is spread over.
        shared: runs that know each query.
        limits: what each row costs, and the most that all together may; the first query is taken in any case.
    """
    costs = [np.bincount(codes, weights=cost) for cost, _ in limits]
    most = [limit for _, limit in limits]
    taken: list[int] = []
    for runs in sorted(set(shared.tolist()), reverse=True):
        candidates = np.flatnonzero(shared == runs)
        room = min(
            (limit - cost[taken].sum()) / max(cost[candidates].mean(), 1.0)
            for cost, limit in zip(costs, most, strict=True)
        )
        count = min(len(candidates), max(int(room), 0 if taken else 1))
        if count:
            taken += candidates[np.unique(np.linspace(0, len(candidates) - 1, count).round().astype(int))].tolist()
    while len(taken) > 1 and any(cost[taken].sum() > limit for cost, limit in zip(costs, most, strict=True)):
        taken.pop(len(taken) // 2)  # queries of unequal size: an even spread can overshoot
    return np.isin(codes, taken)


def shown_sentence(table: Mapping[str, Any] | None, kind: Kind, *, by_run: bool = False) -> str:
    """How many of how many rows are on the page."""
    if table is None:
        return ""
    if table["count"] == table["all"]:
        return f"All {table['all']:,} {kind.noun} of {'the runs' if by_run else kind.file} are here."
    where = f"each run's {kind.file} holds all of its own" if by_run else f"{kind.file} holds them all"
    spread_over = "whole queries, those that most runs share first" if by_run else "whole queries, evenly spread"
    return f"{table['count']:,} of {table['all']:,} {kind.noun} are here: {spread_over}; {where}."


def _json_columns(shown: pd.DataFrame) -> dict[str, list[Any]]:
    """The reward's parts and the rubric's verdicts, as they were written; left out where no row has any."""
    columns: dict[str, list[Any]] = {}
    if "parts" in shown:
        parts = [_parsed(text, {}) for text in shown["parts"]]
        if any(parts):
            columns["parts"] = [[[name, _number(value)] for name, value in each.items()] for each in parts]
    if "verdicts" in shown:
        verdicts = [_parsed(text, []) for text in shown["verdicts"]]
        if any(verdicts):
            columns["verdicts"] = verdicts
    return columns


def _parsed(text: Any, default: Any) -> Any:
    return json.loads(text) if isinstance(text, str) and text else default


def _choice(value: Any) -> Any:
    return value if not isinstance(value, bool | np.bool_) else "yes" if value else "no"


def _number(value: Any) -> float | int | None:
    """Four digits are what the page shows; whole numbers stay whole."""
    if value is None or not math.isfinite(value):
        return None
    number = float(f"{value:.4g}") if abs(value) < 1000 else round(float(value), 1)
    return int(number) if number == int(number) else number
