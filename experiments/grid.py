"""Studies that are a grid: settings (one figure panel each) x arms x seeds, at ``scale=study``.

Holds what such studies share: their jobs in an order that leaves whole seeds when interrupted, the runs that are there
(archived or finished on disk), steps and other costs to a level, and the command line.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.steps_to_target import CENSORED, Ratio, ratio_of_medians, smoothed
from dro_lab.record.read import Run
from experiments import short_policies
from experiments.archive import METRICS, Archive
from experiments.figures import Panel, draw_curves
from experiments.runs import Job, finished, run_all
from experiments.short_policies import Testbed
from experiments.summaries import CONFIDENCE, Curve, evaluated, head

WINDOW = 3
"""Evaluations that a level is reached by the mean of."""
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
    head. ``quick``: the settings and arms of ``--quick``. ``before``: runs once before the training.
    """

    experiment: str
    here: Path
    settings: Sequence[Setting]
    quick: Sequence[Setting]
    page: Callable[[Found], list[str]]
    level: Callable[[Mapping[str, Mapping[int, Run]]], float | None] = lambda runs: None
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
    """The runs of a study that are there: by setting and arm, by seed."""

    place: Place
    seeds: Sequence[int]
    runs: Mapping[str, Mapping[str, Mapping[int, Run]]]
    missing: Sequence[str]


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


def find(place: Place, settings: Sequence[Setting], seeds: Sequence[int]) -> Found:
    """Every run that is archived or finished on disk; what is not is named."""
    archive, missing = place.archive, []
    archived = archive.entries()
    runs: dict[str, dict[str, dict[int, Run]]] = {}
    for setting in settings:
        for arm in setting.arms:
            of_arm = runs.setdefault(setting.name, {}).setdefault(arm, {})
            for seed in seeds:
                folder = place.folder(setting, arm, seed)
                if archive.name(folder) in archived:
                    of_arm[seed] = archive.load(folder)
                elif (run := finished(folder)) is not None:
                    of_arm[seed] = run
                else:
                    missing.append(archive.name(folder))
    return Found(place=place, seeds=seeds, runs=runs, missing=missing)


# ------------------------------------------------------------------------------------------------ figures of a run


def quality(run: Run) -> Curve:
    """Held-out quality of sampled answers, step by step."""
    return evaluated(run, "quality")


def final(run: Run) -> float:
    """The mean of the last evaluations."""
    return statistics.fmean(value for _, value in sorted(quality(run))[-WINDOW:])


def cost_to(run: Run, level: float, axis: str = "steps") -> float:
    """Steps, rollouts, tokens or seconds at the first evaluation whose mean of the last `WINDOW` reaches the level.

    `CENSORED` where there is none.

    Raises:
        KeyError: the run has no record of this cost.
    """
    step = next((step for step, value in smoothed(quality(run), window=WINDOW) if value >= level), None)
    if step is None:
        return CENSORED
    if axis == "steps" or step == 0:
        return float(step)
    costs = run.metrics.set_index("step")[COSTS[axis]]
    return float(costs.loc[step])


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Their median cost over ours, with its interval over seeds."""
    return ratio_of_medians(theirs, ours, confidence=CONFIDENCE, resamples=10_000, seed=0)


def show_ratio(found: Ratio, *, theirs: str) -> str:
    """``2.1 [1.8, 2.6]``; words where a median run of one of the two never got there."""

    def number(value: float) -> str:
        if value == CENSORED:
            return f"{theirs} never"
        return "-" if value != value else "this never" if value == 0 else f"{value:.2f}"

    if found.value != found.value:
        return "-"
    low, high = number(found.low), number(found.high)
    return f"{number(found.value)} [{low}, {high}]"


def show_cost(value: float, *, unit: float = 1.0) -> str:
    """A cost as a whole number of units; a dash where the level was never reached."""
    return "-" if value == CENSORED else f"{value / unit:.0f}"


def median(values: Sequence[float]) -> float:
    """The upper median, which is censored where half of the runs are."""
    return statistics.median_high(values)


# ------------------------------------------------------------------------------------------------ page and command


def publish(grid: Grid, place: Place, settings: Sequence[Setting], seeds: Sequence[int]) -> str:
    """Write results.md, curves.png and curves.csv of the runs that are there; returns the page."""
    found = find(place, settings, seeds)
    everything = [run for arms in found.runs.values() for of_arm in arms.values() for run in of_arm.values()]
    if not everything:
        return f"no run is finished yet; {grid.command} runs them\n"
    lines = head("Results", command=grid.command, seeds=seeds, runs=everything)
    if found.missing:
        named = ", ".join(found.missing[:6]) + (", ..." if len(found.missing) > 6 else "")
        lines += [f"**Unfinished**: {len(found.missing)} runs are missing ({named}).", ""]
    text = "\n".join([*lines, *grid.page(found)]).rstrip("\n") + "\n"
    place.page.mkdir(parents=True, exist_ok=True)
    (place.page / "results.md").write_text(text, encoding="utf-8")
    panels = []
    for setting in settings:
        arms = found.runs[setting.name]
        curves = {arm: [quality(run) for run in of_arm.values()] for arm, of_arm in arms.items() if of_arm}
        if curves:
            panels.append(Panel(title=setting.title, curves=curves, level=grid.level(arms)))
    draw_curves(panels, place.page / "curves.png", place.page / "curves.csv", ylabel="held-out quality", columns=3)
    return text


def main(grid: Grid, doc: str | None, arguments: Sequence[str] | None = None) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=",".join(map(str, grid.seeds)), help="default %(default)s")
    parser.add_argument(
        "--settings",
        default=",".join(setting.name for setting in grid.settings),
        help="run these alone; the page shows whatever is there (default %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default %(default)s)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs") / grid.here.name)
    parser.add_argument("--policies", type=Path, default=short_policies.ROOT, help="default %(default)s")
    parser.add_argument("--tables-only", action="store_true", help="write page and figure of what is finished")
    parser.add_argument("--quick", action="store_true", help="one twin, two seeds, shorter; the page goes to outputs")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")][: 2 if options.quick else None]
    every = grid.quick if options.quick else grid.settings
    named = options.settings.split(",")
    if unknown := sorted(set(named) - {setting.name for setting in grid.settings}):
        parser.error(f"--settings={unknown[0]}: choose among {', '.join(s.name for s in grid.settings)}")
    chosen = [setting for setting in every if setting.name in named]
    runs = options.outputs / "quick" if options.quick else options.outputs
    page = runs if options.quick else grid.here
    place = Place(runs=runs, policies=options.policies, page=page, settings=chosen, quick=options.quick)
    if not options.tables_only:
        for setting in chosen:
            short_policies.build(setting.bed, place.policies)
        grid.before(place)
        run_all(jobs(grid, place, seeds), workers=options.workers, archive=place.archive)
    print(publish(grid, place, every, seeds))
