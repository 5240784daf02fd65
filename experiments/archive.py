"""What a study keeps of each run beside its table: one line a run, with the curves and rates that tables are made of.

Runs themselves stay in the git-ignored outputs; the archive lets anybody redraw the table, and continue a study
elsewhere: a job whose overrides are archived is not run again. Paths in overrides do not count: they differ by machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dro_lab.record.files import write_atomic
from dro_lab.record.read import Run, load_run

METRICS = ("gate/rejected_share", "gate/floored_share", "filter/dropped_share", "rollouts/kept_share")
EVALS = ("quality", "win_rate")
PATHS = ("model.path=", "filtering.file=")


def comparable(overrides: Sequence[str]) -> list[str]:
    """The overrides without the paths of this machine."""
    return [override for override in overrides if not override.startswith(PATHS)]


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive of a study whose runs lie below ``root``: the training metrics and evaluations that it keeps."""

    file: Path
    root: Path
    metrics: Sequence[str] = METRICS
    evals: Sequence[str] = EVALS

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def entries(self) -> dict[str, dict[str, Any]]:
        """The archived runs by name; none where there is no file yet."""
        if not self.file.exists():
            return {}
        found = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]
        return {entry["run"]: entry for entry in found}

    def holds(self, folder: Path, overrides: Sequence[str]) -> bool:
        """Whether the run of ``folder`` is archived with these overrides."""
        entry = self.entries().get(self.name(folder))
        return entry is not None and entry["overrides"] == comparable(overrides)

    def keep(self, folder: Path, overrides: Sequence[str]) -> None:
        """Add a finished run from disk, in the place of an older one of that name."""
        run = load_run(folder, require_finished=True)
        evals = run.all_evals[run.all_evals["metric"].isin(self.evals)]
        entry = {
            "run": self.name(folder),
            "overrides": comparable(overrides),
            "commit": run.environment["git"]["commit"],
            "seconds": round(run.summary["seconds"]["total"], 1),
            "metric": run.summary["metric"],
            "alarms": [alarm["monitor"] for alarm in run.summary["alarms"]],
            "evals": [
                [int(row.step), row.split, row.decoding, row.metric, round(float(row.value), 6)]
                for row in evals.itertuples()
            ],
            "metrics": {
                name: [round(float(value), 6) for value in run.metrics.sort_values("step")[name]]
                for name in self.metrics
                if name in run.metrics.columns
            },
        }
        entries = {**self.entries(), entry["run"]: entry}
        lines = [json.dumps(entries[name]) + "\n" for name in sorted(entries)]
        write_atomic(self.file, "".join(lines))

    def load(self, folder: Path) -> Run:
        """The run from the archive, as far as that goes, where it holds one of that name, else from disk."""
        entry = self.entries().get(self.name(folder))
        if entry is None:
            return load_run(folder, require_finished=True)
        steps = max(map(len, entry["metrics"].values()), default=0)
        evals = pd.DataFrame(entry["evals"], columns=["step", "split", "decoding", "metric", "value"])
        return Run(
            folder=folder,
            summary={"metric": entry["metric"], "seconds": {"total": entry["seconds"]}, "alarms": entry["alarms"]},
            environment={"git": {"commit": entry["commit"]}},
            config="",
            metrics=pd.DataFrame({"step": range(1, steps + 1), **entry["metrics"]}),
            evals=evals,
            all_evals=evals,
            rollouts=pd.DataFrame(),
            tokens=pd.DataFrame(),
        )
