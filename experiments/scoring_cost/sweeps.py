"""Cost against k, against G and against the reasoning's length, beside what the count of distinct tokens predicts.

The unit is a token of the plain forward at the shape of the other tables: seconds over that forward's seconds a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedModel

from experiments.figures import COLOURS, STYLE
from experiments.scoring_cost.arms import Arms, distinct_tokens
from experiments.scoring_cost.headline import fastest_rows, own
from experiments.scoring_cost.model import Shape
from experiments.scoring_cost.timing import timed

K = 10


@dataclass(frozen=True, slots=True)
class Sweep:
    """One panel: what is varied, over which values."""

    name: str
    label: str
    values: Sequence[int]

    def at(self, shape: Shape, value: int) -> tuple[Shape, int]:
        """The shape and k of one point."""
        if self.name == "k":
            return shape, value
        return replace(shape, **{self.name: value}), K

    def predicted(self, shape: Shape, value: int) -> int:
        return distinct_tokens(*self.at(shape, value))


SWEEPS = (
    Sweep("k", "prefixes a rollout (k)", (0, 1, 2, 5, 10, 15, 20, 30)),
    Sweep("rollouts", "rollouts of the prompt (G)", (1, 2, 4, 8, 16)),
    Sweep("reasoning", "reasoning length (tokens)", (64, 128, 256, 512, 1024)),
)
Points = Mapping[str, Mapping[int, Sequence[float]]]
"""``points[sweep][value][round]``: cost in plain tokens."""


def measure(model: PreTrainedModel, shape: Shape, rounds: int, device: str) -> tuple[Points, int]:
    """The costs, and the micro-batch of the plain forward; every round runs it anew."""
    base = Arms.of(model, shape)
    rows = fastest_rows(base.plain, 2, device)
    plain = base.plain(rows)
    points: dict[str, dict[int, list[float]]] = {sweep.name: {value: [] for value in sweep.values} for sweep in SWEEPS}
    for _ in range(rounds):
        for sweep in SWEEPS:
            a_token = own(timed(plain, device), device) / (shape.rollouts * shape.whole)
            for value in sweep.values:
                changed, k = sweep.at(shape, value)
                arm = Arms.of(model, changed).shared(k)
                points[sweep.name][value].append(own(timed(arm, device), device) / a_token)
    return points, rows


def slope(values: Sequence[int], costs: Sequence[float]) -> float:
    """Least squares, with an intercept."""
    return float(np.polyfit(values, costs, 1)[0])


@dataclass(frozen=True, slots=True)
class Line:
    """A sweep's medians, and both slopes in tokens."""

    sweep: Sweep
    values: Sequence[int]
    medians: Sequence[float]
    measured: float
    predicted: float


def lines(points: Points, shape: Shape) -> list[Line]:
    made = []
    for sweep in SWEEPS:
        values = sorted(points[sweep.name])
        medians = [float(np.median(points[sweep.name][value])) for value in values]
        counted = [float(sweep.predicted(shape, value)) for value in values]
        made.append(Line(sweep, values, medians, slope(values, medians), slope(values, counted)))
    return made


def draw(points: Points, shape: Shape, picture: Path) -> None:
    """A panel a sweep: every round's cost, the medians' line, and the count of distinct tokens."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
        for axis, line in zip(axes, lines(points, shape), strict=True):
            rounds = points[line.sweep.name]
            dots = [(value, cost / 1000) for value in line.values for cost in rounds[value]]
            axis.plot(*zip(*dots, strict=True), ".", color=COLOURS[0], alpha=0.4)
            axis.plot(line.values, np.array(line.medians) / 1000, color=COLOURS[0], label="measured, median")
            counted = [line.sweep.predicted(shape, value) / 1000 for value in line.values]
            axis.plot(line.values, counted, "--", color=COLOURS[1], label="distinct tokens")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set(
                xlabel=line.sweep.label,
                title=f"slope: measured {line.measured:.3g}, counted {line.predicted:.3g}",
                ylim=(0, None),
            )
        axes[0].set_ylabel("cost (thousand tokens of the plain forward)")
        axes[0].legend(loc="lower right", frameon=False)
        figure.savefig(picture, dpi=150)
        plt.close(figure)
