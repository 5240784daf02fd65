"""``python -m dro_lab.report RUN ...``: write the report of one run or of several again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dro_lab.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write each run's report and print its path; 2 if one could not be written."""
    parser = argparse.ArgumentParser(prog="python -m dro_lab.report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, for example outputs/DATE/RUN"
    )
    folders = parser.parse_args(arguments).runs
    from dro_lab.report import write_report

    status = 0
    for folder in folders:
        try:
            print(write_report(folder))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
