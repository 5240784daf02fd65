"""What happens while runs train: reward, reflective tokens, gate, filter, reasoning length, entropy and KL over steps.

Each panel shows one quantity, the mean over seeds of every setting with its interval. Quantities of a training step are
smoothed over ``--smooth`` steps; held-out ones stand at their evaluations. A panel whose metric nobody logged says so.
Rewards of different settings are on different scales: their shapes compare, their heights do not.

    python -m analysis.curves outputs/STUDY --x steps -o fig.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("curves", __doc__)

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis.command import as_runs, check_statistics, origin, run_command, table
from analysis.figures import GREY, Drawn, caption, grid, house_style, legend, looks, over_seeds
from analysis.load import by_label, check_comparable, curves, label_of, metrics_of
from analysis.options import AXES, CONFIDENCE, FIGURES
from dro_lab.errors import UserError
from dro_lab.record.read import Run

__all__ = ["PANELS", "Panel", "draw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A quantity: a training metric of `metrics.jsonl`, or an evaluated one of `evals.jsonl`."""

    title: str
    metric: str
    evaluated: bool = False
    share: bool = False
    either: bool = False  # where no run evaluated it, the training metric of that name
    hint: str = ""  # what measures it


PANELS = (
    Panel(title="Quality, held-out", metric="quality", evaluated=True),
    Panel(title="Reward of sampled rollouts", metric="reward/sampled"),
    Panel(title="Reflective tokens, held-out share", metric="reflective_share", evaluated=True, share=True),
    Panel(title="Gate: groups rejected, share", metric="gate/rejected_share", share=True),
    Panel(title="Filter: rollouts dropped, share", metric="filter/dropped_share", share=True),
    Panel(title="Reasoning, tokens", metric="rollouts/reasoning_tokens"),
    Panel(title="Entropy a token, nats", metric="entropy"),
    Panel(
        title="KL to the policy before training",
        metric="kl",
        evaluated=True,
        either=True,
        hint="evaluation.kl=true measures it",
    ),
)
"""KL is evaluated where a run keeps the policy before training (`evaluation.kl`), and logged where it is in the loss
(`algorithm.beta` above 0)."""


def draw(
    places: Sequence[Path | str | Run] | Path | str,
    *,
    x: str = "steps",
    smooth: int = 5,
    confidence: float = CONFIDENCE,
    panels: Sequence[Panel] = PANELS,
    command: str | None = None,
) -> Drawn:
    """Figure, frame and page of the training curves.

    Args:
        places: folders (`analysis.load.find_runs`) or loaded runs.
        x: steps, rollouts, tokens or seconds.
        smooth: training steps in a centred mean; 1 for none.
        panels: what to draw.

    Raises:
        UserError: bad input, said in one message.
    """
    check_statistics(confidence=confidence, resamples=100)
    if smooth < 1:
        raise UserError(f"--smooth {smooth}: must be at least 1 step.")
    runs = as_runs(places)
    check_comparable(runs)
    by_label(runs)
    labels = list(dict.fromkeys(label_of(runs).values()))
    panels = [_found(panel, runs) for panel in panels]
    parts = [_means(_measured(runs, panel, x), panel, smooth=smooth, confidence=confidence) for panel in panels]
    frame = pd.concat(parts, ignore_index=True)
    styles = looks(labels)
    with house_style():
        figure, axes = grid(len(panels), columns=4 if len(panels) > 6 else 3, width=3.3, height=2.6)
        for axis, panel, part in zip(axes, panels, parts, strict=True):
            axis.set_title(panel.title)
            axis.set_xlabel(AXES[x])
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            if part.empty:
                _say(axis, "\n".join(filter(None, (f"nobody logged {panel.metric}", panel.hint))))
            if panel.share and len(part):
                axis.set_ylim(0, max(0.05, 1.05 * float(np.nanmax(part[["value", "high"]].to_numpy(dtype=float)))))
            for label in labels:
                rows = part[part["label"] == label]
                at, value, low, high = (rows[name].to_numpy(dtype=float) for name in ("x", "value", "low", "high"))
                axis.fill_between(at, low, high, color=styles[label]["color"], alpha=0.15, linewidth=0)
                axis.plot(at, value, **styles[label])  # type: ignore[arg-type]
        legend(figure, labels)
        caption(figure, f"Means over seeds; training steps smoothed over {smooth}. Bands: {confidence:.0%} intervals "
                        "over seeds (none of one seed).")  # fmt: skip
    return Drawn(figure, frame, _page(frame, labels, panels, head=origin(runs, command=command)))


def _found(panel: Panel, runs: Sequence[Run]) -> Panel:
    """The panel as these runs can fill it."""
    return replace(panel, evaluated=False) if panel.either and not _having(runs, panel.metric) else panel


def _having(runs: Sequence[Run], metric: str) -> list[Run]:
    return [run for run in runs if len(run.evals) and (run.evals["metric"] == metric).any()]


def _measured(runs: Sequence[Run], panel: Panel, x: str) -> pd.DataFrame:
    if not panel.evaluated:
        return metrics_of(runs, panel.metric, x=x)
    having = _having(runs, panel.metric)
    if not having:
        return metrics_of([], panel.metric)
    names = label_of(runs)  # labels of all runs: fewer would be named by less
    frame = curves(having, panel.metric, x=x)
    return frame.assign(label=[names[Path(run)] for run in frame["run"]])


def _means(frame: pd.DataFrame, panel: Panel, *, smooth: int, confidence: float) -> pd.DataFrame:
    """Mean over seeds at every step that all seeds of a setting have."""
    rows = []
    for label, part in frame.groupby("label", sort=False):
        values = part.pivot_table(index="seed", columns="step", values="value", dropna=False)
        if not panel.evaluated:
            values = values.T.rolling(smooth, center=True, min_periods=1).mean().T
        whole = values.columns[values.notna().all(axis=0)]
        if whole.empty:
            continue
        at = part.pivot_table(index="seed", columns="step", values="x")[whole].mean(axis=0)
        mean, low, high = over_seeds(values[whole].to_numpy(dtype=float), confidence=confidence)
        rows.append(
            pd.DataFrame(
                {"panel": panel.metric, "label": label, "step": whole, "x": at.to_numpy(), "value": mean, "low": low,
                 "high": high, "seeds": len(values)}
            )
        )  # fmt: skip
    columns = ["panel", "label", "step", "x", "value", "low", "high", "seeds"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=GREY)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def _page(frame: pd.DataFrame, labels: Sequence[str], panels: Sequence[Panel], *, head: str) -> str:
    rows = []
    for panel in panels:
        part = frame[frame["panel"] == panel.metric]
        rows.append([panel.title, *(_ends(part[part["label"] == label]) for label in labels)])
    return "\n".join(["# Training curves", "", head, "", *table(["first, then last", *labels], rows)]).rstrip() + "\n"


def _ends(part: pd.DataFrame) -> str:
    if part.empty:
        return "not logged"
    first, last = (part.iloc[i] for i in (0, -1))
    spread = f" [{last['low']:.3g}, {last['high']:.3g}]" if math.isfinite(last["low"]) else ""
    return f"{np.round(first['value'], 6):.3g}, {np.round(last['value'], 6):.3g}{spread}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ends of every curve and write the figure; 2 with one message for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = FIGURES["curves"](__doc__ or "").parse_args(given)
    command = shlex.join(["python", "-m", "analysis.curves", *given])
    return run_command(
        options,
        lambda: draw(
            options.places, x=options.x, smooth=options.smooth, confidence=options.confidence, command=command
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
