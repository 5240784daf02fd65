"""The report of a run or of several: one self-contained page, and its figures as PNG and CSV, from the record alone."""

from __future__ import annotations

from pathlib import Path

from dro_lab.record.files import write_atomic
from dro_lab.record.read import load_run
from dro_lab.report.single import render

__all__ = ["render", "write_report"]


def write_report(folder: Path, *, path: Path | None = None) -> Path:
    """Write the page of one run, ``report.html`` in its folder unless ``path`` says otherwise, and its ``figures/``.

    Returns the page's path.

    Raises:
        UserError: the folder is not a run's folder (see `dro_lab.record.read.load_run`).
    """
    run = load_run(folder)
    path = run.folder / "report.html" if path is None else path
    write_atomic(path, render(run))
    return path
