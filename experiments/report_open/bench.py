"""``python -m experiments.report_open.bench RUN``: how long a report with 2,000 rollouts takes to open in Chromium.

The run's rollouts are repeated, step after step, until there are as many as asked for, and its page is written from
them. Each opening is a fresh browser context. The clock runs from before the browser is told to go there until the
first rows of both browsers (rollouts and answers) stand on the page, so the tool's own latency is in it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dro_lab.errors import UserError
from dro_lab.record.environment import git_state
from dro_lab.record.read import Run, load_run
from dro_lab.report.single import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = "[data-source=data-rollouts] details.row"


def tiled(rollouts: pd.DataFrame, count: int, *, characters: int) -> pd.DataFrame:
    """``count`` rollouts: the frame again and again, each copy with steps and texts of its own.

    ``characters``: reasonings are lengthened to this many, for policies that think longer than the shipped ones.
    """
    copies = []
    for copy in range(-(-count // len(rollouts))):
        frame = rollouts.assign(step=rollouts["step"] + copy * (int(rollouts["step"].max()) + 1))
        for name in ("reasoning", "answer"):
            frame[name] = [f"{text} [{copy}-{row}]" for row, text in enumerate(frame[name])]
        frame["reasoning"] = [
            (text * (characters // max(len(text), 1) + 1))[: max(characters, len(text))] for text in frame["reasoning"]
        ]
        copies.append(frame)
    return pd.concat(copies, ignore_index=True).head(count)


def page(run: Run, folder: Path, *, count: int, characters: int) -> Path:
    """Write the run's page as if it had sampled ``count`` rollouts."""
    path = folder / f"report_{count}_{characters}.html"
    many = replace(run, folder=folder, rollouts=tiled(run.rollouts, count, characters=characters))
    path.write_text(render(many), encoding="utf-8")
    return path


def shown(path: Path) -> int:
    """Rollouts that the page holds."""
    found = re.search(r'id="data-rollouts">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    return int(json.loads(found[1])["count"]) if found else 0


def openings(path: Path, *, times: int) -> list[float]:
    """Seconds of each opening."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise UserError(f"no browser: none of {', '.join(BROWSERS)} is installed. Install one, for example chromium.")
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for _ in range(times + 1):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            opened = context.new_page()
            start = time.perf_counter()
            opened.goto(path.resolve().as_uri(), wait_until="commit")
            opened.locator(READY).first.wait_for()
            seconds.append(time.perf_counter() - start)
            context.close()
        browser.close()
    return seconds[1:]  # the first one starts the browser's own processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a page; 2 where it cannot be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report_open.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with rollouts")
    parser.add_argument("--rollouts", type=int, default=2000, help="on the page (default: %(default)s)")
    parser.add_argument("--times", type=int, default=10, help="openings of each page (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        run = load_run(options.run)
        if run.rollouts.empty:
            raise UserError(f"{options.run} holds no rollouts. Give a run that trained at least one step.")
        commit = str(git_state()["commit"])[:12]
        print(f"{options.rollouts} rollouts, {options.times} openings of each page, commit {commit}")
        with tempfile.TemporaryDirectory() as folder:
            for words, characters in (
                ("as sampled", 0),
                ("reasonings of 4,000 characters", 4000),
                ("reasonings of 12,000", 12000),
            ):
                path = page(run, Path(folder), count=options.rollouts, characters=characters)
                seconds = openings(path, times=options.times)
                print(
                    f"{words}: {shown(path):,} rollouts on the page, {path.stat().st_size / 1e6:.1f} MB, "
                    f"median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s"
                )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
