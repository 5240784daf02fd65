"""Seconds of several arms that take turns, and ratios paired by round."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from experiments.scoring_cost.arms import Arm

CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one call. ``cpu`` is the process's own time over all threads: other work on the machine hardly moves it."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of the ratios by round, the bootstrap interval over rounds, and the ratio of the fastest calls."""

    median: float
    low: float
    high: float
    of_minima: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def timed(arm: Arm, device: str) -> Seconds:
    """One call, with a GPU's queue empty before and after."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    cpu, wall = time.process_time(), time.perf_counter()
    arm()
    wait()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def turns(arms: Mapping[str, Arm], rounds: int, device: str) -> dict[str, list[Seconds]]:
    """Seconds by arm and round; every other round goes backwards, so that no arm always follows the same one."""
    found: dict[str, list[Seconds]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
            found[name].append(timed(arms[name], device))
    return found


def paired(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Ratios by round. One round has no interval."""
    pairs = np.array(numerator) / np.array(denominator)
    middle, fastest = float(np.median(pairs)), float(min(numerator) / min(denominator))
    if len(pairs) < 2:
        return Ratio(middle, middle, middle, fastest)
    interval = stats.bootstrap(
        (pairs,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Ratio(middle, float(interval.low), float(interval.high), fastest)
