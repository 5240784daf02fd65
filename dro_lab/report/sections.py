"""The report's tables on what gate, filter, judge and monitors did, and on every part of the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dro_lab.console import ONLY_IF_ANY, SHARES, label, table_order
from dro_lab.report.content import MISSING, number

GATE = {
    "gate/rejected_share": "groups rejected",
    "gate/coverage_rejected_share": "groups that fail coverage: a check that too few rollouts meet",
    "gate/consistency_rejected_share": "groups that fail consistency: a best rollout that meets too few checks",
    "gate/floored_share": "rollouts given their group's lowest reward",
    "gate/ungated_share": "groups without a check",
    "gate/yes_share": "checks met",
    "gate/no_share": "checks not met",
    "gate/unknown_share": "checks without a verdict",
    "rubric/reference_failed_share": "checks that the reference itself fails",
}
FILTER = {
    "filter/dropped_share": "rollouts dropped",
    "rollouts/kept_share": "rollouts that taught, after gate, filter and masks",
    "filter/first_kept_share": "groups that taught before sampling again",
    "filter/refilled_share": "groups replaced by sampling again",
    "filter/refill_rounds": "rounds of sampling again, a step",
    "filter/refill_rollouts": "rollouts sampled for them, a step",
    "filter/refill_seconds": "seconds spent on them, a step",
    "filter/sigma_bar": "sigma_bar: how strongly the best tokens react to the reasoning",
    "filter/tau": "tau: the lowest sigma_bar that is kept",
}
ALWAYS_THERE = {"gate/rejected_share", "gate/failed_share", "filter/dropped_share", "rollouts/kept_share"}
"""Metrics of every run: they alone do not make a section."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A metric's mean over the first fifth of the steps, the last fifth, and all of them."""

    words: str
    first: str
    last: str
    mean: str


def stage(metrics: pd.DataFrame, known: Mapping[str, str], *, prefix: str) -> list[Line]:
    """The lines of one stage of the pipeline; empty where it did nothing of its own.

    ``known`` gives order and words; another metric under ``prefix`` follows under its own name.
    """
    present = [c for c in metrics.columns if (c in known or c.startswith(prefix)) and metrics[c].notna().any()]
    if not set(present) - ALWAYS_THERE - {"rubric/reference_failed_share"}:
        return []
    order = [c for c in known if c in present] + sorted(c for c in present if c not in known and c not in ALWAYS_THERE)
    fifth = max(1, len(metrics) // 5)
    lines = []
    for column in order:
        values, share = metrics[column].astype(float), column.endswith("_share")
        means = [number(part.mean(), share=share) for part in (values.head(fifth), values.tail(fifth), values)]
        words = known.get(column, column.removeprefix(prefix).replace("_", " "))
        lines.append(Line(words=words, first=means[0], last=means[1], mean=means[2]))
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One monitor over the run."""

    name: str
    state: str  # "silent", "warned" or "stopped the run"
    when: str
    message: str


def health(metrics: pd.DataFrame, alarms: Sequence[Mapping[str, Any]]) -> list[Watched]:
    """Every monitor: those that spoke first, in the order in which they did."""
    alarms = [alarm for alarm in alarms if alarm["monitor"]]
    spoke = {alarm["monitor"]: alarm for alarm in reversed(alarms)}
    names = [c.removeprefix("health/") for c in metrics.columns if c.startswith("health/")]
    found = []
    for name in dict.fromkeys([*(alarm["monitor"] for alarm in alarms), *names]):
        fired = int(metrics.get(f"health/{name}", pd.Series(dtype=float)).fillna(0).sum())
        if name not in spoke:
            found.append(Watched(name=name, state="silent", when="", message=""))
            continue
        alarm = spoke[name]
        state = "stopped the run" if alarm["action"] == "stop" else "warned"
        when = f"at step {alarm['step']}" + (f", true in {fired} of {len(metrics)} steps" if fired else "")
        found.append(Watched(name=name, state=state, when=when, message=alarm["message"]))
    return found


def judge_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The judge's counts in words and numbers; empty where it counted nothing."""
    return [
        (
            name.replace("_", " "),
            MISSING if value is None else f"{value:,.0f}" if value == int(value) else f"{value:.2f}",
        )
        for name, value in summary["judge_counts"].items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Evaluations by split and decoding: the heads of the columns, and by metric a cell for each."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # words, and per column a value and its interval


def evaluation_parts(evals: pd.DataFrame, metric_name: str) -> Parts | None:
    """First and last measurement of each metric that several parts have; None where there is one part only."""
    if evals.empty:
        return None
    places = list(dict.fromkeys(zip(evals["split"], evals["decoding"], strict=True)))
    if len(places) < 2:
        return None
    rows = []
    for metric in table_order(evals["metric"]):
        of_metric = evals[evals["metric"] == metric]
        cells = [
            _cell(of_metric[(of_metric["split"] == split) & (of_metric["decoding"] == decoding)], metric)
            for split, decoding in places
        ]
        measured = of_metric["value"].astype(float)
        shared = sum(value != MISSING for value, _ in cells) > 1  # else it stands in the table before and after
        if shared and not (metric in ONLY_IF_ANY and not (measured > 0).any()):
            rows.append((label(metric, metric_name), cells))
    return Parts(heads=[f"{split}, {decoding}" for split, decoding in places], rows=rows)


def _cell(rows: pd.DataFrame, metric: str) -> tuple[str, str]:
    """``0.39 → 0.54`` and ``0.49 to 0.59``: the first and last value, and the interval of the last."""
    rows = rows[rows["value"].astype(float).notna()].sort_values("step", kind="stable")
    if rows.empty:
        return MISSING, ""
    first, last, share = rows.iloc[0], rows.iloc[-1], metric in SHARES
    start = f"{number(float(first['value']), share=share)} → " if len(rows) > 1 else ""
    low, high = float(last["low"]), float(last["high"])
    around = f"{number(low, share=share)} to {number(high, share=share)}" if math.isfinite(low) else ""
    return f"{start}{number(float(last['value']), share=share)}", around
