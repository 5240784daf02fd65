"""Which process runs a job of a sweep: written into the job's folder, so that a job outlives its sweep unharmed.

A sweep's process holds a lock while it lives (`dro_lab.sweep.ledger.Owner`). Its workers (``hydra/launcher=joblib``)
can outlive it: killed alone, it leaves them to finish their runs. The next start must not run these a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dro_lab.errors import UserError
from dro_lab.record.files import write_json
from dro_lab.sweep.trial import RunTrial, SweepTrial
from dro_lab.tracking.killed import PID, is_gone, process_tags

FILE = "process.json"
"""In a job's folder while it runs: the process's host, number and start."""
LOCKS = ".locks"
"""Below the sweep's folder: locks of its processes, and the ledger's own."""
MUTEX = "ledger"


@contextmanager
def claimed(folder: Path, trial: RunTrial) -> Iterator[None]:
    """Name this process in the job's ``folder`` until the job ends.

    Under the ledger's lock, so that no other start judges the trial between the question and the claim.

    Raises:
        UserError: the trial was given up before its job began.
    """
    with FileLock(folder.parents[1] / LOCKS / MUTEX):
        if isinstance(trial, SweepTrial) and not trial.is_running:
            raise UserError(f"{folder}: another start of the sweep has given this trial up; it is run again there")
        write_json(folder / FILE, process_tags())
    try:
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)


def worker_of(folder: Path) -> str | None:
    """The number of the live process whose job has this folder; None where there is none."""
    try:
        tags = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if is_gone(tags) else str(tags[PID])
