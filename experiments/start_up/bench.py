"""How long it takes to start: ``--cfg job`` and ``--help`` against a bare Hydra application, and a run's first step.

``python -m experiments.start_up.bench`` writes ``results.md`` beside this file. The commands are run in turn, each in a
process of its own, and a ratio is that of medians; processor time is shown beside wall time, since it depends less on
what else the machine does. The first step's time is read from the record of a laptop run (``metrics.jsonl`` counts
from the start of the record, to which the process's own start is added from ``env.json``'s process).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dro_lab.record.environment import git_state

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = ("--cfg job", "--help")
BARE = """\
import hydra


@hydra.main(config_path=".", config_name="config")
def main(cfg):
    pass


if __name__ == "__main__":
    main()
"""
"""The least that Hydra's own manual shows."""


ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""Code that was run once is read back compiled, as anywhere else."""


def spent(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios(rounds: int) -> list[tuple[str, str, float, float, float]]:
    """Rows of flag, clock, seconds of the bare application, seconds of the lab, and their ratio; all medians."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "app.py").write_text(BARE)
        (folder / "config.yaml").write_text("seed: 0\n")
        for flag in FLAGS:
            bare, lab = ([sys.executable, *head, *flag.split()] for head in (["app.py"], ["-m", "dro_lab.run"]))
            times: dict[str, list[tuple[float, float]]] = {"bare": [], "lab": []}
            for number in range(rounds + 1):
                taken = {"bare": spent(bare, folder), "lab": spent(lab, folder)}
                if number:  # the first one fills the disk's cache
                    for name, value in taken.items():
                        times[name].append(value)
            for place_, clock in enumerate(("wall", "processor")):
                first, second = (statistics.median(item[place_] for item in times[name]) for name in ("bare", "lab"))
                rows.append((flag, clock, first, second, second / first))
    return rows


def first_steps(runs: int) -> tuple[float, float]:
    """Medians of `first_step`; one more run, which compiles and fills the disk's cache, is not counted."""
    found = [first_step() for _ in range(runs + 1)][1:]
    return statistics.median(begin for begin, _ in found), statistics.median(end for _, end in found)


def first_step() -> tuple[float, float]:
    """Seconds from the command to the first training step's begin and to its end, of the laptop run as it comes."""
    with tempfile.TemporaryDirectory() as place:
        began = time.time()
        command = [sys.executable, "-m", "dro_lab.run", "steps=1", "report=false", "hydra.run.dir=run"]
        subprocess.run(
            command, cwd=place, check=True, stdout=subprocess.DEVNULL, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        )
        folder = Path(place) / "run"
        record = (folder / "config.yaml").stat().st_mtime - began  # the first thing that is written
        row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        ended = record + row["seconds"]
        return ended - row["step_time"], ended


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.start_up.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each command (one more is not counted)")
    parser.add_argument("--runs", type=int, default=3, help="laptop runs (one more is not counted)")
    options = parser.parse_args()
    rounds, runs = options.rounds, options.runs
    lines = ["| | clock | bare Hydra | dro_lab | ratio |", "|---|---|---|---|---|"]
    lines += [
        f"| `{flag}` | {clock} | {bare:.2f} s | {lab:.2f} s | {ratio:.2f} |"
        for flag, clock, bare, lab, ratio in ratios(rounds)
    ]
    begins, ends = first_steps(runs)
    state = git_state(ROOT)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    text = "\n".join(
        [
            "# Start-up",
            "",
            f"`python -m experiments.start_up.bench --rounds {rounds} --runs {runs}`; medians, interleaved; commit "
            f"{str(state['commit'])[:7]}; {os.cpu_count()} cores, load {load} at the end.",
            "",
            *lines,
            "",
            f"The laptop run (`python -m dro_lab.run`, evaluation before training included): its first training step "
            f"begins {begins:.1f} s after the command and ends after {ends:.1f} s.",
            "",
        ]
    )
    (HERE / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
