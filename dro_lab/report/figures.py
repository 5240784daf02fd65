"""The curves of a report: drawn once, kept as SVG for the page, as PNG and as the CSV of what they plot."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

STYLE = Path(__file__).with_name("style.mplstyle")
PAGE_COLOURS = {
    "#333333": "var(--ink)",
    "#999999": "var(--faint)",
    "#dddddd": "var(--line)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)",
    "#009e73": "var(--green)",
}
"""The style's colours and the page's: on the page a curve follows the light or dark scheme."""


FLAT = 1e-6
"""Values that differ by less, relative to their size, are one."""
COLOURS = ("#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A figure on the page: its name, its SVG, and what it shows in one sentence (for who cannot see it).

    ``rules`` are the style rules that the SVG's classes need: the page's policy admits no style attributes.
    """

    name: str
    svg: str
    caption: str
    rules: Mapping[str, str]


def quality_curve(
    evals: pd.DataFrame, rollouts: pd.DataFrame, *, metric: str, source: str, folder: Path
) -> Curve | None:
    """Quality at each evaluation with its interval, over the quality of the rollouts trained on.

    None without an evaluation of ``metric``.
    """
    held_out = evals[evals["metric"] == metric].sort_values("step")
    if held_out.empty:
        return None
    held_out = held_out[held_out["split"] == held_out["split"].iloc[0]]
    step, value, low, high = (held_out[name].to_numpy(dtype=float) for name in ("step", "value", "low", "high"))
    training = _smooth(rollouts.groupby("step")["quality"].mean()) if len(rollouts) else pd.Series(dtype=float)

    def draw(axes: Axes) -> None:
        if training.notna().any():
            axes.plot(training.index, training, color="#999999", linewidth=1, label="training rollouts")
        _band(axes, step, low, high, colour="#0072b2")
        axes.plot(step, value, color="#0072b2", marker="o", markersize=4, label="held-out, with interval")
        axes.set_ylim(0, max(1.0, float(np.nanmax(high))))
        axes.legend(loc="best")
        axes.set_title("Quality")

    split = held_out["split"].iloc[0]
    caption = (
        f"Quality on {split} rows went from {value[0]:.2f} at step {step[0]:.0f} to {value[-1]:.2f} at {step[-1]:.0f}."
    )
    plotted = held_out[["step", "split", "metric", "value", "low", "high", "n"]]
    return _save("quality", draw, plotted, caption=caption, source=source, folder=folder)


def rollout_curve(
    rollouts: pd.DataFrame, *, column: str, title: str, colour: str, source: str, folder: Path
) -> Curve | None:
    """Mean of a column over the rollouts of each step, and smoothed over five steps with the middle half of them.

    None without a number.
    """
    values = rollouts.dropna(subset=[column])
    if values.empty:
        return None
    grouped = values.groupby("step")[column]
    mean, low, high = grouped.mean(), grouped.quantile(0.25), grouped.quantile(0.75)
    frame = pd.DataFrame(
        {"mean": mean, "smooth": _smooth(mean), "low": _smooth(low), "high": _smooth(high), "n": grouped.size()}
    ).reset_index()

    def draw(axes: Axes) -> None:
        _band(axes, frame["step"], frame["low"], frame["high"], colour=colour)
        axes.plot(frame["step"], frame["mean"], color=colour, linestyle="", marker="o", markersize=2.2, alpha=0.6)
        axes.plot(frame["step"], frame["smooth"], color=colour)
        axes.set_title(title)

    first, last = frame.iloc[0], frame.iloc[-1]
    caption = f"{title}: {first['mean']:.2f} at step {first['step']:.0f}, {last['mean']:.2f} at {last['step']:.0f}."
    return _save(column, draw, frame, caption=caption, source=source, folder=folder)


def step_curves(
    metrics: pd.DataFrame, columns: Mapping[str, str], *, name: str, title: str, source: str, folder: Path
) -> Curve | None:
    """Metrics of a step, each as dots and smoothed over five steps; ``columns`` gives their words. None without any."""
    found = {column: words for column, words in columns.items() if column in metrics and metrics[column].notna().any()}
    if not found:
        return None
    frame = metrics[["step", *found]].astype(float)
    shares = bool((frame[list(found)].max() <= 1).all())

    def draw(axes: Axes) -> None:
        for (column, words), colour in zip(found.items(), COLOURS, strict=False):
            axes.plot(frame["step"], frame[column], color=colour, linestyle="", marker="o", markersize=2.2, alpha=0.5)
            axes.plot(frame["step"], _smooth(frame[column]), color=colour, label=words)
        if shares and name != "filter":
            axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="best")
        axes.set_title(title)

    ends = [
        f"{words} {frame[c].dropna().iloc[0]:.2f} then {frame[c].dropna().iloc[-1]:.2f}" for c, words in found.items()
    ]
    return _save(name, draw, frame, caption=f"{title}: {', '.join(ends)}.", source=source, folder=folder)


def _smooth(series: pd.Series) -> pd.Series:
    return series.rolling(5, center=True, min_periods=1).mean()


def _save(
    name: str, draw: Callable[[Axes], None], plotted: pd.DataFrame, *, caption: str, source: str, folder: Path
) -> Curve:
    def drawn(axes: Axes) -> None:
        draw(axes)
        _whole_steps(axes)

    xlabel = f"training step\n{source}"  # whatever names the data names its source
    return save_curve(name, drawn, plotted, caption=caption, xlabel=xlabel, folder=folder)


def _band(axes: Axes, step: ArrayLike, low: ArrayLike, high: ArrayLike, *, colour: str) -> None:
    """An interval at each step; a bar where there is one step alone, since a band has a width."""
    if np.size(step) == 1:
        axes.vlines(step, low, high, color=colour, alpha=0.3, linewidth=5)
    else:
        axes.fill_between(step, low, high, color=colour, alpha=0.16, linewidth=0)


def _whole_steps(axes: Axes) -> None:
    """Ticks at whole steps, and room around what has one step, or one value, alone: a run may end at its first."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    low, high = axes.dataLim.intervalx
    if high - low < 1:
        axes.set_xlim(max(low - 1, -0.5), high + 1)
        for line in axes.lines:
            line.set(marker="o", markersize=5)
    low, high = axes.dataLim.intervaly
    if axes.get_autoscaley_on() and high - low < FLAT * max(1.0, abs(high)):
        room = max(0.1, 0.1 * abs(high))
        axes.set_ylim(low - room, high + room)


def save_curve(
    name: str,
    draw: Callable[[Axes], None],
    plotted: pd.DataFrame,
    *,
    caption: str,
    xlabel: str,
    folder: Path,
    legend: bool = False,
) -> Curve:
    """Draw once; write ``NAME.png`` and the CSV of what it plots to ``folder``, and return the SVG for the page.

    ``legend``: name the lines in the PNG, which stands alone; the page has one legend for all of its figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plotted.to_csv(folder / f"{name}.csv", index=False)
    with rc_context(), matplotlib.style.context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(xlabel)
        names = axes.legend(loc="best", fontsize=7.5) if legend else None
        figure.savefig(folder / f"{name}.png", facecolor="white")
        if names is not None:
            names.remove()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg, rules = page_svg(buffer.getvalue(), name=name, caption=caption)
    return Curve(name=name, svg=svg, caption=caption, rules=rules)


def page_svg(svg: str, *, name: str, caption: str) -> tuple[str, dict[str, str]]:
    """matplotlib's SVG file as an element of the page: the page's colours and font, ids of its own, no links.

    Its style attributes become classes; the second value holds their rules.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|\s+xmlns(:xlink)?=\"[^\"]*\"", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:)?href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("'DejaVu Sans'", "system-ui")
    tag, rest = svg.split(">", 1)
    tag = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    rules: dict[str, str] = {}

    def as_class(found: re.Match[str]) -> str:
        declarations = found[1].strip().rstrip(";")
        selector = "f" + hashlib.sha256(declarations.encode()).hexdigest()[:8]
        rules[f".{selector}"] = declarations
        return f' class="{selector}"'

    rest = re.sub(r'\s+style="([^"]*)"', as_class, rest)
    return f'{tag} role="img" aria-label="{escape(caption)}">{rest}', rules
