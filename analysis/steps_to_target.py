"""How much a reward takes to a target, over seeds, with runs that never get there counted as censored.

A run's evaluations are smoothed by means over ``--window`` of them, each drawn at the middle of its window. A run
reaches the target where that curve first meets it, on the straight line between two points: counting whole
evaluations instead (``--crossing evaluation``, and `steps_to_target`) delays every crossing by about the same, which
pulls ratios towards 1 (`python -m analysis.coverage`). A run that never gets there is *censored*: it enters medians as
"later than its last step", it is neither dropped nor imputed. Ratios are of medians over seeds, with a percentile
bootstrap interval that resamples seeds; a target that a baseline sets is set anew in every resample.

    python -m analysis.steps_to_target outputs/STUDY --target baseline:avg_prob --x steps,tokens -o fig.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("steps_to_target", __doc__)

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from analysis.bootstrap import CENSORED, Ratio, median, ratio_of_medians
from analysis.command import (
    as_runs,
    check_statistics,
    origin,
    run_command,
    table,
)
from analysis.crossings import (
    LOAD,
    Aim,
    Arm,
    Crossing,
    Verdict,
    aim_of,
    arms_of,
    check_axes,
    crossing_frame,
    pairs_of,
    verdict,
)
from analysis.figures import DASHED, GREY, Drawn, caption, grid, house_style, legend, looks, over_seeds
from analysis.load import by_label, check_comparable, curves
from analysis.options import AXES, CONFIDENCE, FIGURES, RESAMPLES
from analysis.target_curves import Curve, Target, baseline_target, seed_average, smoothed, steps_to_target
from dro_lab.record.read import Run

__all__ = [
    "CENSORED",
    "Curve",
    "Ratio",
    "Target",
    "baseline_target",
    "draw",
    "ratio_of_medians",
    "seed_average",
    "smoothed",
    "steps_to_target",
]

FEW = 3
"""Seeds below which a bootstrap interval of a median is too narrow to trust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was compared, how, and what came out."""

    arms: Mapping[str, Arm]
    aim: Aim
    crossings: pd.DataFrame  # one row a run (`analysis.crossings.crossing_frame`)
    verdicts: Sequence[Sequence[Verdict]]  # by pair and axis
    metric: str
    axes: Sequence[str]
    window: int
    crossing: Crossing
    confidence: float

    def at_start(self, label: str) -> int:
        """How many runs of a setting are at the target at the first reading of their curve."""
        first_S = self.arms[label].readings(self.crossing)[self.axes[0]][:, 0]
        return int((self.of(label, self.axes[0]) <= first_S).sum())

    def of(self, label: str, axis: str) -> NDArray[np.float64]:
        """Where each seed of a setting reaches the target."""
        return self.crossings.loc[self.crossings["label"] == label, axis].to_numpy(dtype=float)


def draw(
    places: Sequence[Path | str | Run] | Path | str,
    *,
    target: str | float,
    metric: str = "quality",
    x: str | Sequence[str] = "steps,tokens",
    window: int = 3,
    against: str | None = None,
    split: str | None = None,
    crossing: Crossing = "interpolated",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    command: str | None = None,
) -> Drawn:
    """Figure, frame and page: seed-mean curves with bands, the target, where each crosses, ratios and verdicts.

    Args:
        places: folders (`analysis.load.find_runs`) or loaded runs.
        target: a number, ``baseline:SETTING`` (its final level) or ``best:SETTING`` (its best level).
        metric: an evaluated metric of which more is better.
        x: at least two of steps, rollouts, tokens, seconds.
        window: evaluations in a mean.
        against: the setting that ratios are taken against; default: the target's baseline, else all pairs.
        split: default: the runs' own.
        crossing: ``interpolated`` between evaluations, or the first ``evaluation`` not below the target.

    Raises:
        UserError: bad input, said in one message.
    """
    axes = check_axes(x)
    check_statistics(confidence=confidence, resamples=resamples)
    runs = as_runs(places)
    check_comparable(runs)
    by_label(runs)
    arms = arms_of(runs, metric=metric, axes=axes, window=window, split=split)
    aim = aim_of(target, arms, metric=metric)
    crossings = crossing_frame(arms, aim, axes, crossing)
    against = against or (aim.baseline.label if aim.baseline else None)
    verdicts = [
        [
            verdict(
                arms[a], arms[b], axis=axis, aim=aim, crossing=crossing,
                confidence=confidence, resamples=resamples, seed=seed,
            )
            for axis in axes
        ]
        for a, b in pairs_of(arms, crossings, axis=axes[0], against=against)
    ]  # fmt: skip
    found = Found(
        arms=arms, aim=aim, crossings=crossings, verdicts=verdicts, metric=metric, axes=axes, window=window,
        crossing=crossing, confidence=confidence,
    )  # fmt: skip
    frame = _frame(found, {axis: curves(runs, metric, split=split, x=axis) for axis in axes})
    return Drawn(_figure(found, frame), frame, _page(found, head=origin(runs, command=command)))


# ------------------------------------------------------------------------------------------------- figure


def _frame(found: Found, measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All that the figure shows: rows ``target``, ``curve`` (smoothed means, bands over seeds), ``crossing`` (a run's)
    and, of a setting with one seed, ``evaluation`` (with its interval over held-out rows)."""
    rows: list[dict[str, Any]] = []
    level = found.aim.level
    for axis in found.axes:
        rows.append({"shows": "target", "axis": axis, "value": level})
        for label, arm in found.arms.items():
            band = over_seeds(arm.values_SE, confidence=found.confidence)
            at = arm.readings(found.crossing)[axis].mean(axis=0)
            points = [dict(zip(("x", "value", "low", "high"), p, strict=True)) for p in zip(at, *band, strict=True)]
            own = measured[axis][measured[axis]["label"] == label][["x", "value", "low", "high"]].to_dict("records")
            shown = {
                "curve": [point for point in points if math.isfinite(point["value"])],
                "evaluation": own if len(arm.seeds) == 1 else [],
                "crossing": [
                    {"seed": seed, "x": x, "value": level}
                    for seed, x in zip(arm.seeds, found.of(label, axis), strict=True)
                ],
            }
            rows += [{"shows": kind, "axis": axis, "label": label, **point} for kind in shown for point in shown[kind]]
    return pd.DataFrame(rows, columns=["shows", "axis", "label", "seed", "x", "value", "low", "high"])


def _figure(found: Found, frame: pd.DataFrame) -> Figure:
    labels = list(found.arms)
    styles = looks(labels)
    with house_style():
        figure, panels = grid(len(found.axes), columns=2, width=4.4, height=3.5)
        for panel, axis in zip(panels, found.axes, strict=True):
            panel.axhline(found.aim.level, color=GREY, linewidth=1, linestyle=DASHED, zorder=1)
            for label in labels:
                _curve(panel, frame[(frame["axis"] == axis) & (frame["label"] == label)], styles[label])
            for label in labels:
                _crossings(panel, found.of(label, axis), found.aim.level, str(styles[label]["color"]))
            panel.set_xlabel(AXES[axis])
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panels[0].set_ylabel(found.metric)
        marks = [
            Line2D([], [], color=GREY, linewidth=1, linestyle=DASHED, label="target"),
            Line2D([], [], color=GREY, marker="D", markersize=6, linestyle="", label="median crossing"),
            Line2D([], [], color=GREY, marker="|", markersize=8, linestyle="", label="a seed's crossing"),
        ]
        legend(figure, labels, extra=marks)
        seeds = {len(arm.seeds) for arm in found.arms.values()}
        over = "seeds" if max(seeds) > 1 else "held-out rows"
        dots = " Dots: evaluations of a single seed." if min(seeds) == 1 else ""
        if max(seeds) > 1 and min(seeds) == 1:
            over += ", of one seed over held-out rows"
        lines = f"Lines: means of {found.window} evaluations at their middle, so they begin late and end early.\n"
        caption(figure, f"{lines * (found.window > 1)}Bands: {found.confidence:.0%} intervals over {over}.{dots}")
    return figure


def _curve(panel: Axes, part: pd.DataFrame, style: Mapping[str, object]) -> None:
    mean, own = part[part["shows"] == "curve"], part[part["shows"] == "evaluation"]
    band = mean if own.empty else own
    x, value, low, high = (band[name].to_numpy(dtype=float) for name in ("x", "value", "low", "high"))
    panel.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if len(own):
        panel.plot(x, value, linestyle="", marker=".", color=str(style["color"]), alpha=0.6)
    panel.plot(mean["x"].to_numpy(float), mean["value"].to_numpy(float), **style)  # type: ignore[arg-type]


def _crossings(panel: Axes, x: NDArray[np.float64], level: float, colour: str) -> None:
    reached, middle = x[x < CENSORED], float(median(x))
    panel.plot(reached, [level] * len(reached), linestyle="", marker="|", markersize=9, color=colour, zorder=4)
    if middle < CENSORED:
        panel.plot([middle], [level], marker="D", markersize=6.5, color=colour, markeredgecolor="white", zorder=5)


# ------------------------------------------------------------------------------------------------- words


def _page(found: Found, *, head: str) -> str:
    arms, aim, metric = found.arms, found.aim, found.metric
    where = (
        "where the straight line between two of these points meets it"
        if found.crossing == "interpolated"
        else f"at the first evaluation where the mean of the last {found.window} is not below it"
    )
    level = ""
    if aim.kind == "final" and found.window > 1:
        level = f" A final level is the mean of a run's last {found.window} evaluations, not its last value."
    smoothing = f"smoothed by means over {found.window}" if found.window > 1 else "not smoothed"
    lines = [
        f"# What it takes to {metric} {aim.level:.3g}",
        "",
        head,
        "",
        f"Target: {metric} {aim.words}.{level} Evaluations are {smoothing}; a run reaches the target {where}, and "
        "one that never does counts as later than its last step. "
        f"{found.confidence:.0%} percentile bootstrap intervals over seeds.",
        "",
    ]
    lines += [line for group in found.verdicts for line in (f"**{sentence(group, found)}**", "")]
    lines += table(
        ["setting", "seeds", "reached", *(f"{axis}, median" for axis in found.axes), f"{found.axes[0]}, each seed"],
        [_arm_row(found, arm) for arm in arms.values()],
    )
    if found.verdicts:
        lines += table(
            ["ratio of medians", "in", "ratio", f"{found.confidence:.0%} interval"],
            [[f"{v.slow} / {v.fast}", v.axis, *_ratio_cells(v)] for group in found.verdicts for v in group],
        )
    return "\n".join([*lines, *_notes(found)]).rstrip() + "\n"


def sentence(group: Sequence[Verdict], found: Found) -> str:
    """The verdict of one pair, on all axes."""
    first, goal = group[0], f"{found.metric} {found.aim.level:.3g}"
    if 2 * found.at_start(first.fast) > first.seeds[1]:
        return f"Most runs of {first.fast} are at {goal} before training, so there is no ratio to {first.slow}."
    if math.isnan(first.ratio.value):
        return f"Neither the median run of {first.slow} nor that of {first.fast} reaches {goal}."
    parts = [_clause(v, f"{found.confidence:.0%} interval " if number == 0 else "") for number, v in enumerate(group)]
    counts = f"{first.seeds[0]}" if first.seeds[0] == first.seeds[1] else f"{first.seeds[1]} and {first.seeds[0]}"
    each = " each" if first.seeds[0] == first.seeds[1] else ""
    return (
        f"To {goal}, {first.fast} takes {', '.join(parts[:-1])} and {parts[-1]} than {first.slow} "
        f"({counts} seed{'s' * (max(first.seeds) > 1)}{each})."
    )


def _clause(v: Verdict, level: str) -> str:
    """``2.1 times fewer tokens (1.8 to 2.4)``; turned round where the faster in steps takes more of the axis."""
    beyond = math.isinf(v.ratio.value)
    value, low, high = v.at_least.value if beyond else v.ratio.value, *_bounds(v)
    more = value < 1 and not beyond
    if more:
        value, low, high = 1 / value, _inverse(high), _inverse(low)
    said = f"{'more than ' * beyond}{_two(value)} times {'more' if more else 'fewer'} {v.axis}"
    if min(v.seeds) < 2:
        return f"{said} (no interval)"
    spread = f"{level}{_two(low)} {'or more' if math.isinf(high) else f'to {_two(high)}'}"
    return f"{said} ({spread}{'; no clear difference' * (low <= 1 <= high)})"


def _bounds(v: Verdict) -> tuple[float, float]:
    """The interval; where even its low end is beyond the runs, the low end of the lower bound."""
    return (v.at_least.low if math.isinf(v.ratio.low) else v.ratio.low), v.ratio.high


def _inverse(value: float) -> float:
    return math.inf if value == 0 else 1 / value


def _arm_row(found: Found, arm: Arm) -> list[object]:
    crossed = {axis: found.of(arm.label, axis) for axis in found.axes}
    first = crossed[found.axes[0]]
    medians = [_amount(float(median(x)), arm.horizon_S(axis, found.crossing)) for axis, x in crossed.items()]
    each = " ".join("–" if x == CENSORED else _read(x) for x in first)
    return [arm.label, len(arm.seeds), f"{int((first < CENSORED).sum())} of {len(arm.seeds)}", *medians, each]


def _amount(value: float, horizon_S: NDArray[np.float64]) -> str:
    return f"> {_read(float(median(horizon_S)))}" if value == CENSORED else _read(value)


def _read(value: float) -> str:
    """Finer below 10, where whole numbers would hide the ratio: a crossing may lie between evaluations."""
    if value >= 9.95 or abs(value - round(value)) < 1e-6:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _ratio_cells(v: Verdict) -> list[str]:
    if math.isnan(v.ratio.value) or math.isinf(v.at_least.value):  # over a median run that starts at the target
        return ["–", "–"]
    value = f"> {_two(v.at_least.value)}" if math.isinf(v.ratio.value) else _two(v.ratio.value)
    low, high = _bounds(v)
    beyond = "> " * math.isinf(v.ratio.low)
    return [value, "one seed" if min(v.seeds) < 2 else f"{beyond}{_two(low)} to {_two(high)}"]


def _notes(found: Found) -> list[str]:
    notes = []
    few = [label for label, arm in found.arms.items() if 1 < len(arm.seeds) < FEW]
    alone = [label for label, arm in found.arms.items() if len(arm.seeds) == 1]
    baseline = found.aim.baseline
    if few and found.verdicts:
        notes.append(f"fewer than {FEW} seeds ({', '.join(few)}): the intervals are narrower than they should be.")
    if alone and found.verdicts:
        notes.append(f"one seed of {', '.join(alone)}: what another seed would change is not known.")
    if baseline is not None and baseline.start_S.mean() >= found.aim.level:
        notes.append(f"{baseline.label} did not gain: the level that it sets is not above its start.")
    for label, arm in found.arms.items():
        if count := found.at_start(label):
            notes.append(
                f"{label}: {count} of {len(arm.seeds)} runs are at the target before training: what they took to it is "
                "their first reading."
            )
    if any(math.isinf(v.ratio.value) and not math.isinf(v.at_least.value) for group in found.verdicts for v in group):
        notes.append("`> R`: the slower's median run never reached the target; R puts it at its last evaluation.")
    if "seconds" in found.axes:
        notes.append("seconds are also what else the machine did meanwhile; steps, rollouts and tokens are not.")
        if loaded := [label for label, arm in found.arms.items() if arm.loaded]:
            notes.append(
                f"seconds a step of {', '.join(loaded)} differ by more than {LOAD:g} times between seeds: that is the "
                "machine's load, so take no verdict from seconds here."
            )
    return [line for note in notes for line in (f"Note: {note}", "")]


def _two(value: float) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.2f}"


# ------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the verdicts, write the figure; 2 with one message for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = FIGURES["steps_to_target"](__doc__ or "").parse_args(given)
    command = shlex.join(["python", "-m", "analysis.steps_to_target", *given])
    return run_command(
        options,
        lambda: draw(
            options.places, target=options.target, metric=options.metric, x=options.x, window=options.window,
            against=options.against, split=options.split, crossing=options.crossing, confidence=options.confidence,
            resamples=options.resamples, seed=options.seed, command=command,
        ),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
