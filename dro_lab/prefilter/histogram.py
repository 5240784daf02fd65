"""The picture beside a prefilter's file: how sigma_bar is distributed, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.style
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dro_lab.prefilter.file import Judged
from dro_lab.report.figures import STYLE

BINS = 24


def draw(path: Path, rows: Sequence[Judged], *, source: str) -> None:
    """Stacked histogram of sigma_bar: the top, what was drawn from the rest, and what does not train."""
    parts = {
        "largest sigma_bar: trains": ([row.sigma_bar for row in rows if row.why == "top"], "#0072b2"),
        "drawn from the rest: trains": ([row.sigma_bar for row in rows if row.why == "rest"], "#009e73"),
        "does not train": ([row.sigma_bar for row in rows if not row.kept], "#dddddd"),
    }
    with rc_context(), matplotlib.style.context(STYLE):
        figure = Figure(figsize=(5.6, 3.4))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(
            [values for values, _ in parts.values()],
            bins=BINS,
            range=(0, max(row.sigma_bar for row in rows) or 0.01),
            stacked=True,
            color=[colour for _, colour in parts.values()],
            label=[f"{label} ({len(values)})" for label, (values, _) in parts.items()],
        )
        kept = sum(row.kept for row in rows)
        axes.set_title(f"{kept} of {len(rows)} training rows kept")
        axes.set_xlabel(f"sigma_bar of a query\n{source}")
        axes.set_ylabel("queries")
        axes.set_xlim(left=0)
        axes.set_ylim(top=1.45 * axes.get_ylim()[1])  # room for the legend above the bars
        axes.legend(loc="upper right")
        figure.savefig(path)
