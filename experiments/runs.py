"""Runs a study's jobs side by side and skips what is finished.

Each job is what ``python -m dro_lab.run`` with its overrides does. A worker process runs many, one after the other (two
jobs in one process give what two processes give, and a test holds the lab to that): short runs pay for few starts.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from dro_lab.errors import UserError
from dro_lab.record.read import Run, load_run
from experiments.archive import Archive, comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: where it lands and what it overrides."""

    folder: Path
    overrides: Sequence[str]

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "dro_lab.run", *self.overrides, f"hydra.run.dir={self.folder}"]


def finished(folder: Path) -> Run | None:
    """The run in ``folder`` if it is finished."""
    try:
        return load_run(folder, require_finished=True)
    except UserError:
        return None


def pending(jobs: Sequence[Job], archive: Archive | None = None) -> list[Job]:
    """The jobs that are neither finished nor archived with their overrides; what is finished is archived."""
    todo = []
    for job in jobs:
        if archive is not None and archive.holds(job.folder, job.overrides):
            continue
        run = finished(job.folder)
        if run is None or not _made_by(job, run):
            todo.append(job)
        elif archive is not None:
            archive.keep(job.folder, job.overrides)
    return todo


def _made_by(job: Job, run: Run) -> bool:
    """Whether the run's recorded command has the job's overrides: a study that was changed keeps its folders' names."""
    given = [word for word in shlex.split(run.environment.get("command", "")) if "=" in word]
    return comparable([word for word in given if not word.startswith("hydra.run.dir=")]) == comparable(job.overrides)


def reported(main: Callable[[], None]) -> None:
    """Run a study's command: bad input and failed jobs end in one message and status 2, Ctrl-C in status 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command runs what is missing", file=sys.stderr)
        sys.exit(130)


def run_all(jobs: Sequence[Job], *, workers: int, archive: Archive | None = None) -> None:
    """Run what is neither finished nor archived, ``workers`` at a time, one thread each; archive what is finished.

    A folder that holds an unfinished run, or one of other overrides, is moved aside (``NAME.aside``), not overwritten.

    Raises:
        UserError: a job failed; names its log. The others are finished first.
    """
    todo = pending(jobs, archive)
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} already finished, {workers} side by side", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, (job, problem) in enumerate(pool.map(_work, todo), start=1):
            seconds = "" if problem else f"{load_run(job.folder).summary['seconds']['total']:.0f} s"
            print(f"{number}/{len(todo)} {job.folder.name}: {problem or seconds}", flush=True)
            failed += [(job, problem)] if problem else []
            if archive is not None and not problem:
                archive.keep(job.folder, job.overrides)
    if failed:
        job, problem = failed[0]
        raise UserError(
            f"{len(failed)} of {len(todo)} jobs failed; the first: {shlex.join(job.command)}: {problem}. "
            f"See {job.log}; the same command runs what is missing"
        )


def _work(job: Job) -> tuple[Job, str]:
    """Run one job in this process; what it prints goes to its log. Returns the job and what went wrong."""
    if job.folder.exists():
        job.folder.rename(_aside(job.folder))
    job.folder.mkdir(parents=True)
    sys.argv = ["dro_lab/run.py", *job.overrides]  # what the run's record calls its command
    with job.log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            run_in_process(job)
        except Exception as error:
            traceback.print_exc()
            return job, f"{type(error).__name__}: {error}"
    return job, ""


def run_in_process(job: Job) -> None:
    """What ``python -m dro_lab.run`` does with the job's overrides."""
    from hydra import compose, initialize_config_dir
    from omegaconf import open_dict

    from dro_lab import lab
    from dro_lab.config import GROUPS, check
    from dro_lab.run import CONF

    with initialize_config_dir(config_dir=str(CONF)):
        cfg = compose(config_name="config", overrides=list(job.overrides), return_hydra_config=True)
    choices = cfg.hydra.runtime.choices
    names = {group: str(choices.get(group) or group) for group in GROUPS}
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.names = names
    check(cfg)
    lab.run(cfg, names, job.folder.resolve())


def _aside(folder: Path) -> Path:
    number = 0
    while (target := folder.with_name(f"{folder.name}.aside{number or ''}")).exists():
        number += 1
    return target
