"""The curves of a comparison: one setting a colour, means over seeds with bands, on steps and on what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from dro_lab.errors import UserError
from dro_lab.record.read import Run
from dro_lab.report.figures import PAGE_COLOURS, Curve, save_curve

THOUSANDS = 5_000
"""From here on ticks are written 10k."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "7 3", "2 2.5", "8 2.5 2 2.5")
"""Okabe and Ito's colours, and what tells settings apart that share one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one setting is drawn, in every figure and in the page's legend."""

    label: str
    colour: str
    dash: str

    @property
    def page_colour(self) -> str:
        """On the page the colour follows the light or dark scheme, as the curves do."""
        return PAGE_COLOURS.get(self.colour, self.colour)

    @property
    def linestyle(self) -> str | tuple[float, tuple[float, ...]]:
        return (0.0, tuple(float(part) / 2 for part in self.dash.split())) if self.dash else "-"


def looks(labels: Sequence[str]) -> list[Look]:
    """A colour a label, then the colours again with dashes."""
    return [
        Look(label=label, colour=PALETTE[n % len(PALETTE)], dash=DASHES[n // len(PALETTE) % len(DASHES)])
        for n, label in enumerate(labels)
    ]


def plotted(runs: Sequence[Run], metric: str, x: str, *, confidence: float) -> pd.DataFrame:
    """label, step, x, value, low, high, seeds: means over seeds at each evaluation.

    ``x`` is the mean over seeds of what training had taken by then. Empty where a run lacks the metric or the cost.
    """
    from analysis.figures import over_seeds
    from analysis.load import curves

    try:
        points = curves(runs, metric, x=x)
    except UserError:  # a metric that only some rewards have, or a record from before costs were kept
        return pd.DataFrame(columns=["label", "step", "x", "value", "low", "high", "seeds"])
    frames = []
    for label, of_label in points.groupby("label", sort=False):
        table = of_label.pivot(index="step", columns="run", values="value").dropna()
        alone = table.shape[1] == 1
        mean, low, high = over_seeds(table.to_numpy().T, confidence=confidence)
        if alone:
            own = of_label.set_index("step").loc[table.index]
            low, high = own["low"].to_numpy(), own["high"].to_numpy()
        at = of_label.groupby("step")["x"].mean().loc[table.index].to_numpy()
        frames.append(
            pd.DataFrame({"step": table.index, "x": at, "value": mean, "low": low, "high": high}).assign(
                label=label, seeds=table.shape[1]
            )
        )
    return pd.concat(frames, ignore_index=True)[["label", "step", "x", "value", "low", "high", "seeds"]]


def comparison_curve(
    points: pd.DataFrame, styles: Sequence[Look], *, name: str, title: str, xlabel: str, share: bool, folder: Path
) -> Curve | None:
    """One figure with a line and a band a setting; None without points."""
    if points.empty:
        return None

    def draw(axes: Axes) -> None:
        for style in styles:
            of_label = points[points["label"] == style.label]
            if of_label.empty:
                continue
            axes.fill_between(of_label["x"], of_label["low"], of_label["high"], color=style.colour, alpha=0.15, lw=0)
            axes.plot(
                of_label["x"],
                of_label["value"],
                color=style.colour,
                linestyle=style.linestyle,
                marker="o",
                markersize=3,
                label=style.label,
            )
        if share:
            top = np.nanmax(points[["value", "high"]].to_numpy(dtype=float))
            axes.set_ylim(0, 1 if not math.isfinite(top) else min(1.0, 1.08 * top) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if points["x"].max() >= THOUSANDS:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_title(title)

    ends = points.sort_values("step").groupby("label", sort=False).last()
    said = ", ".join(f"{label} ends at {value:.2f}" for label, value in ends["value"].items())
    return save_curve(
        name, draw, points, caption=f"{title} over {xlabel}: {said}.", xlabel=xlabel, folder=folder, legend=True
    )
