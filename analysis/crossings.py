"""Where the settings of a comparison reach a target on several x axes, and the ratios of that, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import CENSORED, Ratio, median, resampled, summarised
from analysis.load import AXES, curves
from dro_lab.errors import UserError
from dro_lab.record.read import Run

FloatArray = NDArray[np.float64]


LOAD = 1.5
"""Times that seeds of one setting may differ in seconds a step; beyond it the machine's load is measured."""

Crossing = Literal["interpolated", "evaluation"]
"""How a crossing is read: where the smoothed curve meets the target, or the first evaluation not below it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """One setting's runs: S seeds by E smoothed evaluations; where a run ended early the rest is nan."""

    label: str
    seeds: tuple[int, ...]
    x_SE: Mapping[str, FloatArray]  # by axis: the middle of each window
    end_SE: Mapping[str, FloatArray]  # and its last evaluation
    values_SE: FloatArray
    start_S: FloatArray  # the first evaluation, not smoothed

    @property
    def final_S(self) -> FloatArray:
        """Each seed's last smoothed value."""
        return np.array([row[np.isfinite(row)][-1] for row in self.values_SE])

    @property
    def best_S(self) -> FloatArray:
        """Each seed's highest smoothed value."""
        return np.nanmax(self.values_SE, axis=1)

    @property
    def loaded(self) -> bool:
        """Whether the seconds of its seeds tell the machine's load: they differ too much for the same work."""
        if "seconds" not in self.end_SE:
            return False
        steps_SE = self.end_SE.get("steps", np.ones_like(self.values_SE))
        each_S = np.nanmax(self.end_SE["seconds"], axis=1) / np.nanmax(steps_SE, axis=1)
        return bool(each_S.max() > LOAD * each_S.min())

    def crossings(self, axis: str, levels_B: FloatArray, crossing: Crossing) -> FloatArray:
        """(B, S): x where each seed reaches each level; `CENSORED` where it never does.

        ``evaluation``: the last evaluation of the first window whose mean is not below the level. ``interpolated``: on
        the straight line between that window's middle and the one before.
        """
        highest_SE = np.maximum.accumulate(np.where(np.isnan(self.values_SE), -np.inf, self.values_SE), axis=1)
        index_BS = np.stack([np.searchsorted(row, levels_B, side="left") for row in highest_SE], axis=-1)
        seeds_S, last = np.arange(len(self.seeds)), self.values_SE.shape[1] - 1
        here_BS, there_BS = np.minimum(index_BS, last), np.clip(index_BS - 1, 0, last)
        if crossing == "evaluation":
            x_BS = self.end_SE[axis][seeds_S, here_BS]
        else:
            (x0, x1), (v0, v1) = (
                (array[seeds_S, there_BS], array[seeds_S, here_BS]) for array in (self.x_SE[axis], self.values_SE)
            )
            with np.errstate(invalid="ignore", divide="ignore"):
                x_BS = np.where(index_BS > 0, x0 + (levels_B[:, None] - v0) / (v1 - v0) * (x1 - x0), x1)
        return np.where(index_BS > last, CENSORED, x_BS)

    def horizon_S(self, axis: str, crossing: Crossing) -> FloatArray:
        """What each seed had taken when it was last looked at: a censored crossing lies beyond."""
        return np.nanmax(self.readings(crossing)[axis], axis=1)

    def readings(self, crossing: Crossing) -> Mapping[str, FloatArray]:
        """By axis, where the points of its curve stand."""
        return self.end_SE if crossing == "evaluation" else self.x_SE


def smoothed_arm(
    label: str, seeds: Sequence[int], x: Mapping[str, FloatArray], values: FloatArray, *, window: int
) -> Arm:
    """The arm of seeds-by-evaluations arrays, smoothed by means over ``window`` evaluations."""

    def means(array: FloatArray) -> FloatArray:
        found: FloatArray = np.lib.stride_tricks.sliding_window_view(array, window, axis=1).mean(axis=-1)
        return found

    return Arm(
        label=label,
        seeds=tuple(map(int, seeds)),
        x_SE={axis: means(array) for axis, array in x.items()},
        end_SE={axis: array[:, window - 1 :] for axis, array in x.items()},
        values_SE=means(values),
        start_S=values[:, 0],
    )


def arms_of(
    runs: Sequence[Run],
    *,
    metric: str,
    axes: Sequence[str],
    window: int,
    split: str | None = None,
    decoding: str = "sampled",
) -> dict[str, Arm]:
    """The settings by label.

    Raises:
        UserError: as `analysis.load.curves`, and for a window longer than a run's evaluations.
    """
    if window < 1:
        raise UserError(f"--window {window}: must be at least 1 evaluation.")
    frames = {axis: curves(runs, metric, split=split, decoding=decoding, x=axis) for axis in axes}
    steps = frames[axes[0]]
    unknown = steps[steps["value"].isna()]
    if len(unknown):
        raise UserError(
            f"metric={metric}: {unknown['run'].iloc[0]} could not measure it at step {unknown['step'].iloc[0]} (nan), "
            "so when it reached a target is not known. Choose another metric."
        )
    fewest = steps.groupby("run").size()
    if fewest.min() < window:
        raise UserError(
            f"--window {window}: {fewest.idxmin()} has {fewest.min()} evaluations; choose a smaller window, "
            "or evaluate more often (evaluation.every=N)."
        )
    return {
        str(label): _arm(str(label), {axis: frame[frame["label"] == label] for axis, frame in frames.items()}, window)
        for label in steps["label"].unique()
    }


def _arm(label: str, frames: Mapping[str, pd.DataFrame], window: int) -> Arm:
    first = next(iter(frames.values()))
    return smoothed_arm(
        label,
        sorted(first["seed"].unique()),
        {axis: _by_seed(frame, "x") for axis, frame in frames.items()},
        _by_seed(first, "value"),
        window=window,
    )


def _by_seed(frame: pd.DataFrame, column: str) -> FloatArray:
    """(seeds, evaluations), in order of seed and step, nan after a run's last evaluation."""
    rows = [part.sort_values("step")[column].to_numpy(dtype=float) for _, part in frame.groupby("seed")]
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


# ------------------------------------------------------------------------------------------------- target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aim:
    """The target: a number, or the level that a baseline's seeds set (and that moves when they are resampled)."""

    kind: Literal["number", "final", "best"]
    number: float = math.nan
    baseline: Arm | None = None

    def levels(self, index_BS: NDArray[np.int64] | None = None) -> FloatArray:
        """(B,): the level for each resample of the baseline's seeds; (1,), of the seeds as they are, without."""
        if self.baseline is None:
            return np.array([self.number])
        index = np.arange(len(self.baseline.seeds))[None] if index_BS is None else index_BS
        if self.kind == "final":
            found: FloatArray = self.baseline.final_S[index].mean(axis=1)
            return found
        common_SE = self.baseline.values_SE[:, np.isfinite(self.baseline.values_SE).all(axis=0)]
        best: FloatArray = common_SE[index].mean(axis=1).max(axis=1)
        return best

    @property
    def level(self) -> float:
        return float(self.levels()[0])

    @property
    def words(self) -> str:
        if self.baseline is None:
            return f"{self.level:.3g}"
        which = "final level" if self.kind == "final" else "best level"
        return f"{self.level:.3f} (the {which} of {self.baseline.label}, mean over its seeds)"


def aim_of(target: str | float, arms: Mapping[str, Arm], *, metric: str) -> Aim:
    """``0.7``, ``baseline:REWARD`` (its final level) or ``best:REWARD`` (its best level, over the same evaluations).

    Raises:
        UserError: anything else, an unknown or ambiguous setting, or a level that no run reaches or all start above.
    """
    kinds: dict[str, Literal["final", "best"]] = {"baseline": "final", "best": "best"}
    kind, _, name = str(target).partition(":")
    try:
        aim = (
            Aim(kind=kinds[kind], baseline=arms[named(name, arms, option="--target")])
            if name
            else Aim(kind="number", number=float(target))
        )
    except (KeyError, ValueError):
        raise UserError(
            f"--target {target}: give a number (0.7), baseline:SETTING (its final level) or best:SETTING (its best "
            f"level); the settings here are {', '.join(arms)}."
        ) from None
    if not math.isfinite(aim.level):
        raise UserError(f"--target {target}: its level is {aim.level}, not a number that a run can reach.")
    best = max(arms.values(), key=lambda arm: arm.best_S.max())
    if aim.level > best.best_S.max():
        seed = best.seeds[int(best.best_S.argmax())]
        raise UserError(
            f"--target {target}: no run comes to {metric} {aim.level:.3g}; the highest smoothed value is "
            f"{best.best_S.max():.3g} ({best.label}, seed {seed}). Choose a lower target or train longer."
        )
    if aim.level <= min(arm.start_S.min() for arm in arms.values()):
        raise UserError(
            f"--target {target}: every run starts at {metric} {aim.level:.3g} or above, so nothing is to be reached. "
            "Choose a higher target."
        )
    return aim


def named(name: str, arms: Mapping[str, Arm], *, option: str) -> str:
    """The label that is ``name``, or the only one of that reward.

    Raises:
        UserError: there is none, or several.
    """
    matches = [label for label in arms if label == name] or [label for label in arms if label.split()[0] == name]
    if len(matches) != 1:
        said = f"{name} could be {' or '.join(matches)}" if matches else f"there are no runs of {name}"
        raise UserError(f"{option} {name}: {said}; the settings here are {', '.join(arms)}.")
    return matches[0]


# ------------------------------------------------------------------------------------------------- ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many times more of an axis ``slow`` takes to the target than ``fast``.

    ``at_least`` is the ratio with censored runs of ``slow`` put at their last evaluation: a lower bound of it, not an
    estimate.
    """

    slow: str
    fast: str
    axis: str
    ratio: Ratio
    at_least: Ratio
    seeds: tuple[int, int]


def verdict(
    slow: Arm,
    fast: Arm,
    *,
    axis: str,
    aim: Aim,
    confidence: float,
    resamples: int,
    seed: int,
    crossing: Crossing = "interpolated",
) -> Verdict:
    """The ratio of the medians over seeds; a baseline's level is taken anew in every resample of its seeds."""
    other = aim.baseline if aim.baseline is not slow and aim.baseline is not fast else None
    sizes = [len(slow.seeds), len(fast.seeds), *([len(other.seeds)] if other else [])]
    drawn = resampled(*sizes, resamples=resamples, seed=seed)
    of_baseline = drawn[0] if aim.baseline is slow else drawn[1] if aim.baseline is fast else drawn[-1]

    def medians(arm: Arm, index_BS: NDArray[np.int64]) -> list[FloatArray]:
        """As the seeds are, in every resample; the same with censored runs at their last evaluation."""
        x_1S = arm.crossings(axis, aim.levels(), crossing)
        x_BS = arm.crossings(axis, aim.levels(of_baseline), crossing) if aim.baseline else x_1S
        x_BS = np.broadcast_to(x_BS, index_BS.shape)
        horizon_S = arm.horizon_S(axis, crossing)
        return [
            median(x)
            for cap in (np.full_like(horizon_S, CENSORED), horizon_S)
            for x in (np.minimum(x_1S, cap)[0], np.take_along_axis(np.minimum(x_BS, cap), index_BS, axis=-1))
        ]

    point, each, least, least_each = medians(slow, drawn[0])
    bottom, bottom_each, _, _ = medians(fast, drawn[1])
    return Verdict(
        slow=slow.label,
        fast=fast.label,
        axis=axis,
        ratio=summarised(point, bottom, each, bottom_each, confidence=confidence, undecided_widen=True),
        at_least=summarised(least, bottom, least_each, bottom_each, confidence=confidence, undecided_widen=True),
        seeds=(len(slow.seeds), len(fast.seeds)),
    )


def pairs_of(
    arms: Mapping[str, Arm], crossings: pd.DataFrame, *, axis: str, against: str | None
) -> list[tuple[str, str]]:
    """(slow, fast) by median: each setting against one, or all with all where that is None.

    Raises:
        UserError: ``against`` is not among the settings.
    """
    labels = list(arms)
    middle = {
        label: float(median(crossings.loc[crossings["label"] == label, axis].to_numpy(float))) for label in labels
    }
    if against is None:
        chosen = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    else:
        name = named(against, arms, option="--against")
        chosen = [(name, label) for label in labels if label != name]
    return [(a, b) if middle[a] >= middle[b] else (b, a) for a, b in chosen]


def crossing_frame(arms: Mapping[str, Arm], aim: Aim, axes: Sequence[str], crossing: Crossing) -> pd.DataFrame:
    """One row a run: label, seed, and per axis where it reached the target (inf: never)."""
    rows = []
    for label, arm in arms.items():
        found = {axis: arm.crossings(axis, aim.levels(), crossing)[0] for axis in axes}
        rows += [
            {"label": label, "seed": seed, **{axis: float(found[axis][i]) for axis in axes}}
            for i, seed in enumerate(arm.seeds)
        ]
    return pd.DataFrame(rows, columns=["label", "seed", *axes])


def check_axes(text: str | Sequence[str]) -> list[str]:
    """The x axes of a verdict.

    Raises:
        UserError: an unknown axis, or fewer than two.
    """
    axes = list(dict.fromkeys(text.split(",") if isinstance(text, str) else text))
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown:
        raise UserError(f"--x {unknown[0]}: not an axis; choose among {', '.join(AXES)}.")
    if len(axes) < 2:
        raise UserError(
            f"--x {','.join(axes)}: a verdict names at least two axes, since what looks free on one may cost on "
            "another; for example --x steps,tokens."
        )
    return axes
