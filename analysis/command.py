"""What every ``python -m analysis.FIGURE`` shares: places and options in; figure, page or one message out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.figures import Drawn, check_out, save
from analysis.load import finished_runs, load_runs
from analysis.options import RESAMPLES
from dro_lab.errors import UserError
from dro_lab.record.environment import git_state
from dro_lab.record.read import Run


def as_runs(places: Sequence[Path | str | Run] | Path | str) -> list[Run]:
    """Finished runs: those at and below folders, or runs that were loaded already."""
    if isinstance(places, (str, Path)):
        return load_runs([places])
    loaded = [place for place in places if isinstance(place, Run)]
    return loaded if loaded and len(loaded) == len(places) else load_runs([p for p in places if not isinstance(p, Run)])


def check_statistics(*, confidence: float, resamples: int) -> None:
    """Refuse levels and counts that mean nothing.

    Raises:
        UserError: names the option.
    """
    if not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence:g}: must lie between 0 and 1, for example 0.9.")
    if resamples < 100:
        raise UserError(f"--resamples {resamples}: must be at least 100, for example {RESAMPLES}.")


def run_command(options: argparse.Namespace, draw: Callable[[], Drawn]) -> int:
    """Draw, print the page and write the files; 2 with one message where that cannot be."""
    try:
        if options.out is not None:
            check_out(options.out)
        if options.skip_unfinished:
            options.places = finished_runs(options.places)
        drawn = draw()
        print(drawn.page)
        if options.out is not None:
            for path in save(drawn, options.out):
                print(f"written  {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def origin(runs: Sequence[Run], *, command: str | None) -> str:
    """Where the numbers come from: the command that draws them, the runs' commits and seeds, and this code's commit."""
    commits = sorted({_commit(run.environment.get("git", {})) for run in runs})
    seeds = sorted({int(run.summary["seed"]) for run in runs})
    head = f"Command `{command}`; " if command else ""
    return (
        f"{head}{len(runs)} run{'s' * (len(runs) != 1)}, seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}, "
        f"at commit {', '.join(commits)}; drawn at commit {_commit(git_state())}."
    )


def _commit(git: dict[str, object]) -> str:
    commit = git.get("commit")
    return (str(commit)[:12] if commit else "unknown") + (" with changes" if git.get("dirty") else "")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A markdown table; the columns after the first are numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return [*lines, *("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows), ""]
