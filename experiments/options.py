"""The options of the studies that are grids. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

POLICIES = Path("outputs/short_policies")
"""Where the studies' own policies lie."""


def answer_help(about: str | None) -> None:
    """Print a study's help and leave, where that is all that is asked for."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser(about).print_help()
        sys.exit(0)


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options of a grid (`experiments.grid.main`)."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", help="with commas between them (default: the study's, which its page names)")
    made.add_argument("--settings", help="run these alone; the page shows whatever is there (default: all)")
    made.add_argument("--workers", type=int, default=2, help="runs side by side (default: %(default)s)")
    made.add_argument("--outputs", type=Path, help="where the runs lie (default: a folder below outputs)")
    made.add_argument("--policies", type=Path, default=POLICIES, help="default: %(default)s")
    made.add_argument("--tables-only", action="store_true", help="write page and figure of what is finished")
    made.add_argument("--quick", action="store_true", help="one twin, two seeds, shorter; the page goes to outputs")
    return made
