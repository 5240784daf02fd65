"""Studies that are a grid: settings (one figure panel each) x arms x seeds, at ``scale=study``.

Holds what such studies share: their jobs in an order that leaves whole seeds when interrupted, the runs that are there
(archived or finished on disk), steps and other costs to a level, and the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import CENSORED, median
from analysis.crossings import Aim, Arm, Verdict, smoothed_arm, verdict
from dro_lab.record.read import Run
from experiments import short_policies
from experiments.archive import METRICS, Archive
from experiments.figures import Panel, draw_curves
from experiments.options import parser
from experiments.runs import Job, finished, pending, run_all
from experiments.short_policies import Testbed
from experiments.summaries import CONFIDENCE, RESAMPLES, Curve, evaluated, head

WINDOW = 3
"""Evaluations in a mean: curves are smoothed by it, and a level is reached where the smoothed curve meets it."""
COSTS = {"rollouts": "cost/rollouts", "tokens": "cost/tokens", "seconds": "cost/seconds"}
"""Axes beside steps, and the cumulative training metrics that hold them."""
QUICK_STEPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One panel: the twin and what is compared on it, by arm the overrides."""

    name: str
    title: str
    bed: Testbed
    arms: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A study.

    ``experiment``: its yaml in conf/experiments. ``here``: its folder. ``page``: what the results page says after its
    head. ``quick``: the settings and arms of ``--quick``. ``aim``: the level that a setting's figure shows, where it
    has one. ``before``: runs once before the training.
    """

    experiment: str
    here: Path
    settings: Sequence[Setting]
    quick: Sequence[Setting]
    page: Callable[[Found], list[str]]
    aim: Callable[[Mapping[str, Arm]], Aim | None] = lambda arms: None
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    before: Callable[[Place], None] = lambda place: None

    @property
    def command(self) -> str:
        return f"python -m experiments.{self.here.name}.study"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs land, where policies lie, where page, figure and archive go, and which settings are meant."""

    runs: Path
    policies: Path
    page: Path
    settings: Sequence[Setting]
    quick: bool = False

    @property
    def archive(self) -> Archive:
        return Archive(self.page / "runs.jsonl", self.runs, metrics=(*METRICS, *COSTS.values()))

    def folder(self, setting: Setting, arm: str, seed: int) -> Path:
        label = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in arm)
        return self.runs / setting.name / f"{label}_s{seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The runs of a study that are there: by setting and arm, by seed; and the same as arrays, where there are any."""

    place: Place
    runs: Mapping[str, Mapping[str, Mapping[int, Run]]]
    missing: Sequence[str]

    def arms(self, setting: str) -> dict[str, Arm]:
        return {name: arm_of(name, runs) for name, runs in self.runs.get(setting, {}).items() if runs}


# ------------------------------------------------------------------------------------------------ jobs and runs


def jobs(grid: Grid, place: Place, seeds: Sequence[int]) -> list[Job]:
    """Setting by setting and seed by seed, so that an interrupted study has whole seeds."""
    return [
        Job(
            folder=place.folder(setting, arm, seed),
            overrides=[
                f"+experiments={grid.experiment}",
                *setting.bed.overrides(place.policies),
                *overrides,
                *([f"steps={QUICK_STEPS}"] if place.quick else []),
                f"seed={seed}",
            ],
        )
        for setting in place.settings
        for seed in seeds
        for arm, overrides in setting.arms.items()
    ]


def find(grid: Grid, place: Place, settings: Sequence[Setting], seeds: Sequence[int]) -> Found:
    """Every run that is archived with the study's present overrides, or finished on disk; what is not is named."""
    archive, missing = place.archive, []
    overrides = {job.folder: job.overrides for job in jobs(grid, replace(place, settings=settings), seeds)}
    runs: dict[str, dict[str, dict[int, Run]]] = {}
    for setting in settings:
        for arm in setting.arms:
            of_arm = runs.setdefault(setting.name, {}).setdefault(arm, {})
            for seed in seeds:
                folder = place.folder(setting, arm, seed)
                if archive.holds(folder, overrides[folder]):
                    of_arm[seed] = archive.load(folder)
                elif (run := finished(folder)) is not None:
                    of_arm[seed] = run
                else:
                    missing.append(archive.name(folder))
    return Found(place=place, runs=runs, missing=missing)


# ------------------------------------------------------------------------------------------------ figures of runs


def quality(run: Run) -> Curve:
    """Held-out quality of sampled answers, step by step."""
    return sorted(evaluated(run, "quality"))


def arm_of(name: str, runs: Mapping[int, Run]) -> Arm:
    """The runs of one arm, smoothed, on every axis that all of them recorded."""
    curves = [quality(run) for run in runs.values()]
    steps = np.array([[step for step, _ in curve] for curve in curves], dtype=float)
    x = {"steps": steps}
    for axis, column in COSTS.items():
        if all(column in run.metrics for run in runs.values()):
            x[axis] = np.array([_at(run, column, row) for run, row in zip(runs.values(), steps, strict=True)])
    values = np.array([[value for _, value in curve] for curve in curves])
    return smoothed_arm(name, list(runs), x, values, window=WINDOW)


def _at(run: Run, column: str, steps: NDArray[np.float64]) -> list[float]:
    """What the run had taken at each of the steps; nothing at step 0."""
    taken = {0.0: 0.0, **dict(zip(run.metrics["step"].astype(float), run.metrics[column], strict=True))}
    return [float(taken[step]) for step in steps]


def number(level: float) -> Aim:
    """A fixed level."""
    return Aim(kind="number", number=level)


def reached(arm: Arm, aim: Aim, axis: str) -> NDArray[np.float64]:
    """(seeds,): what each run had taken where it met the level; `CENSORED` where it never did."""
    found: NDArray[np.float64] = arm.crossings(axis, aim.levels(), "interpolated")[0]
    return found


def compare(base: Arm, arm: Arm, aim: Aim, axis: str) -> Verdict:
    """The median cost of ``base`` over that of ``arm``, with its interval over seeds."""
    return verdict(base, arm, axis=axis, aim=aim, confidence=CONFIDENCE, resamples=RESAMPLES, seed=0)


def show_ratio(found: Verdict) -> str:
    """``2.10 [1.80, 2.60]``; ``> 2.10`` where the base's median run never got there, ``never`` where this did not."""

    def shown(value: float, least: float) -> str:
        if value == CENSORED:
            return f"> {least:.2f}"
        return "never" if value == 0 else f"{value:.2f}"

    value, low, high = found.ratio.value, found.ratio.low, found.ratio.high
    if math.isnan(value):
        return "-"
    ends = f"{shown(low, found.at_least.low)}, {'open' if high == CENSORED else shown(high, high)}"
    return f"{shown(value, found.at_least.value)} [{ends}]"


def show_cost(value: float, *, unit: float = 1.0) -> str:
    """A cost as a whole number of units; a dash where the level was never reached."""
    return "-" if value == CENSORED else f"{value / unit:.0f}"


def middle(costs: NDArray[np.float64]) -> float:
    """The median over seeds; censored where half of the runs are."""
    return float(median(costs))


# ------------------------------------------------------------------------------------------------ page and command


def publish(grid: Grid, place: Place, settings: Sequence[Setting], seeds: Sequence[int]) -> str:
    """Write results.md, curves.png and curves.csv of the runs that are there; returns the page."""
    found = find(grid, place, settings, seeds)
    everything = [run for arms in found.runs.values() for of_arm in arms.values() for run in of_arm.values()]
    if not everything:
        return f"no run is finished yet; {grid.command} runs them\n"
    lines = head(
        "Results", command=f"{grid.command} --quick" if place.quick else grid.command, seeds=seeds, runs=everything
    )
    if found.missing:
        named = ", ".join(found.missing[:6]) + (", ..." if len(found.missing) > 6 else "")
        lines += [f"**Unfinished**: {len(found.missing)} runs are missing ({named}).", ""]
    text = "\n".join([*lines, *grid.page(found)]).rstrip("\n") + "\n"
    place.page.mkdir(parents=True, exist_ok=True)
    (place.page / "results.md").write_text(text, encoding="utf-8")
    panels = []
    for setting in settings:
        runs, arms = found.runs[setting.name], found.arms(setting.name)
        if arms:
            aim = grid.aim(arms)
            panels.append(
                Panel(
                    title=setting.title,
                    curves={name: [quality(run) for run in runs[name].values()] for name in arms},
                    level=aim.level if aim else None,
                    reached={name: middle(reached(arm, aim, "steps")) for name, arm in arms.items()} if aim else {},
                )
            )
    draw_curves(panels, place.page / "curves.png", place.page / "curves.csv", ylabel="held-out quality", columns=3)
    return text


def _open(grid: Grid, place: Place, setting: Setting, seeds: Sequence[int]) -> bool:
    """Whether the setting has runs to do, and so needs its policy."""
    return bool(pending(jobs(grid, replace(place, settings=[setting]), seeds), place.archive))


def main(grid: Grid, doc: str | None, arguments: Sequence[str] | None = None) -> None:
    """The command line of a study."""
    made = parser(doc)
    options = made.parse_args(arguments)
    given = grid.seeds if options.seeds is None else [int(seed) for seed in options.seeds.split(",")]
    seeds = list(given)[: 2 if options.quick else None]
    every = grid.quick if options.quick else grid.settings
    known = [setting.name for setting in grid.settings]
    named = known if options.settings is None else options.settings.split(",")
    if unknown := sorted(set(named) - set(known)):
        made.error(f"--settings={unknown[0]}: choose among {', '.join(known)}")
    chosen = [setting for setting in every if setting.name in named]
    outputs = options.outputs or Path("outputs") / grid.here.name
    runs = outputs / "quick" if options.quick else outputs
    page = runs if options.quick else grid.here
    place = Place(runs=runs, policies=options.policies, page=page, settings=chosen, quick=options.quick)
    if not options.tables_only:
        for bed in {setting.bed.name: setting.bed for setting in chosen if _open(grid, place, setting, seeds)}.values():
            short_policies.build(bed, place.policies)
        grid.before(place)
        run_all(jobs(grid, place, seeds), workers=options.workers, archive=place.archive)
    print(publish(grid, place, every, seeds))
