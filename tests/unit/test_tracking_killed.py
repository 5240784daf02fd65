"""Runs whose process was killed are ended by the next start; all others are left alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dro_lab.tracking.killed import close_killed, is_gone, process_tags
from tests.tracking_fixture import empty_database

ME = process_tags()


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{empty_database(tmp_path)}")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A live process of this host."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def tags_of(pid: int) -> dict[str, str]:
    return ME | {"process.pid": str(pid), "process.start": str(psutil.Process(pid).create_time())}


def test_a_process_is_gone_when_its_number_or_its_start_is(other: subprocess.Popen[bytes]) -> None:
    tags = tags_of(other.pid)
    assert int(ME["process.pid"]) == os.getpid()
    assert not is_gone(ME)
    assert not is_gone(tags)
    assert is_gone(tags | {"process.start": str(float(tags["process.start"]) - 60)}), "the number was used again"
    other.send_signal(signal.SIGKILL)
    psutil.wait_procs([psutil.Process(other.pid)], timeout=10)  # leaves no zombie behind
    assert is_gone(tags)
    assert not is_gone(tags | {"process.host": "another" + socket.gethostname()}), "another host's is not ours to judge"


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tags = tags_of(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and kept as a zombie
    assert is_gone(tags)
    process.communicate()


@pytest.mark.parametrize("changed", [{"process.pid": "many"}, {"process.start": ""}])
def test_what_the_tags_do_not_say_is_not_gone(changed: Mapping[str, str]) -> None:
    assert not is_gone(ME | changed)
    assert not is_gone({})


def test_only_runs_of_dead_processes_of_this_host_are_ended(
    client: MlflowClient, other: subprocess.Popen[bytes]
) -> None:
    dead = ME | {"process.start": "1.0"}
    elsewhere = dead | {"process.host": "elsewhere"}
    first, second = (client.create_experiment(name) for name in ("pararev", "finqa"))
    left = [client.create_run(first, tags=tags).info.run_id for tags in (ME, tags_of(other.pid), elsewhere, {})]
    parent = client.create_run(first, run_name="sweep", tags=ME).info.run_id
    trial = client.create_run(first, tags=dead | {"mlflow.parentRunId": parent}).info.run_id
    silent = client.create_run(second, tags=dead, start_time=5_000).info.run_id
    for step in range(3):
        client.log_metric(trial, "reward", 0.5, timestamp=10_000_000_000_000 + step, step=step)
    finished = client.create_run(first, tags=dead).info.run_id
    client.set_terminated(finished, "FINISHED")

    assert sorted(close_killed(client)) == sorted([trial, silent])
    for run_id in (trial, silent):
        run = client.get_run(run_id)
        assert run.info.status == "KILLED"
        assert (
            run.data.tags["killed"] == f"process {os.getpid()} ended without closing the run; found by the next start"
        )
    assert client.get_run(trial).info.end_time == 10_000_000_000_002, "its last sign of life"
    assert client.get_run(silent).info.end_time == 5_000
    assert {client.get_run(run_id).info.status for run_id in (*left, parent)} == {"RUNNING"}
    assert client.get_run(finished).info.status == "FINISHED"
    assert close_killed(client) == []


def test_a_run_that_may_not_be_ended_is_named(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client.create_run(client.create_experiment("guarded"), run_name="theirs", tags=ME | {"process.start": "1.0"})

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_terminated", refuse)
        with caplog.at_level(logging.WARNING):
            assert close_killed(client) == []
    assert "run theirs was killed and cannot be closed in MLflow: permission denied" in caplog.text
    assert len(close_killed(client)) == 1
