"""Learning curves of a study: every seed thin, their mean bold, one panel a setting; and the csv of what they show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

import dro_lab.report
from analysis.steps_to_target import seed_average
from experiments.summaries import Curve

STYLE = Path(dro_lab.report.__file__).with_name("style.mplstyle")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
LINES = ("-", "--", ":")
"""The line of the first labels, and of those beyond the colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One setting: the curves of every seed by what was tried; the level to reach and the step that reached it."""

    title: str
    curves: Mapping[str, Sequence[Curve]]
    level: float | None = None
    reached: Mapping[str, float] = field(default_factory=dict)


def draw_curves(
    panels: Sequence[Panel],
    picture: Path,
    data: Path,
    *,
    ylabel: str,
    columns: int = 4,
    ylim: tuple[float, float] | None = (0, 1),
) -> None:
    """Write the figure and the numbers it shows. Without ``ylim`` each panel has a scale of its own, from 0."""
    with data.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["setting", "tried", "run", "step", "value"])
        for panel in panels:
            for label, curves in panel.curves.items():
                for number, curve in enumerate(curves):
                    writer.writerows([panel.title, label, number, step, f"{value:.6f}"] for step, value in curve)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}
    lines = {label: LINES[number // len(COLOURS) % len(LINES)] for number, label in enumerate(labels)}
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            down,
            across,
            figsize=(max(5.0, 3.4 * across), 2.9 * down + 0.5),
            sharey=ylim is not None,
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for label, curves in panel.curves.items():
                for curve in curves:
                    axis.plot(*zip(*curve, strict=True), color=colours[label], linewidth=0.6, alpha=0.35)
                mean = seed_average(dict(enumerate(curves)))
                axis.plot(
                    *zip(*mean, strict=True), color=colours[label], linestyle=lines[label], linewidth=2, label=label
                )
            if panel.level is not None:
                axis.axhline(panel.level, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
                for label, step in panel.reached.items():
                    axis.plot([step], [panel.level], "D", color=colours[label], markeredgecolor="white", zorder=5)
            axis.set(title=panel.title, xlabel="training step", ylim=ylim or (0, None))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 4, 5, 8, 10]))
        for row in axes:
            row[0].set_ylabel(ylabel)
        handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(handles)), frameon=False
        )
        figure.savefig(picture, dpi=150)
        plt.close(figure)
