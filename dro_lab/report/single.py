"""The page of one run: what its record says, and its figures as PNG and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from dro_lab.record.read import Run
from dro_lab.record.summary import PARTS
from dro_lab.report import content, rows, sections
from dro_lab.report.figures import Curve, quality_curve, rollout_curve, step_curves
from dro_lab.report.heat import heat
from dro_lab.report.page import render_page

KINDS = {
    "twin": "made by a seeded generator in the data set's format; these are not the data set's own texts",
    "hub": "downloaded from the hub at the revision named",
    "file": "read from a local file",
}
STATES = {
    "running": "This run has not ended, or was killed: the record stops at step {steps} of {planned}.",
    "stopped": "A health monitor stopped this run at step {steps} of {planned}: {stopped}",
    "interrupted": "This run was interrupted at step {steps} of {planned}.",
    "failed": "This run failed at step {steps} of {planned}: {error}",
}


def render(run: Run) -> str:
    """The page as text; the figures are written to the run's folder on the way. Model text is escaped."""
    figures = run.folder / "figures"
    summary = run.summary
    curves, gate_curves, filter_curves = (
        _curves(run, figures),
        _stage_curves(run, figures, "gate"),
        _stage_curves(run, figures, "filter"),
    )
    browsed = {
        "heat": heat(run.tokens),
        "rollouts": rows.table(run.rollouts, rows.ROLLOUTS),
        "answers": rows.table(run.answers, rows.ANSWERS),
    }
    return render_page(
        "report.html.j2",
        rules={key: value for c in (*curves, *gate_curves, *filter_curves) for key, value in c.rules.items()},
        data={name: table for name, table in browsed.items() if table is not None},
        summary=summary,
        headline=content.headline(summary, run.evals),
        state=_state(run),
        kind=KINDS[summary["provenance"]["kind"]],
        origin=_origin(summary["provenance"]),
        curves=shown(curves),
        gate=sections.stage(run.metrics, sections.GATE, prefix="gate/"),
        gate_curves=shown(gate_curves),
        filter=sections.stage(run.metrics, sections.FILTER, prefix="filter/"),
        filter_curves=shown(filter_curves),
        judge=sections.judge_lines(summary),
        health=sections.health(run.metrics, summary["alarms"]),
        parts_evaluated=sections.evaluation_parts(run.all_evals, summary["metric"]),
        comparison=content.comparison(summary, run.evals),
        counts=_counts(run.rollouts),
        rollouts_shown=rows.shown_sentence(browsed["rollouts"], rows.ROLLOUTS),
        answers_shown=rows.shown_sentence(browsed["answers"], rows.ANSWERS),
        parts=_parts(summary["seconds"], figures),
        environment=run.environment,
        config=run.config,
        **browsed,
        **_tokens(run.tokens, figures),
    )


def _state(run: Run) -> str:
    summary, steps = run.summary, run.summary["steps"]
    if summary["status"] == "running" and len(run.metrics):  # written at the start, and never again after a kill
        steps = max(steps, int(run.metrics["step"].max()))
    values = {
        "steps": steps,
        "planned": summary["planned_steps"],
        "error": summary["error"],
        "stopped": summary["stopped"],
    }
    return STATES.get(summary["status"], "").format(**values)


def _origin(provenance: Mapping[str, Any]) -> str:
    details = [provenance["location"]]
    if provenance["revision"]:
        details.append(("" if provenance["kind"] == "twin" else "revision ") + provenance["revision"])
    if provenance["sha256"]:
        details.append(f"sha256 {provenance['sha256'][:16]}…")
    return ", ".join(details)


def _curves(run: Run, figures: Path) -> list[Curve]:
    metric = run.summary["before"]["metric"] if run.summary["before"] else "quality"
    source = content.source_line(run.summary["provenance"])
    curves = [quality_curve(run.evals, run.rollouts, metric=metric, source=source, folder=figures)]
    for column, title, colour in (
        ("reward", f"Reward {run.summary['reward']} of training rollouts", "#d55e00"),
        ("reasoning_tokens", "Reasoning length in tokens", "#009e73"),
    ):
        curves.append(
            rollout_curve(run.rollouts, column=column, title=title, colour=colour, source=source, folder=figures)
        )
    process = {f"rewards/{run.summary['reward']}/{name}": words for name, words in PROCESS.items()}
    title = "Process reward"
    curves.append(step_curves(run.metrics, process, name="process", title=title, source=source, folder=figures))
    return [curve for curve in curves if curve is not None]


PROCESS = {
    "magnitude": "magnitude, end",
    "stability": "stability, end",
    "negative_process_share": "negative steps",
}
"""Metrics of a reward that gives credit on the steps of the reasoning, in words: S's parts at the reasoning's end, and
the share of scored points that lower S."""

STAGE_CURVES = {
    "gate": [
        ("gate", "What the gate rejected", {"gate/rejected_share": "groups rejected"}),
        (
            "verdicts",
            "Verdicts on the answers",
            {"gate/yes_share": "checks met", "gate/no_share": "not met", "gate/unknown_share": "no verdict"},
        ),
    ],
    "filter": [
        ("filter", "sigma_bar and the threshold", {"filter/sigma_bar": "sigma_bar", "filter/tau": "tau"}),
        (
            "kept",
            "What was left to learn from",
            {"rollouts/kept_share": "rollouts that taught", "filter/dropped_share": "dropped by the filter"},
        ),
    ],
}
"""The figures of gate and filter: name, title, and their metrics in words."""


def _stage_curves(run: Run, figures: Path, part: str) -> list[Curve]:
    known = {"gate": sections.GATE, "filter": sections.FILTER}[part]
    if not sections.stage(run.metrics, known, prefix=f"{part}/"):
        return []
    source = content.source_line(run.summary["provenance"])
    curves = [
        step_curves(run.metrics, columns, name=name, title=title, source=source, folder=figures)
        for name, title, columns in STAGE_CURVES[part]
    ]
    return [curve for curve in curves if curve is not None]


def shown(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Curves as the templates take them: the SVG is ours, and is not escaped."""
    return [{"svg": Markup(curve.svg), "caption": curve.caption} for curve in curves]


def _tokens(tokens: pd.DataFrame, figures: Path) -> dict[str, Any]:
    weighted, weighting = content.with_weights(tokens)
    shown = "weight" if weighting == "own" else "reaction"
    trained = weighted[weighted["split"] == "train"]
    taught = content.teachers(trained if len(trained) else weighted)
    if len(weighted):
        figures.mkdir(exist_ok=True)
        columns = ["step", "prompt_id", "position", "token", "shown", "sigma", "mean_prob", "truth"]
        weighted[columns].rename(columns={"shown": shown}).to_csv(figures / "tokens.csv", index=False)
        pd.DataFrame([asdict(teacher) for teacher in taught]).to_csv(figures / "teachers.csv", index=False)
    counted = trained if len(trained) else weighted
    queries = counted[["step", "prompt_id"]].drop_duplicates()
    return {
        "teachers": taught,
        "weighting": weighting,
        "shown": shown,
        "truth": content.truth_sentence(weighted, shown=shown),
        "queries": len(queries),
    }


def _counts(rollouts: pd.DataFrame) -> str:
    if rollouts.empty:
        return ""
    shares = {name: content.number(rollouts[name].mean(), share=True) for name in ("truncated", "malformed", "kept")}
    return (
        f"Of {len(rollouts):,} rollouts on {rollouts['prompt_id'].nunique():,} prompts, {shares['truncated']} were "
        f"truncated, {shares['malformed']} malformed and {shares['kept']} kept for training."
    )


def _parts(seconds: Mapping[str, float], figures: Path) -> list[dict[str, Any]]:
    total = seconds["total"] or 1.0
    frame = pd.DataFrame([{"part": part, "seconds": seconds[part], "share": seconds[part] / total} for part in PARTS])
    figures.mkdir(exist_ok=True)
    frame.to_csv(figures / "seconds.csv", index=False)
    return frame.assign(start=frame["share"].cumsum() - frame["share"]).to_dict("records")
