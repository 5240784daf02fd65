"""Six real kill -9 of one run, at moments drawn from a seed: the same command, again and again, ends with the numbers
of a run that nothing disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import resume_fixture as stopping

SEED = 20260
LONG = ("steps=23", "evaluation.every=5", "dataset.sizes={train: 8, validation: 4, test: 2, ood: 2}")
LIMIT = 240.0
AIMS = ("any moment", "a step", "a checkpoint", "an evaluation", "a checkpoint", "a step")


class Watched:
    """The command as a process, looked at while it runs."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.folder = folder
        self.lines_before = self._lines()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dro_lab.run", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until it holds; False where the process ended before."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            if holds():
                return True
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.0005)
        return False

    def new_lines(self) -> int:
        """Rows of metrics that this process wrote: the record is cut first, so it is those behind the last mark."""
        return self._lines() - self.lines_before

    def writes_checkpoint(self) -> bool:
        return any((self.folder / "trainer").glob("checkpoint-*"))

    def evaluates(self) -> bool:
        """Behind the row of a step that is evaluated, before the next one."""
        return self._lines() % 5 == 0 and self.new_lines() > 0

    def kill(self) -> str:
        self.process.send_signal(signal.SIGKILL)
        out, _ = self.process.communicate(timeout=60)
        return out

    def _lines(self) -> int:
        file = self.folder / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0


def aimed(run: Watched, aim: str, chance: random.Random) -> bool:
    """Wait for what is aimed at, and a little longer; False where the run ended first."""
    if aim == "any moment":
        return run.until((run.folder / "config.yaml").exists) and not time.sleep(chance.uniform(0, 2))
    if aim == "a step":
        wanted = chance.randint(2, 4)
        return run.until(lambda: run.new_lines() >= wanted) and not time.sleep(chance.uniform(0, 0.15))
    if aim == "an evaluation":
        return run.until(run.evaluates) and not time.sleep(chance.uniform(0, 0.03))
    return run.until(run.writes_checkpoint) and not time.sleep(chance.uniform(0, 0.01))


@pytest.mark.tried("kills", len(AIMS))
@pytest.mark.timeout(1500)
def test_six_kills(
    policy: Path, place: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    stopping.go(policy, "long", *LONG)
    chance = random.Random(SEED)
    arguments = [a for a in stopping.arguments(policy, "killed", *LONG) if a != "tracking=none"]
    folder, kills, resumed = place / "killed", [], 0
    for aim in AIMS:
        run = Watched(arguments, folder)
        assert aimed(run, aim, chance), run.process.communicate()[0]
        out = run.kill()
        kills.append(aim)
        resumed += "resume   killed: " in out
    ended = subprocess.run(
        [sys.executable, "-m", "dro_lab.run", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "resume   killed: goes on from step" in ended.stdout
    assert len(kills) == 6
    assert resumed == 5, "each but the first went on where the one before it was killed"
    first, second = stopping.facts(place / "long"), stopping.facts(folder)
    assert stopping.differing(first, second) == []
    client = MlflowClient(f"sqlite:///{place}/outputs/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "pararev"]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    history = {point.step: point.value for point in client.get_metric_history(tracked.info.run_id, "loss")}
    assert history == {row["step"]: row["loss"] for row in first["metrics.jsonl"]}
    steps = len(first["metrics.jsonl"])
    record_property("printed", f"kill -9: {len(kills)} ({', '.join(kills)}) in one run of {steps} steps, nothing lost")
