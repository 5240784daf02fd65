"""Reference tokens as the page's heat map takes them: by query, the texts and every number that is known of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from dro_lab.report.rows import spread

QUERIES = 240
"""Queries that one page holds at most, evenly spread over the run."""


def heat(tokens: pd.DataFrame, *, queries: int = QUERIES) -> dict[str, Any] | None:
    """The queries in the order of training, and how many there are in all; None where no token was recorded.

    A query is one step's measurement of one prompt: ``tokens``, and for each ``sigma``, ``weight`` (null where the
    reward has none), ``prob`` (mean over the group) and ``truth`` (1, 0, or null where nobody knows).
    """
    if tokens.empty:
        return None
    grouped = tokens.sort_values("position", kind="stable").groupby(["step", "split", "prompt_id"], sort=False)
    names = tokens[["step", "split", "prompt_id"]].drop_duplicates().sort_values("step", kind="stable")
    places = np.unique(np.linspace(0, len(names) - 1, min(queries, len(names))).round().astype(int))
    return {
        "all": len(names),
        "weights": bool(tokens["weight"].notna().any()),
        "queries": [
            _query(step, split, prompt_id, grouped.get_group((step, split, prompt_id)))
            for step, split, prompt_id in names.iloc[places].itertuples(index=False)
        ],
    }


def heats(tokens: pd.DataFrame, runs: int, *, queries: int = QUERIES) -> list[dict[str, Any] | None]:
    """`heat` of each of several runs (column ``run``, from 0): whole prompts, those that more runs share first."""
    if tokens.empty:
        return [None] * runs
    names = tokens[["run", "step", "split", "prompt_id"]].drop_duplicates().sort_values("step", kind="stable")
    codes, prompts = pd.factorize(names["prompt_id"])
    shared = names["run"].groupby(codes).nunique().to_numpy(dtype=float)
    taken = set(prompts[np.unique(codes[spread(codes, shared, [(np.ones(len(names)), queries)])])])
    found = []
    for run in range(runs):
        of_run = tokens[tokens["run"] == run]
        chosen = heat(of_run[of_run["prompt_id"].isin(taken)])
        recorded = len(of_run[["step", "split", "prompt_id"]].drop_duplicates())
        found.append(None if chosen is None else {**chosen, "all": recorded})
    return found


def _query(step: int, split: str, prompt_id: str, rows: pd.DataFrame) -> dict[str, Any]:
    weights = _numbers(rows["weight"])
    return {
        "step": int(step),
        "split": split,
        "query": prompt_id,
        "tokens": [text or "" for text in rows["token"]],
        "sigma": _numbers(rows["sigma"]),
        "weight": None if all(weight is None for weight in weights) else weights,
        "prob": _numbers(rows["mean_prob"]),
        "truth": [None if pd.isna(known) else int(known) for known in rows["truth"]],
    }


def _numbers(values: pd.Series) -> list[float | None]:
    return [float(f"{value:.3g}") if math.isfinite(value) else None for value in values.astype(float)]
