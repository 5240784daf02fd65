"""What a plain grid says when all its jobs are done: where they lie, and how to compare them."""

from __future__ import annotations

from pathlib import Path

from dro_lab.resume.grid import DONE, status


def say_what_next(folder: Path) -> None:
    """Print where the grid's runs lie and the command that compares them; nothing for fewer than two."""
    runs = [path.parent for path in folder.glob("*/summary.json")]
    done = sum(status(run) in DONE for run in runs)
    left_out = len(runs) - done  # runs that failed, and were run again beside their record
    if done > 1:
        beside = f", and {left_out} that did not come to an end" if left_out else ""
        print(f"grid     {done} runs in {folder}{beside}")
        print(f"compare  python -m dro_lab.report {folder}{' --skip-unfinished' if left_out else ''}")
