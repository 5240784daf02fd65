"""The picture of the study: what the probe measured against the steps that training took, bed by bed."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from analysis.steps_to_target import CENSORED
from experiments.figures import COLOURS, STYLE
from experiments.probe.ranking import Setting

MARKS = "osD^vP"


def draw(settings: Sequence[Setting], picture: Path, data: Path, *, columns: int = 4) -> None:
    """One panel a bed: rho before training against median steps; censored settings stand on a line of their own."""
    with data.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["bed", "reward", "rho", "rho_formula", "spread_over_floor", "median_steps", "censored", "seeds"]
        )
        for setting in settings:
            writer.writerow(
                [
                    setting.bed,
                    setting.arm,
                    *(_csv(setting.predictions[name]) for name in ("rho", "formula", "floor")),
                    "" if setting.median == CENSORED else f"{setting.median:.0f}",
                    sum(steps == CENSORED for steps in setting.steps),
                    len(setting.steps),
                ]
            )
    beds = list(dict.fromkeys(setting.bed for setting in settings))
    if not beds:
        return
    arms = list(dict.fromkeys(_name(setting.arm) for setting in settings))
    looks = {arm: (COLOURS[n % len(COLOURS)], MARKS[n // len(COLOURS) % len(MARKS)]) for n, arm in enumerate(arms)}
    across = min(columns, len(beds))
    down = -(-len(beds) // across)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            down, across, figsize=(max(4.5, 2.9 * across), 2.7 * down + 0.7), squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(beds) :]:
            axis.set_visible(False)
        for axis, bed in zip(axes.flat, beds, strict=False):
            here = [setting for setting in settings if setting.bed == bed]
            never = here[0].horizon * 1.15
            for order, setting in enumerate(here):
                colour, mark = looks[_name(setting.arm)]
                size = max(4.5, 10.0 - 1.5 * order)  # those that coincide show as rings
                y = never if setting.median == CENSORED else setting.median
                x = -setting.predictions["rho"]
                axis.plot([x], [y], color=colour, marker=mark, markersize=size, linestyle="", label=_name(setting.arm))
            axis.axhline(never, color="#999999", linewidth=0.8, linestyle=":")
            axis.set(title=here[0].title, xlim=(-0.15, 1.05), ylim=(0, 1.08 * never))
            axis.annotate("never", (-0.13, never), va="bottom", fontsize=8, color="#333333")
        for row in axes:
            row[0].set_ylabel("median steps to target")
        for column in axes.T:
            [axis for axis in column if axis.get_visible()][-1].set_xlabel("rho before training")
        handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
        legend = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)))
        for line in legend.get_lines():
            line.set_markersize(7)
        figure.savefig(picture, dpi=150)
        plt.close(figure)


def _name(arm: str) -> str:
    """One name for R3 with one omega, whatever the study calls it."""
    return {"r3_w1": "r3, omega 1", "r3_w2": "r3, omega 2", "r3_w4": "r3, omega 4", "r3": "r3, omega 2"}.get(
        arm, f"r3, omega {arm.removeprefix('omega').strip(' _')}" if arm.startswith("omega") else arm
    )


def _csv(value: float) -> str:
    return "" if math.isnan(value) else f"{-value:.6f}"
