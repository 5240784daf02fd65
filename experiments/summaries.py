"""What studies share: curves of finished runs, means over seeds with intervals, and the head of a results page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.crossings import LOAD
from analysis.figures import over_seeds
from dro_lab.errors import UserError
from dro_lab.record.read import Run
from experiments.archive import Archive

CONFIDENCE = 0.9
RESAMPLES = 10_000

Curve = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A mean over seeds with Student's t interval; the ends are nan of fewer than two values."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return _two(self.mean)
        return f"{_two(self.mean)} [{_two(self.low)}, {_two(self.high)}]"

    @property
    def each(self) -> str:
        """Every seed's value."""
        return " ".join(map(_two, self.values))


def over(values: Sequence[float]) -> Over:
    """Mean and interval over seeds; a seed without a value (nan) is shown and left out of the mean.

    Student's t, since of 3 seeds a 90% percentile bootstrap of the mean covers 58%, of 5 seeds 78%.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        return Over(values=tuple(values), mean=math.nan, low=math.nan, high=math.nan)
    mean, low, high = (float(found[0]) for found in over_seeds(finite[:, None], confidence=CONFIDENCE))
    return Over(values=tuple(values), mean=mean, low=low, high=high)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Over:
    """Ours minus theirs, seed by seed (the same seed has the same rows and random numbers)."""
    return over([a - b for a, b in zip(ours, theirs, strict=True)])


def evaluated(run: Run, metric: str, *, split: str = "validation", decoding: str = "sampled") -> Curve:
    """``[(step, value), ...]`` of an evaluated metric."""
    every = run.all_evals
    evals = every[(every["metric"] == metric) & (every["split"] == split) & (every["decoding"] == decoding)]
    return [(int(step), float(value)) for step, value in zip(evals["step"], evals["value"], strict=True)]


def trained(run: Run, metric: str, *, first: int | None = None, last: int | None = None) -> float:
    """Mean of a training metric over all steps, the ``first`` or the ``last`` ones."""
    values = run.metrics.sort_values("step")[metric]
    part = values.head(first) if first else values.tail(last) if last else values
    return float(part.mean())


LOADED = (
    f"Seconds are left out: the slowest seed of a setting took more than {LOAD:g} times as long as its fastest for the "
    "same work, so they tell what else the machine did."
)


def by_load(seconds: Mapping[str, Sequence[float]]) -> bool:
    """Whether the seeds of some setting differ so much in seconds that these tell the machine's load."""
    return any(max(of_seeds) > LOAD * min(of_seeds) for of_seeds in seconds.values() if of_seeds)


def finished_runs(folders: Sequence[Path], archive: Archive) -> list[Run]:
    """The runs, each archived or finished on disk: a missing run is an error, not a gap.

    Raises:
        UserError: names the runs that are missing.
    """
    found, missing = [], []
    for folder in folders:
        try:
            found.append(archive.load(folder))
        except UserError:
            missing.append(archive.name(folder))
    if missing:
        raise UserError(
            f"{', '.join(missing)}: neither archived in {archive.file} nor finished below {archive.root}. Leave out "
            "--tables-only to run what is missing, or name fewer --seeds"
        )
    return found


def quality_curves(folders: Sequence[Path], archive: Archive) -> list[Curve]:
    """The held-out quality of each run, step by step."""
    return [evaluated(run, "quality") for run in finished_runs(folders, archive)]


def head(title: str, *, command: str, seeds: Sequence[int], runs: Sequence[Run]) -> list[str]:
    """What every results page says first."""
    seconds = sum(run.summary["seconds"]["total"] for run in runs)
    commits = sorted({str(run.environment["git"]["commit"])[:12] for run in runs})
    return [
        f"# {title}",
        "",
        f"Command `{command}`; {len(runs)} runs at commit {', '.join(commits)}; seeds {', '.join(map(str, seeds))}; "
        f"{CONFIDENCE:.0%} intervals over seeds (means: Student's t; ratios of medians: percentile bootstrap); "
        f"{seconds / 60:.0f} minutes of run time on one core each.",
        "",
    ]


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object] | Sequence[object]]) -> list[str]:
    """A markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row[column] for column in columns] if isinstance(row, Mapping) else row
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return [*lines, ""]


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
