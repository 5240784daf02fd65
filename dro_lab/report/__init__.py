"""The report of a run: one self-contained page, and its figures as PNG and CSV, written from the record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dro_lab.record.files import write_atomic
from dro_lab.record.read import Run, load_run
from dro_lab.record.summary import PARTS
from dro_lab.report import content, sections
from dro_lab.report.figures import Curve, quality_curve, rollout_curve, step_curves

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


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder and return the page's path.

    Raises:
        UserError: the folder is not a run's folder (see `dro_lab.record.read.load_run`).
    """
    run = load_run(folder)
    path = run.folder / "report.html"
    write_atomic(path, render(run))
    return path


def render(run: Run) -> str:
    """The page as text; the figures are written to the run's folder on the way. Model text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=content.number, value=content.value, interval=content.interval)
    figures = run.folder / "figures"
    summary = run.summary
    return environment.get_template("report.html.j2").render(
        summary=summary,
        headline=content.headline(summary, run.evals),
        state=_state(run),
        kind=KINDS[summary["provenance"]["kind"]],
        origin=_origin(summary["provenance"]),
        curves=_shown(_curves(run, figures)),
        gate=sections.stage(run.metrics, sections.GATE, prefix="gate/"),
        gate_curves=_shown(_stage_curves(run, figures, "gate")),
        filter=sections.stage(run.metrics, sections.FILTER, prefix="filter/"),
        filter_curves=_shown(_stage_curves(run, figures, "filter")),
        judge=sections.judge_lines(summary),
        health=sections.health(run.metrics, summary["alarms"]),
        parts_evaluated=sections.evaluation_parts(run.all_evals, summary["metric"]),
        comparison=content.comparison(summary),
        rollouts=_rollouts(run.rollouts),
        counts=_counts(run.rollouts),
        parts=_parts(summary["seconds"], figures),
        environment=run.environment,
        config=run.config,
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


def _shown(curves: Sequence[Curve]) -> list[dict[str, Any]]:
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
        "heat_maps": content.heat_maps(weighted, shown=shown),
        "weighting": weighting,
        "shown": shown,
        "truth": content.truth_sentence(weighted, shown=shown),
        "queries": len(queries),
    }


def _rollouts(rollouts: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    early, late = content.pick_rollouts(rollouts)
    groups = [("Early in training", early), ("Late in training", late)]
    return [(title, frame.to_dict("records")) for title, frame in groups if len(frame)]


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
    return frame.to_dict("records")
