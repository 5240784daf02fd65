"""How often the intervals of `analysis.steps_to_target` hold a ratio that was planted.

Runs are simulated: every seed's quality rises towards a ceiling, with a half-life of its own (log-normal over seeds),
and one setting's half-lives are ``ratio`` times the other's. On a fine grid without noise the ratio of the true medians
is ``ratio``. A real evaluation grid rounds every crossing up to the next evaluation, noise moves it, the trailing mean
delays it, and a run may end before it. The command prints what is left of the coverage then, with crossings
interpolated and with crossings counted in whole evaluations.

    python -m analysis.coverage
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from analysis.options import answer_help

    answer_help("coverage", __doc__)

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.bootstrap import CENSORED
from analysis.command import table
from analysis.crossings import Aim, Arm, Crossing, smoothed_arm, verdict
from analysis.options import FIGURES

TARGET, START, CEILING = 0.65, 0.3, 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is simulated."""

    seeds: int = 8
    ratio: float = 2.0
    fast: float = 22.0  # median steps to target of the faster
    spread: float = 0.2  # standard deviation over seeds of the logarithm of the half-life
    every: float = 1.0  # steps between evaluations
    last: float = 160.0
    noise: float = 0.0  # standard deviation of an evaluation
    window: int = 1
    repetitions: int = 1000
    resamples: int = 999
    confidence: float = 0.9
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Share of repetitions whose interval holds the planted ratio, the median of the estimates, and the share of
    censored runs."""

    share: float
    ratio: float
    censored: float


def measure(setting: Setting, crossing: Crossing = "interpolated") -> Coverage:
    """Simulate and count."""
    rng = np.random.default_rng(setting.seed)
    aim, held, ratios, censored = Aim(kind="number", number=TARGET), [], [], []
    for repetition in range(setting.repetitions):
        slow, fast = (_arm(setting, rng, factor=factor) for factor in (setting.ratio, 1.0))
        found = verdict(
            slow, fast, axis="steps", aim=aim, crossing=crossing, confidence=setting.confidence,
            resamples=setting.resamples, seed=repetition,
        ).ratio  # fmt: skip
        held.append(found.low <= setting.ratio <= found.high)
        ratios.append(found.value)
        censored.append(np.mean([arm.crossings("steps", aim.levels(), crossing) == CENSORED for arm in (slow, fast)]))
    return Coverage(share=float(np.mean(held)), ratio=float(np.nanmedian(ratios)), censored=float(np.mean(censored)))


def _arm(setting: Setting, rng: np.random.Generator, *, factor: float) -> Arm:
    halves = np.log2((CEILING - START) / (CEILING - TARGET))  # half-lives from the start to the target
    half_S1 = (setting.fast * factor / halves) * np.exp(setting.spread * rng.normal(size=(setting.seeds, 1)))
    steps_E = np.arange(0.0, setting.last + setting.every / 2, setting.every)
    values_SE = CEILING - (CEILING - START) * 2 ** (-steps_E / half_S1)
    values_SE = values_SE + setting.noise * rng.normal(size=values_SE.shape)
    x_SE = np.broadcast_to(steps_E, values_SE.shape)
    return smoothed_arm(f"x{factor:g}", range(setting.seeds), {"steps": x_SE}, values_SE, window=setting.window)


SETTINGS = {
    "fine grid, no noise": Setting(),
    "every 4 steps": Setting(every=4),
    "every 10 steps": Setting(every=10),
    "every 4 steps, noise 0.02, window 3": Setting(every=4, noise=0.02, window=3),
    "every 10 steps, noise 0.02, window 3": Setting(every=10, noise=0.02, window=3),
    "every 4 steps, runs of 48 steps": Setting(every=4, last=48),
    "every 10 steps, runs of 50 steps": Setting(every=10, last=50),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the coverage of every setting as a table."""
    options = FIGURES["coverage"](__doc__ or "").parse_args(arguments)
    rows = []
    for name, setting in SETTINGS.items():
        for seeds in options.seeds:
            of = replace(setting, seeds=seeds, repetitions=options.repetitions)
            measured = [measure(of, crossing) for crossing in CROSSINGS]
            rows.append(
                [name, seeds, *(f"{m.share:.1%} ({m.ratio:.2f})" for m in measured), f"{measured[0].censored:.0%}"]
            )
    print(f"Coverage of 90% intervals of a planted ratio of 2 (median estimate), {options.repetitions} repetitions\n")
    print("\n".join(table(["runs", "seeds", *CROSSINGS, "censored"], rows)))
    return 0


CROSSINGS: tuple[Crossing, ...] = ("interpolated", "evaluation")

if __name__ == "__main__":
    sys.exit(main())
