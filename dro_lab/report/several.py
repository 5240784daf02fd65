"""The page of several runs: which setting wins, by how much, how sure, at what cost, and what they wrote."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dro_lab.record.read import Run
from dro_lab.report import comparison, prose, rows
from dro_lab.report.comparison_figures import Look, comparison_curve, looks, plotted
from dro_lab.report.content import source_line
from dro_lab.report.figures import Curve
from dro_lab.report.heat import heats
from dro_lab.report.page import render_page
from dro_lab.report.single import shown

COLUMNS = 3
"""Runs that stand side by side when the page opens."""
AXES = ("steps", "rollouts", "tokens", "seconds")
FURTHER = {"reasoning_tokens": "Reasoning length in tokens", "reflective_share": "Share of reflective tokens"}


def render_comparison(runs: Sequence[Run], *, figures: Path) -> str:
    """The page as text; each figure is written to ``figures`` as PNG with the CSV of what it plots.

    Raises:
        UserError: runs that cannot be compared (`analysis.load.check_comparable`), or two runs of the same
            configuration and seed.
    """
    from analysis.load import by_label, check_comparable

    check_comparable(runs)
    groups = comparison.best_first(by_label(runs))
    ordered = [run for seeds in groups.values() for run in seeds.values()]
    names = [comparison.run_name(label, seed) for label, seeds in groups.items() for seed in seeds]
    first = ordered[0].summary
    confidence = first["confidence"]
    lines = comparison.lines(groups, confidence=confidence)
    styles = looks(list(groups))
    analyses = _analyses(ordered, lines, confidence=confidence)
    # the section on win rates has an interval of its own kind for it, over seeds and queries
    told = ["win_rate"] if any(block.rows for block in analyses["wins"]) else []
    curves = _curves(ordered, styles, confidence=confidence, figures=figures)
    tables = {
        "rollouts": rows.table(comparison.joined(ordered, "rollouts"), rows.ROLLOUTS, by_run=True),
        "answers": rows.table(comparison.joined(ordered, "answers"), rows.ANSWERS, by_run=True),
    }
    tables = {name: None if table is None else {**table, "runs": names} for name, table in tables.items()}
    heat = heats(comparison.joined(ordered, "tokens"), len(ordered))
    sides = {"runs": names, "chosen": _chosen(groups), "heat": heat, **tables}
    return render_page(
        "comparison.html.j2",
        rules={key: value for curve in curves for key, value in curve.rules.items()},
        data={"sides": sides},
        summary=first,
        source=source_line(first["provenance"]),
        verdict=comparison.verdict(lines, groups, metric=first["metric"], confidence=confidence),
        lines=lines,
        costs=comparison.COSTS,
        looks={style.label: style for style in styles},
        curves=shown(curves),
        **analyses,
        measures=comparison.measures(groups, metric_name=first["metric"], confidence=confidence, without=told),
        differences=comparison.differences(groups),
        labels=list(groups),
        alarms=comparison.alarms(groups),
        heats=sum(len(found["queries"]) for found in heat if found),
        heats_all=sum(found["all"] for found in heat if found),
        rollouts_shown=rows.shown_sentence(tables["rollouts"], rows.ROLLOUTS, by_run=True),
        answers_shown=rows.shown_sentence(tables["answers"], rows.ANSWERS, by_run=True),
        runs=_runs(ordered, names),
    )


def _analyses(runs: Sequence[Run], lines: Sequence[comparison.Line], *, confidence: float) -> dict[str, Any]:
    """Win rates, and steps to the level of the setting that ended lowest."""
    measured = [line.label for line in lines if math.isfinite(line.after.value)]
    baseline = measured[-1] if len(measured) > 1 else ""
    to_target = prose.steps_to_target(runs, baseline=baseline, confidence=confidence) if baseline else []
    return {"wins": prose.win_rates(runs, confidence=confidence), "baseline": baseline, "to_target": to_target}


def _curves(runs: Sequence[Run], styles: Sequence[Look], *, confidence: float, figures: Path) -> list[Curve]:
    from analysis.load import AXES as words

    wanted = [("quality", "Quality", x) for x in AXES] + [(metric, title, "steps") for metric, title in FURTHER.items()]
    found = []
    for metric, title, x in wanted:
        points = plotted(runs, metric, x, confidence=confidence)
        name = f"{metric}_{x}"
        share = metric != "reasoning_tokens"
        found.append(
            comparison_curve(points, styles, name=name, title=title, xlabel=words[x], share=share, folder=figures)
        )
    return [curve for curve in found if curve is not None]


def _chosen(groups: comparison.Groups) -> list[int]:
    """The first run of each setting, as many as stand side by side; of one setting its first runs."""
    starts, place = [], 0
    for seeds in groups.values():
        starts.append(place)
        place += len(seeds)
    return (starts if len(starts) > 1 else list(range(place)))[:COLUMNS]


def _runs(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Where each run lies, below what they have in common: the page names no machine's folders."""
    above = os.path.commonpath([run.folder.resolve().parent for run in runs])
    return [
        {
            "name": name,
            "folder": run.folder.resolve().relative_to(above).as_posix(),
            "status": run.summary["status"],
            "steps": run.summary["steps"],
            "after": run.summary["after"],
            "command": run.environment.get("command", ""),
        }
        for name, run in zip(names, runs, strict=True)
    ]
