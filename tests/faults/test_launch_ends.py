"""How `python -m dro_lab.launch` ends when its processes do: a status and at most a line, no launcher's traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import accelerate.commands.launch as launcher
import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig

from dro_lab.launch.__main__ import _accelerate
from dro_lab.record.environment import command_line

VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
OPTIONS = ["--num_processes", "2", "-m", "dro_lab.run", "launch=ddp"]


def ends_with(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[int]:
    """accelerate's launcher ends so; gives the seconds that it would leave its processes."""
    patience: list[int] = []

    def launch_command(args: Any) -> None:
        assert (args.num_processes, args.training_script) == (2, "dro_lab.run")
        patience.append(LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2).shutdown_timeout)
        if error is not None:
            raise error

    monkeypatch.setattr(launcher, "launch_command", launch_command)
    return patience


@pytest.fixture(autouse=True)
def _own_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    os.environ.pop(VARIABLE, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (SignalException("", signal.SIGINT), 130), (SignalException("", signal.SIGTERM), 143)],
)
def test_a_signal_is_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None, status: int
) -> None:
    """torch's launcher would kill after 30 seconds what has not ended: less than a step may take."""
    patience = ends_with(monkeypatch, error)
    assert _accelerate(OPTIONS) == status
    assert patience == [3600]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize(
    ("code", "status", "said"), [(2, 2, "ended with status 2"), (-9, 137, "was killed by signal 9")]
)
def test_a_process_that_failed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, status: int, said: str
) -> None:
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=code, error_file="")
    ends_with(monkeypatch, ChildFailedError("x", {1: failure}))
    assert _accelerate(OPTIONS) == status
    assert capsys.readouterr().err == f"process 1 {said}; what it said stands above\n"


@pytest.mark.parametrize(("size", "module"), [("1", "dro_lab.run"), ("2", "dro_lab.launch"), (None, "dro_lab.run")])
def test_the_command_of_one_process_of_several_starts_them_all(
    monkeypatch: pytest.MonkeyPatch, size: str | None, module: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=SimpleNamespace(name="dro_lab.run")))
    monkeypatch.setattr(sys, "argv", ["/x/dro_lab/run.py", "launch=ddp", "seed=1 2"])
    assert command_line() == f"python -m {module} launch=ddp 'seed=1 2'"
