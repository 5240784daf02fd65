"""From folders of runs to tidy frames: the one place where analyses find, check and name the runs they compare."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.labels import label_of
from analysis.options import AXES
from dro_lab.errors import UserError
from dro_lab.record.read import Run, load_run
from dro_lab.record.summary import read_summary

__all__ = [
    "AXES",
    "by_label",
    "check_comparable",
    "curves",
    "find_runs",
    "label_of",
    "load_runs",
    "metrics_of",
    "with_x",
]

Axis = Literal["steps", "rollouts", "tokens", "seconds"]
ENDED = ("finished", "stopped")
"""A run that a health monitor stopped was evaluated and saved as a finished one."""
COPIES = ("mlflow-artifacts", "mlruns")
"""A tracker's copies of runs' files."""
NAMED = 5
"""Runs that a message names before it counts."""


def find_runs(places: Sequence[Path | str]) -> list[Path]:
    """Every run's folder at or below ``places``, sorted, each once.

    A place is a run's folder or a folder above runs: a sweep, a day, ``outputs``.

    Raises:
        UserError: a place that is not a folder.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(f"{place} is not a folder. Give a run's folder or one above runs, for example outputs.")
        for folder, below, files in os.walk(place):
            if "summary.json" in files:
                found.setdefault(Path(folder).resolve(), Path(folder))
                below.clear()  # a run holds no further runs
            below[:] = [name for name in below if not name.startswith(".") and name not in COPIES]
    return sorted(found.values())


def finished_runs(places: Sequence[Path | str]) -> list[Path]:
    """The folders of the finished runs at and below ``places``; the others are left out, and named on stderr.

    Raises:
        UserError: a place that is not a folder, or runs of which none is finished.
    """
    status = {folder: read_summary(folder / "summary.json")["status"] for folder in find_runs(places)}
    kept = [folder for folder, ended in status.items() if ended in ENDED]
    open_ = [f"{folder} ({ended})" for folder, ended in status.items() if ended not in ENDED]
    if open_ and not kept:
        raise UserError(f"--skip-unfinished: none of {len(open_)} runs is finished ({_listed(open_, ', ')}).")
    if open_:
        print(f"left out, unfinished: {_listed(open_, ', ')}", file=sys.stderr)
    return kept or [Path(place) for place in places]


def load_runs(places: Sequence[Path | str], *, finished: bool = True) -> list[Run]:
    """The runs at and below ``places``.

    Args:
        places: as `find_runs` takes them.
        finished: refuse runs that are running, interrupted or failed.

    Raises:
        UserError: no run there, an unfinished one, or one that cannot be read.
    """
    folders = find_runs(places)
    if not folders:
        named = ", ".join(map(str, places)) or "no folder given"
        raise UserError(
            f"{named}: there is no run below it (a run's folder holds summary.json). "
            "Run one first, for example python -m dro_lab.run, or give the folder printed at its end."
        )
    runs = [load_run(folder) for folder in folders]
    open_ = [run for run in runs if run.summary["status"] not in ENDED]
    if finished and open_:
        said = [
            f"{run.folder} is {run.summary['status']!r} at step {run.summary['steps']} of "
            f"{run.summary['planned_steps']}"
            for run in open_
        ]
        raise UserError(
            f"{_listed(said, '; ')}: finished runs are needed. Wait for a run that still works, start a cut-off one "
            f"again ({open_[0].environment.get('command', 'its command is not recorded')}), or leave such runs out: "
            "--skip-unfinished"
        )
    return runs


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose numbers do not mean the same: another metric, evaluation grid or data source.

    A run that a health monitor stopped may end early, on the others' grid but for its last evaluation.

    Raises:
        UserError: names both runs, what differs and both values.
    """
    if not runs:
        return
    # the run with the most evaluations leads: that of a stopped run is a part of it
    first = max(runs, key=lambda run: len(_steps(run)))
    for run in runs:
        for what, value in MUST_AGREE.items():
            ours, theirs = value(first), value(run)
            if ours != theirs and UNRECORDED not in (ours, theirs):
                _refuse(first, run, what, ours, theirs)
        ours, theirs = _steps(first), _steps(run)
        if run.summary["status"] == "stopped" and theirs[:-1] == ours[: max(0, len(theirs) - 1)]:
            continue
        if ours != theirs:
            _refuse(first, run, "list of evaluation steps", _grid(ours), _grid(theirs))


def by_label(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """The runs by label and seed: what is compared, and over what it is averaged.

    Raises:
        UserError: two runs of the same label and seed; they are not two seeds.
    """
    labels = label_of(runs)
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        seeds = found.setdefault(labels[run.folder], {})
        seed = int(run.summary["seed"])
        if seed in seeds:
            raise UserError(
                f"{seeds[seed].folder} and {run.folder} are both {labels[run.folder]} with seed {seed}, and one run is "
                "not two samples. Give one of them, or run another seed."
            )
        seeds[seed] = run
    return {label: dict(sorted(seeds.items())) for label, seeds in found.items()}


def curves(
    runs: Sequence[Run],
    metric: str = "quality",
    *,
    split: str | None = None,
    decoding: str = "sampled",
    x: str = "steps",
) -> pd.DataFrame:
    """An evaluated metric of every run at every evaluation.

    Args:
        runs: of `load_runs`.
        metric: its name in ``evals.jsonl``.
        split: None takes each run's own (the first in its record).
        decoding: ``sampled`` or ``greedy``.
        x: steps, rollouts, tokens or seconds; the last three are what training had taken by then, 0 at step 0.

    Returns:
        One row a run and evaluation: run, label, seed, step, x, value, low, high.

    Raises:
        UserError: an unknown x axis, a run without the metric, or one whose record lacks the cost.
    """
    labels = label_of(runs)
    frames = []
    for run in runs:
        every = run.all_evals
        own = split or (every["split"].iloc[0] if len(every) else None)
        part = every[(every["split"] == own) & (every["decoding"] == decoding)]
        rows = part[part["metric"] == metric]
        if rows.empty:
            known = ", ".join(sorted(part["metric"].unique())) or "nothing"
            raise UserError(
                f"metric={metric}: {run.folder} has none for {decoding} answers on split {own}; it has {known}."
            )
        frame = rows[["step", "value", "low", "high"]].astype(float).astype({"step": int}).sort_values("step")
        frames.append(_tidy(run, labels[run.folder], with_x(run, frame, x)))
    columns = ["run", "label", "seed", "step", "x", "value", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def metrics_of(runs: Sequence[Run], metric: str, *, x: str = "steps") -> pd.DataFrame:
    """A logged training metric of every run that has it: run, label, seed, step, x, value; empty where none has it."""
    labels = label_of(runs)
    frames = []
    for run in runs:
        if metric in run.metrics:
            frame = pd.DataFrame({"step": run.metrics["step"], "value": run.metrics[metric].astype(float)}).dropna()
            frames.append(_tidy(run, labels[run.folder], with_x(run, frame.astype({"step": int}), x)))
    columns = ["run", "label", "seed", "step", "x", "value"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def with_x(run: Run, frame: pd.DataFrame, x: str) -> pd.DataFrame:
    """``frame`` (with ``step``, in its order) and the column ``x``: what the run had taken at each step.

    Raises:
        UserError: an unknown axis, or a record without that cost.
    """
    if x not in AXES:
        raise UserError(f"x={x}: not an axis; choose among {', '.join(AXES)}.")
    if x == "steps" or not (frame["step"] > 0).any():
        return frame.assign(x=frame["step"].astype(float))
    column = f"cost/{x}"
    if column not in run.metrics:
        raise UserError(
            f"x={x}: {run.folder} did not log {column} (records before schema version 3 do not). "
            "Take x=steps, or run it again."
        )
    cost = run.metrics.dropna(subset=[column]).sort_values("step")
    steps = np.concatenate([[0], cost["step"].to_numpy(dtype=float)])
    values = np.concatenate([[0.0], cost[column].to_numpy(dtype=float)])
    last = np.searchsorted(steps, frame["step"].to_numpy(dtype=float), side="right") - 1
    return frame.assign(x=values[last])


def _tidy(run: Run, label: str, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(run=run.folder.as_posix(), label=label, seed=int(run.summary["seed"]))


# ---------------------------------------------------------------------------------------- what must agree


def _source(run: Run) -> str:
    found = run.summary["provenance"]
    return ", ".join(f"{key} {found[key]}" for key in ("dataset", "kind", "location", "revision", "sha256"))


UNRECORDED = "not recorded"


def _rows(run: Run) -> int:
    """Held-out rows: of the metric that most rows have, since a judge may leave some without a quality."""
    return int(run.evals["n"].max()) if len(run.evals) else 0


def _quality(run: Run, column: str) -> Any:
    rows = run.evals[run.evals["metric"] == "quality"] if len(run.evals) else run.evals
    return rows[column].iloc[0] if len(rows) else None


def _held_out(run: Run) -> str:
    """The held-out rows themselves, where the record has them: equal names and counts can hide other rows."""
    if run.answers.empty or _quality(run, "split") == "train":  # training rows are each seed's own
        return UNRECORDED
    part = run.answers[(run.answers["decoding"] == "sampled") & (run.answers["split"] == _quality(run, "split"))]
    rows = part.drop_duplicates("prompt_id")[["prompt_id", "prompt"]].sort_values("prompt_id")
    first = ", ".join(rows["prompt_id"].head(3))
    return f"{len(rows)} ({first}, ...; fingerprint {_fingerprint(rows)})"


def _fingerprint(rows: pd.DataFrame) -> str:
    return f"{int(pd.util.hash_pandas_object(rows, index=False).to_numpy(dtype='uint64').sum()) % 16**8:08x}"


MUST_AGREE: dict[str, Callable[[Run], Any]] = {
    "metric": lambda run: run.summary["metric"],
    "data source": _source,
    "evaluation split": lambda run: _quality(run, "split"),
    "number of held-out rows": _rows,
    "sampled answers a row": lambda run: run.summary.get("samples"),
    "interval level": lambda run: run.summary["confidence"],
    "held-out rows": _held_out,
}


def _steps(run: Run) -> list[int]:
    rows = run.evals[run.evals["metric"] == "quality"] if len(run.evals) else run.evals
    return sorted(map(int, rows["step"]))


def _grid(steps: Sequence[int]) -> str:
    return _listed(map(str, steps), ", ", most=12) or "empty"


def _refuse(first: Run, second: Run, what: str, ours: Any, theirs: Any) -> None:
    raise UserError(
        f"{first.folder} and {second.folder} cannot be compared: {what} is {ours} in the first and {theirs} in the "
        "second. Compare runs that agree in it."
    )


def _listed(items: Iterable[str], separator: str, *, most: int = NAMED) -> str:
    """The first items; how many more there are."""
    listed = list(items)
    rest = [f"and {len(listed) - most} more"] if len(listed) > most else []
    return separator.join([*listed[:most], *rest])
