"""The report of a run or of several: one self-contained page, and its figures as PNG and CSV, from the record alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dro_lab.errors import UserError

__all__ = ["run_folders", "write_comparison", "write_report"]


def write_report(folder: Path, *, path: Path | None = None) -> Path:
    """Write the page of one run, ``report.html`` in its folder unless ``path`` says otherwise, and its ``figures/``.

    Returns the page's path.

    Raises:
        UserError: the folder is not a run's folder (see `dro_lab.record.read.load_run`), or ``path`` cannot be
            written.
    """
    from dro_lab.record.files import write_atomic
    from dro_lab.record.read import load_run
    from dro_lab.report.single import render

    run = load_run(folder)
    path = run.folder / "report.html" if path is None else path
    _check_writable(path)
    write_atomic(path, render(run))
    return path


def write_comparison(places: Sequence[Path], *, path: Path | None = None) -> Path:
    """Write one page that compares the runs at and below ``places``, and beside it a folder of its figures.

    ``path``: the page's, by default ``comparison.html`` in the folder that holds all of the runs; the figures go to
    ``PAGE_figures/``. Returns the page's path.

    Raises:
        UserError: a place without a run, a run that did not finish, runs with other metrics, evaluation grids or data
            sources, two runs of one configuration and seed, or a ``path`` that cannot be written. Nothing is written.
    """
    from analysis.load import load_runs
    from dro_lab.record.files import write_atomic
    from dro_lab.report.several import render_comparison

    runs = load_runs(run_folders(places))
    if len(runs) < 2:
        raise UserError(f"{runs[0].folder} is one run, and a comparison takes at least two. Give another beside it.")
    if path is None:
        path = Path(os.path.commonpath([run.folder.resolve().parent for run in runs])) / "comparison.html"
    _check_writable(path)
    write_atomic(path, render_comparison(runs, figures=path.with_name(f"{path.stem}_figures")))
    return path


def run_folders(places: Sequence[Path]) -> list[Path]:
    """The runs at and below ``places``.

    Raises:
        UserError: a place that is not a folder, or adds no run.
    """
    from analysis.load import find_runs, load_runs

    for place in places:
        if not find_runs([place]):
            load_runs([place])  # raises, and says what a run's folder holds
    return find_runs(places)


def _check_writable(path: Path) -> None:
    """Refuse a place for the page before anything is drawn."""
    if path.is_dir():
        raise UserError(f"-o {path} is a folder. Give a file in it, for example {path / 'page.html'}.")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no folder {path.parent}. Make it, or give another place.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"-o {path}: {path.parent} cannot be written. Give another place with -o.")
