"""Grids of runs, and processes that start in the same second: each job goes on where it was, each has a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dro_lab.training.observer import RunObserver
from tests import resume_fixture as stopping
from tests.cli_fixture import run_main
from tests.invariants.test_resume_place import at_step_2, command, resumed, runs
from tests.resume_fixture import stopped_at


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folder: None) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_grid_resumes_each_job_where_it_was(policy: Path) -> None:
    """The killed job goes on in its own folder; a finished one is not used again."""
    grid = ["--multirun", *command(policy, "seed=1,2,3")]
    at_2 = stopped_at(RunObserver, "on_step_end", when=at_step_2, nth=2)
    with stopping.nothing_is_closed(), at_2, pytest.raises(stopping.Killed):
        run_main(grid)
    before = runs()
    assert list(before.values()) == ["finished", "running"]
    finished, cut = before
    digest = (finished / "summary.json").read_bytes()
    time.sleep(1.1)
    ended = run_main(grid)
    assert ended.code == 0, ended.text
    assert resumed(ended) == [f"resume   {cut}: goes on from step 1 of 3 (resume=never: a new run)"]
    assert set(runs().values()) == {"finished"}
    assert (finished / "summary.json").read_bytes() == digest
    new = [folder for folder in runs() if folder.parent != cut.parent]
    assert [folder.name for folder in new] == ["0_r3_pararev_s1", "2_r3_pararev_s3"]
    alone = run_main(command(policy, "seed=2", "hydra.run.dir=alone"))
    assert alone.code == 0
    assert stopping.numbers(cut, "metrics.jsonl") == stopping.numbers(Path("alone"), "metrics.jsonl")


def process(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dro_lab.run", *arguments],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.timeout(900)
def test_processes_of_one_second_get_folders_of_their_own(policy: Path) -> None:
    """Two runs and two grids at once, of one configuration, with a clock that stands still."""
    still = ["hydra.run.dir=${run_folder:outputs/2026-01-01/12-00-00_x}", "steps=0"]
    grids = [
        "--multirun", "hydra.sweep.dir=${grid_folder:outputs/2026-01-01/12-00-00_multirun}", "steps=0", "seed=1,2",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=1",
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(process, [command(policy, *more) for more in (still, still, grids, grids)]))
    assert [done.returncode for done in ended] == [0] * 4, ended[0].stderr + ended[2].stderr
    found = sorted(str(folder.relative_to("outputs/2026-01-01")) for folder in runs())
    assert found == [
        "12-00-00_multirun/0_r3_pararev_s1", "12-00-00_multirun/1_r3_pararev_s2",
        "12-00-00_multirun_2/0_r3_pararev_s1", "12-00-00_multirun_2/1_r3_pararev_s2",
        "12-00-00_x", "12-00-00_x_2",
    ]  # fmt: skip
