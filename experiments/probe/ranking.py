"""Predicted against measured steps: settings, rank correlation and pairs, with bootstrap intervals. Pure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from analysis.steps_to_target import CENSORED, seed_average, smoothed, steps_to_target
from experiments.probe.beds import Bed, Curves

WINDOW = 3
SHARE = 0.75
"""The target: this share of the way from the start to the best level that any reward of the bed reached."""
RESAMPLES = 2000
CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One reward (or omega) on one bed."""

    bed: str
    title: str  # of the bed
    arm: str
    target: float
    horizon: int  # steps up to which all arms of the bed are compared
    steps: tuple[float, ...]  # to the target, of each seed; CENSORED where it was never reached
    predictions: Mapping[str, float]  # by predictor; larger is slower; nan where it says nothing
    expected: float = math.nan  # steps over the oracle's, as the probe's speed formula has them from the measured rho

    @property
    def median(self) -> float:
        return median(self.steps)


def median(steps: Sequence[float]) -> float:
    """The upper median: censored where half of the seeds are."""
    return statistics.median_high(steps)


def settings_of(bed: Bed, probe: Mapping[str, Any]) -> list[Setting]:
    """The bed's arms that the probe knows, with what was measured and predicted."""
    curves = bed.curves()
    if not curves:
        return []
    horizon = min(max(step for step, _ in curve) for runs in curves.values() for curve in runs.values())
    cut: Curves = {
        arm: {seed: [(s, v) for s, v in curve if s <= horizon] for seed, curve in runs.items()}
        for arm, runs in curves.items()
    }
    level = target(cut)
    found = []
    for arm, runs in cut.items():
        entry = entry_of(arm, probe)
        if entry is not None:
            found.append(
                Setting(
                    bed=bed.name,
                    title=bed.title,
                    arm=arm,
                    target=level,
                    horizon=horizon,
                    steps=tuple(steps_to_target(curve, level, window=WINDOW) for curve in runs.values()),
                    predictions=predictions_of(entry),
                    expected=_number(entry.get("steps")),
                )
            )
    return found


def target(curves: Curves) -> float:
    """``start + SHARE (best - start)`` of the seed-averaged curves; start: the mean of all runs before training."""
    averages = [seed_average(runs) for runs in curves.values()]
    start = statistics.fmean(average[0][1] for average in averages)
    best = max(value for average in averages for _, value in smoothed(average, window=WINDOW))
    return start + SHARE * (best - start)


OMEGA = re.compile(r"(?:omega[ _]?|r3_w)(?P<omega>[0-9.]+)$")


def entry_of(arm: str, probe: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the probe found of an arm; None for one that it does not know."""
    if (matched := OMEGA.match(arm)) is not None:
        wanted = float(matched["omega"])
        entry = next((found for found in probe["omegas"] if found["omega"] == wanted), None)
    else:
        entry = probe["rewards"].get(arm)
    return None if entry is None or entry.get("reason") else entry


def predictions_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """What a finding predicts, by predictor."""
    over = entry.get("over_floor")
    over = over.get("value") if isinstance(over, Mapping) else over
    rho = entry.get("rho")
    return {
        "rho": _slower(rho["value"] if rho else None),
        "formula": _slower(entry.get("rho_formula")),
        "floor": _slower(over),
    }


def _slower(value: float | None) -> float:
    """The more of it, the fewer steps."""
    return -_number(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def slowdowns(settings: Sequence[Setting]) -> dict[str, tuple[float, float]]:
    """(predicted, measured) steps of each arm over those of the arm that the bed's training found fastest.

    Of one bed; an arm that never arrives is left out.
    """
    arrived = [setting for setting in settings if setting.median != CENSORED and math.isfinite(setting.expected)]
    if not arrived:
        return {}
    fastest = min(arrived, key=lambda setting: (setting.median, setting.expected))
    return {s.arm: (s.expected / fastest.expected, s.median / fastest.median) for s in arrived}


# ------------------------------------------------------------------------------------------------ agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a predictor's ranking agrees with the measured one."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


Statistic = Callable[[Sequence[str], Sequence[float], Sequence[float]], float]
"""``statistic(beds, predicted, measured)``; larger predictions and more steps are slower."""


def within(beds: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """Ranks within each bed, scaled to (0, 1), ties shared: steps of two beds are not comparable as such."""
    ranks = np.zeros(len(values))
    for bed in dict.fromkeys(beds):
        places = [place for place, other in enumerate(beds) if other == bed]
        ranks[places] = (rankdata([values[place] for place in places]) - 0.5) / len(places)
    return ranks


def rank_correlation(beds: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's correlation of the ranks within beds; nan where one of them does not vary."""
    a, b = within(beds, predicted) - 0.5, within(beds, measured) - 0.5
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def pairs_right(beds: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Share of a bed's pairs with different measured steps that are ranked rightly; a predicted tie counts half."""
    right = pairs = 0.0
    for i in range(len(beds)):
        for j in range(i):
            if beds[i] != beds[j] or measured[i] == measured[j]:
                continue
            pairs += 1
            if predicted[i] == predicted[j]:
                right += 0.5
            else:
                right += (predicted[i] > predicted[j]) == (measured[i] > measured[j])
    return right / pairs if pairs else math.nan


def agreement(
    settings: Sequence[Setting], predictor: str, statistic: Statistic, *, over: str, resamples: int = RESAMPLES
) -> Agreement:
    """The statistic with a bootstrap interval.

    Args:
        over: ``seeds``: every setting's seeds are drawn anew, the settings stay; ``beds``: whole beds are drawn anew
            too, as if other data had been tried.
    """
    known = [setting for setting in settings if not math.isnan(setting.predictions[predictor])]
    names = list(dict.fromkeys(setting.bed for setting in known))
    by_bed = {name: [setting for setting in known if setting.bed == name] for name in names}
    rng = np.random.default_rng(0)

    def value(chosen: Sequence[str], *, draw: bool) -> float:
        beds, predicted, measured = [], [], []
        for number, name in enumerate(chosen):
            for setting in by_bed[name]:
                steps = rng.choice(setting.steps, size=len(setting.steps)).tolist() if draw else setting.steps
                beds.append(f"{number} {name}")
                predicted.append(setting.predictions[predictor])
                measured.append(median(steps))
        return statistic(beds, predicted, measured)

    drawn = [
        value(list(rng.choice(names, size=len(names))) if over == "beds" else names, draw=True)
        for _ in range(resamples)
    ]
    finite = [found for found in drawn if not math.isnan(found)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail]) if finite else (math.nan, math.nan)
    return Agreement(value=value(names, draw=False), low=float(low), high=float(high), n=len(known))


def censored(setting: Setting) -> int:
    """Seeds that never reached the target."""
    return sum(steps == CENSORED for steps in setting.steps)
