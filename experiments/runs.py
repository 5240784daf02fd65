"""Runs a study's jobs side by side and skips what is finished: each job is one `python -m dro_lab.run` in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dro_lab.errors import UserError
from dro_lab.record.read import Run, load_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: where it lands and what it overrides."""

    folder: Path
    overrides: Sequence[str]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "dro_lab.run", *self.overrides, f"hydra.run.dir={self.folder}"]


def finished(folder: Path) -> Run | None:
    """The run in ``folder`` if it is finished."""
    try:
        return load_run(folder, require_finished=True)
    except UserError:
        return None


def run_all(jobs: Sequence[Job], *, workers: int) -> None:
    """Run what is not finished, ``workers`` at a time, one thread each.

    A folder that holds an unfinished run is moved aside (``NAME.unfinished``), not overwritten.

    Raises:
        RuntimeError: a job failed; names its log.
    """
    todo = [job for job in jobs if finished(job.folder) is None]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} already finished, {workers} side by side", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def work(job: Job) -> None:
        if job.folder.exists():
            job.folder.rename(_aside(job.folder))
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        log = job.folder.with_suffix(".log")
        with log.open("w") as out:
            code = subprocess.run(job.command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False)
        if code.returncode:
            raise RuntimeError(f"{' '.join(job.command)} failed with status {code.returncode}; see {log}")
        run = load_run(job.folder)
        print(f"{job.folder.name}: {run.summary['seconds']['total']:.0f} s", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, job) for job in todo]:
            future.result()


def _aside(folder: Path) -> Path:
    number = 0
    while (target := folder.with_name(f"{folder.name}.unfinished{number or ''}")).exists():
        number += 1
    return target
