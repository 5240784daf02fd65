"""Grids of runs, and processes that start in the same second: each job goes on where it was, each has a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dro_lab.training.observer import RunObserver
from tests import resume_fixture as stopping
from tests.cli_fixture import run_main
from tests.invariants.test_resume_place import at_step_2, command, resumed, runs
from tests.resume_fixture import stopped_at


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folder: None) -> None:
    monkeypatch.chdir(tmp_path)


def cut_grid(policy: Path) -> tuple[list[str], Path, Path]:
    """A grid of three whose second job was killed in its second step: the command, the finished job and the cut one."""
    grid = ["--multirun", *command(policy, "seed=1,2,3")]
    at_2 = stopped_at(RunObserver, "on_step_end", when=at_step_2, nth=2)
    with stopping.nothing_is_closed(), at_2, pytest.raises(stopping.Killed):
        run_main(grid)
    before = runs()
    assert list(before.values()) == ["finished", "running"]
    finished, cut = before
    time.sleep(1.1)  # a new grid would have another name
    return grid, finished, cut


def grids() -> list[Path]:
    return sorted(Path("outputs").glob("20*/*_multirun*"))


def test_a_grid_goes_on_job_by_job(policy: Path) -> None:
    """The finished job stays as it is, the killed one goes on where it was, the third one begins."""
    grid, finished, cut = cut_grid(policy)
    digest = (finished / "summary.json").read_bytes()
    ended = run_main(grid)
    assert ended.code == 0, ended.text
    lines = ended.out.splitlines()
    assert f"grid     {finished.parent}: goes on, 1 of its jobs done before (resume=never: a new grid)" in lines
    assert f"done     {finished}: this job of the grid had finished" in lines
    assert resumed(ended) == [f"resume   {cut}: goes on from step 1 of 3 (resume=never: a new run)"]
    assert f"grid     3 runs in {finished.parent}" in lines
    assert [folder.name for folder in runs()] == [f"{number}_r3_pararev_s{number + 1}" for number in range(3)]
    assert set(runs().values()) == {"finished"}
    assert grids() == [finished.parent]
    assert (finished / "summary.json").read_bytes() == digest
    assert not [*finished.parent.rglob("*.lock")]
    alone = run_main(command(policy, "seed=2", "hydra.run.dir=alone"))
    assert alone.code == 0
    assert stopping.numbers(cut, "metrics.jsonl") == stopping.numbers(Path("alone"), "metrics.jsonl")


def test_a_grid_that_came_to_its_end_is_not_used_again_nor_is_another_ones(policy: Path) -> None:
    """Another grid and ``resume=never`` begin anew beside a cut one; one that is done is never gone on with."""
    grid, finished, cut = cut_grid(policy)
    for number, arguments in enumerate(
        [[*grid, "resume=never", "steps=0"], [*grid[:-1], "seed=1,2", "steps=0"], [*grid[:-1], "seed=1,2", "steps=0"]]
    ):
        time.sleep(1.1)
        ended = run_main(arguments)
        assert ended.code == 0, ended.text
        assert "goes on" not in ended.out
        assert "had finished" not in ended.out
        assert len(grids()) == number + 2
    assert runs()[cut] == "running"
    assert (finished.parent / "grid.lock").exists()


def test_a_job_that_failed_is_run_again_beside_its_record(policy: Path) -> None:
    grid = ["--multirun", *command(policy, "seed=1,2", "steps=1")]

    def fails(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError("the second job breaks")

    before, calls = RunObserver.on_step_end, []

    def second_fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return before(self, *args, **kwargs) if len(calls) == 1 else fails(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunObserver, "on_step_end", second_fails)
        assert run_main(grid).code == 1
    assert list(runs().values()) == ["finished", "failed"]
    time.sleep(1.1)
    ended = run_main(grid)
    assert ended.code == 0, ended.text
    assert {folder.name: status for folder, status in runs().items()} == {
        "0_r3_pararev_s1": "finished",
        "1_r3_pararev_s2": "failed",
        "1_r3_pararev_s2_2": "finished",
    }
    assert len(grids()) == 1


@pytest.mark.tried("kills")
@pytest.mark.timeout(600)
def test_a_grid_of_several_processes_goes_on_too(policy: Path) -> None:
    """kill -9 of the command while its second job trains under joblib; typed again, the first stays."""
    launched = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    grid = ["--multirun", *command(policy, "seed=1,2", "steps=8"), *launched]
    at_work = subprocess.Popen(
        [sys.executable, "-m", "dro_lab.run", *grid], env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    try:
        until(lambda: list(runs().values()) == ["finished", "running"], seconds=200)
    finally:
        os.killpg(at_work.pid, signal.SIGKILL)
        at_work.wait()
    finished, _ = runs()
    ended = process(grid)
    assert ended.returncode == 0, ended.stderr
    assert f"done     {finished}: this job of the grid had finished" in ended.stdout
    assert list(runs().values()) == ["finished", "finished"]
    assert f"grid     2 runs in {finished.parent}" in ended.stdout
    assert len(grids()) == 1


def until(there: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.1)


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
