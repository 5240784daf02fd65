"""Two processes that train together are killed and go on together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import resume_fixture as stopping

LIMIT = 400.0


def started(policy: Path, folder: str) -> subprocess.Popen[str]:
    together = ["launch=ddp", "launch.num_processes=2", "algorithm.use_cpu=true"]
    return subprocess.Popen(
        [sys.executable, "-m", "dro_lab.launch", *stopping.arguments(policy, folder, *together)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.timeout(1200)
def test_both_go_on(policy: Path, place: Path, record_property: Callable[[str, object], None]) -> None:
    whole = started(policy, "both_whole")
    out, _ = whole.communicate(timeout=LIMIT)
    assert whole.returncode == 0, out
    run, metrics = started(policy, "both"), place / "both/metrics.jsonl"
    deadline = time.monotonic() + LIMIT
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.005)
    processes = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    for process in processes:
        process.kill()
    run.communicate(timeout=60)
    again = started(policy, "both")
    out, _ = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, out
    assert "resume   both: goes on from step 4 of 7 (resume=never: a new run)" in out
    assert stopping.differing(*(stopping.facts(place / name) for name in ("both_whole", "both"))) == []
    record_property("printed", "kill -9: 1 of two processes that train together, nothing lost")
