"""What every figure shares: one style, one colour a label, and picture, numbers and words written together or not."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

import dro_lab.report
from dro_lab.errors import UserError

STYLE = Path(dro_lab.report.__file__).with_name("style.mplstyle")
FORMATS = (".png", ".svg", ".pdf")
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
"""The line of the first labels, and of those beyond the colours."""
GREY = "#555555"
DASHED = (0, (4, 3))


class Drawn(NamedTuple):
    """A figure, the frame of what it plots, and the page that says it in words and tables.

    ``figure, frame, page = draw(...)``; as the last line of a notebook's cell it shows itself.
    """

    figure: Figure
    frame: pd.DataFrame
    page: str

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", facecolor="white", dpi=120)
        return buffer.getvalue()


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib with the project's style file alone, whatever the user's own settings are."""
    with rc_context(), matplotlib.style.context(STYLE, after_reset=True):
        yield


def grid(panels: int, *, columns: int = 3, width: float = 3.7, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, row by row; call it within `house_style`."""
    across = min(columns, panels)
    down = -(-panels // across)
    figure = Figure(figsize=(max(4.6, width * across), height * down))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_axis_off()
    return figure, axes[:panels]


def looks(labels: Sequence[str]) -> dict[str, dict[str, object]]:
    """Colour and line of each label, the same in every panel; dashes tell apart what shares a colour."""
    with house_style():
        colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {
        label: {
            "color": "#" + colours[number % len(colours)].lstrip("#"),
            "linestyle": LINES[number // len(colours) % len(LINES)],
        }
        for number, label in enumerate(dict.fromkeys(labels))
    }


def legend(figure: Figure, labels: Sequence[str], *, extra: Sequence[Line2D] = ()) -> None:
    """One legend below the panels."""
    styles = looks(labels)
    lines = [Line2D([], [], label=label, **styles[label]) for label in styles]  # type: ignore[arg-type]
    longest = max((len(str(line.get_label())) for line in (*lines, *extra)), default=1)
    across = max(1, min(len(lines) + len(extra), int(figure.get_figwidth() * 11 / (longest + 8))))
    figure.legend(handles=[*lines, *extra], loc="outside lower center", ncols=across)


def caption(figure: Figure, text: str) -> None:
    """One line above the panels that says what lines and bands are."""
    figure.suptitle(text, fontsize=9, x=0.01, horizontalalignment="left", color=GREY)


def over_seeds(values_SE: NDArray[np.float64], *, confidence: float) -> tuple[NDArray[np.float64], ...]:
    """Mean over seeds at each point and Student's t interval of it; nan bounds of one seed.

    The t interval, since a percentile bootstrap of a handful of seeds is too narrow: of 5 seeds a 90% one covers
    about 82%.

    Args:
        values_SE: seeds by points; a point where a seed has no value (nan) gets nan, since a mean over the seeds that
            are left would be another quantity.
        confidence: of the interval.
    """
    seeds = len(values_SE)
    mean = values_SE.mean(axis=0)
    if seeds < 2:
        nothing = np.full_like(mean, np.nan)
        return mean, nothing, nothing
    half = stats.t.ppf((1 + confidence) / 2, seeds - 1) * values_SE.std(axis=0, ddof=1) / np.sqrt(seeds)
    return mean, mean - half, mean + half


def check_out(out: Path) -> None:
    """Refuse, before anything is computed, a place where the figure cannot be written.

    Raises:
        UserError: an unknown picture format, or a folder of that name.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"-o {out}: not a picture's name; end it with {', '.join(FORMATS)}.")
    if out.is_dir():
        raise UserError(f"-o {out} is a folder; give a file's name in it, for example {out / 'figure.png'}.")


def save(drawn: Drawn, out: Path) -> list[Path]:
    """Write ``out``, and beside it the csv of what it plots and the page: all of them or none.

    Raises:
        UserError: the place cannot be written.
    """
    check_out(out)
    paths = [out, out.with_suffix(".csv"), out.with_suffix(".md")]
    temporary = [path.with_name(f".{path.name}.tmp") for path in paths]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn.figure.savefig(temporary[0], format=out.suffix[1:].lower(), facecolor="white")
        drawn.frame.to_csv(temporary[1], index=False, float_format="%.6g", lineterminator="\n")
        temporary[2].write_text(drawn.page, encoding="utf-8")
        for made, path in zip(temporary, paths, strict=True):
            os.replace(made, path)
    except OSError as error:
        raise UserError(f"-o {out} cannot be written ({error.strerror or error}); give another place.") from None
    finally:
        for made in temporary:
            if made.exists():
                made.unlink()
    return paths
