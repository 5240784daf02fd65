"""``python -m dro_lab.report RUN ...``: write the page of one run again, or one page that compares several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dro_lab.errors import UserError

EPILOG = """\
One run: report.html in its folder. Several: comparison.html in the folder that holds them all; they must have the
same metric, evaluation grid and data source. A folder above runs (a grid, a day, the trials of a
sweep) stands for all of them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; 2 with one message where it cannot be."""
    options = _parser().parse_args(arguments)
    try:
        if options.skip_unfinished:
            from analysis.load import finished_runs

            options.runs = finished_runs(options.runs)
        if options.each:
            return _each(options.runs, options.out)
        print(_write(options.runs, options.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the page was not written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dro_lab.report",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or any folder above runs")
    parser.add_argument("-o", "--out", type=Path, metavar="PAGE", help="where the page goes (.html)")
    parser.add_argument("--skip-unfinished", action="store_true", help="leave unfinished runs out, and name them")
    parser.add_argument(
        "--each", action="store_true", help="write every run's own report.html again instead of a comparison"
    )
    return parser


def _write(places: Sequence[Path], out: Path | None) -> Path:
    from dro_lab.report import run_folders, write_comparison, write_report

    folders = run_folders(places)
    return write_report(folders[0], path=out) if len(folders) == 1 else write_comparison(folders, path=out)


def _each(places: Sequence[Path], out: Path | None) -> int:
    """Every run is tried; the status is 2 where one could not be written."""
    from dro_lab.report import run_folders, write_report

    if out is not None:
        raise UserError(f"-o {out}: with --each every page goes into its run's folder. Leave one of the two out.")
    status = 0
    for folder in run_folders(places):
        try:
            print(write_report(folder))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
