"""What a plain grid says when all its jobs are done: where they lie, and how to compare them."""

from __future__ import annotations

from pathlib import Path


def say_what_next(folder: Path) -> None:
    """Print where the grid's runs lie and the command that compares them; nothing for fewer than two."""
    runs = list(folder.glob("*/summary.json"))
    if len(runs) > 1:
        print(f"grid     {len(runs)} runs in {folder}\ncompare  python -m dro_lab.report {folder}")
