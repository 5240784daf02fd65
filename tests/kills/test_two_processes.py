"""Two processes that train together are killed, or interrupted, and go on together."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from dro_lab.record.read import load_run
from tests import resume_fixture as stopping

LIMIT = 400.0
TOGETHER = ("launch=ddp", "launch.num_processes=2", "algorithm.use_cpu=true")
LOOKS = '''
"""Python imports this first: each process notes how many there are and how its policy is wrapped, once it trains."""
import json, os, pathlib
import dro_lab.launch.world as world

check = world.check_wrapped

def noting(trainer, *rest):
    check(trainer, *rest)
    kinds = [kind.__name__ for kind in type(trainer.model_wrapped).__mro__]
    state = trainer.accelerator
    note = {"rank": state.process_index, "processes": state.num_processes, "wrapper": kinds}
    pathlib.Path(os.environ["NOTES"], f"{os.getpid()}.json").write_text(json.dumps(note))

world.check_wrapped = noting
'''


def started(line: Sequence[str], notes: Path) -> subprocess.Popen[str]:
    """The command, which notes how its processes were wrapped."""
    looks = notes.parent / "looks"
    for folder in (notes, looks):
        folder.mkdir(exist_ok=True)
    (looks / "sitecustomize.py").write_text(LOOKS)
    return subprocess.Popen(
        line,
        cwd=notes.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NOTES": str(notes), "PYTHONPATH": str(looks)},
    )


def launch(policy: Path, place: Path, folder: str, name: str) -> subprocess.Popen[str]:
    arguments = stopping.arguments(policy, folder, *TOGETHER)
    return started([sys.executable, "-m", "dro_lab.launch", *arguments], place / f"notes_{name}")


def ended(run: subprocess.Popen[str]) -> str:
    out, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, out
    return out


def rows(run: subprocess.Popen[str], metrics: Path, count: int) -> None:
    """Wait until so many steps are written."""
    deadline = time.monotonic() + LIMIT
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.005)


def assert_two(place: Path, name: str) -> None:
    found = [json.loads(path.read_text()) for path in (place / f"notes_{name}").glob("*.json")]
    assert sorted((note["rank"], note["processes"]) for note in found) == [(0, 2), (1, 2)]
    assert all("DistributedDataParallel" in note["wrapper"] for note in found)


@pytest.fixture(scope="module")
def together(policy: Path, place: Path) -> dict[str, Any]:
    """The facts of the run of two processes that nothing stopped."""
    ended(launch(policy, place, "both_whole", "whole"))
    assert_two(place, "whole")
    return stopping.facts(place / "both_whole")


@pytest.mark.tried("kills")
@pytest.mark.timeout(1200)
def test_both_go_on(policy: Path, place: Path, together: dict[str, Any]) -> None:
    run = launch(policy, place, "both", "killed")
    rows(run, place / "both/metrics.jsonl", 5)
    processes = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    for process in processes:
        process.kill()
    run.communicate(timeout=60)
    out = ended(launch(policy, place, "both", "again"))
    assert "resume   both: goes on from step 4 of 7 (resume=never: a new run)" in out
    for name in ("killed", "again"):
        assert_two(place, name)
    assert stopping.differing(together, stopping.facts(place / "both")) == []


@pytest.mark.tried("faults")
@pytest.mark.timeout(1200)
def test_ctrl_c_saves_and_says_how_both_go_on(policy: Path, place: Path, together: dict[str, Any]) -> None:
    """As a terminal does: the command that was typed gets the signal, its processes have a session of their own."""
    run = launch(policy, place, "pressed", "pressed")
    rows(run, place / "pressed/metrics.jsonl", 1)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 130, out
    assert "Traceback" not in out
    *_, command, where = out.splitlines()
    assert command.startswith("go on    python -m dro_lab.launch ")
    assert where.startswith("         (from step ")
    assert json.loads((place / "pressed/summary.json").read_text())["status"] == "interrupted"
    line = shlex.split(command.removeprefix("go on    python "))
    assert json.loads((place / "pressed/env.json").read_text())["command"] == shlex.join(["python", *line])
    assert "resume   pressed: goes on from step" in ended(started([sys.executable, *line], place / "notes_on"))
    for name in ("pressed", "on"):
        assert_two(place, name)
    found = stopping.facts(place / "pressed")
    assert set(stopping.differing(together, found)) <= set(stopping.TABLES), "those are cut in other parts"
    first, second = load_run(place / "both_whole"), load_run(place / "pressed")
    for name in ("rollouts", "tokens", "answers"):
        assert getattr(first, name).equals(getattr(second, name))
