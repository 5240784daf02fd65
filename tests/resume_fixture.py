"""Runs that are stopped and go on: a run with memory everywhere, what is compared, and stops at named points."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dro_lab.lab import Run
from dro_lab.record import RunRecord
from dro_lab.training.observer import RunObserver
from tests.cli_fixture import Ended, run_main, small_run

WITH_MEMORY = (
    "steps=7",
    "seed=4",
    "checkpoint.every=2",
    "report=false",
    "dataset.sizes={train: 4, validation: 4, test: 2, ood: 2}",  # an epoch is 4 steps: the run ends in its second
    "filtering=r3_variance",
    "filtering.window=4",
    "filtering.refresh=2",
    "filtering.refill=true",
    "filtering.max_rounds=1",
    "scored_by=lagged",
    "lag=3",
    "keep=best",
    "objective=reward",
    "evaluation.every=3",
    "evaluation.greedy=false",
    "evaluation.also=[]",
    "algorithm.num_iterations=2",  # two updates share a batch: only every second step is a border
    "algorithm.learning_rate=3e-3",
    "algorithm.lr_scheduler_type=linear",
    "rollout.max_completion_length=12",
)
"""Every part of a run that remembers something does so within seven steps."""

TABLES = ("rollouts.parquet", "tokens.parquet", "answers.parquet")


class Killed(BaseException):
    """In the place of a kill: nothing is closed behind it."""


def arguments(policy: Path, folder: str, *more: str) -> list[str]:
    return small_run(policy, [*WITH_MEMORY, f"hydra.run.dir={folder}", *more])


def go(policy: Path, folder: str, *more: str) -> Ended:
    """The command, to its end."""
    ended = run_main(arguments(policy, folder, *more))
    assert ended.code == 0, ended.text
    return ended


def numbers(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of numbers, without those that tell the time."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(("seconds", "time"))} for row in rows]


def facts(folder: Path) -> dict[str, Any]:
    """All that a run must give again to the last digit: numbers as written, tables and weights by their bytes."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    files = (*TABLES, "policy/model.safetensors")
    return {
        "metrics.jsonl": numbers(folder, "metrics.jsonl"),
        "evals.jsonl": numbers(folder, "evals.jsonl"),
        "summary.json": summary,
        **{name: sha256((folder / name).read_bytes()).hexdigest() for name in files},
    }


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The files in which two runs differ."""
    return [name for name in first if first[name] != second[name]]


@contextmanager
def nothing_is_closed(*, closing: bool = False) -> Iterator[None]:
    """A kill closes nothing: no summary, no merged table. ``closing``: but the run was closing when it came."""
    with (
        patch.object(Run, "close_anyway", lambda run, *_: run.record.abandon()),
        nullcontext() if closing else patch.object(RunRecord, "close", lambda record: record.abandon()),
    ):
        yield


@contextmanager
def stopped_at(
    owner: Any,
    name: str,
    *,
    when: Callable[..., bool] = lambda *_, **__: True,
    nth: int = 1,
    behind: bool = False,
    half: Callable[..., Any] | None = None,
    error: BaseException | type[BaseException] = Killed,
) -> Iterator[list[int]]:
    """Within, the ``nth`` call of ``owner.name`` that ``when`` holds for stops the run.

    Args:
        behind: after the call; else in its place.
        half: done in its place first.
        error: what stops it.

    Yields:
        How often that happened.
    """
    original, seen, stops = getattr(owner, name), [0], [0]

    def call(*args: Any, **named: Any) -> Any:
        meant = when(*args, **named)
        seen[0] += meant
        if not (meant and seen[0] == nth):
            return original(*args, **named)
        if behind:
            original(*args, **named)
        if half is not None:
            half(*args, **named)
        stops[0] += 1
        raise error

    with patch.object(owner, name, call):
        yield stops


def kill(policy: Path, folder: str, fault: Any, *more: str, closing: bool = False) -> None:
    """The command, killed within ``fault``."""
    with nothing_is_closed(closing=closing), fault as stops:
        try:
            ended = run_main(arguments(policy, folder, *more))
        except Killed:
            pass
        else:
            raise AssertionError(f"nothing stopped it: {ended.text}")
    assert stops == [1]


def refused(policy: Path, folder: str) -> str:
    """The one message of a run that cannot be written."""
    ended = run_main(arguments(policy, folder))
    assert ended.code == 2, ended.text
    (message,) = ended.err.splitlines()
    assert message.startswith("error: ")
    assert "Traceback" not in ended.text
    return message


def copied(source: Path, target: Path) -> Path:
    """A stopped run's folder once more."""
    return Path(shutil.copytree(source, target))


def said(ended: Ended) -> Sequence[str]:
    """The lines on resuming."""
    return [line for line in ended.out.splitlines() if line.startswith(("resume", "warning: checkpoint"))]


def undisturbed(policy: Path, place: Path) -> dict[str, Any]:
    """The facts of the run ``whole`` in this folder, which nothing disturbs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        go(policy, "whole")
    return facts(place / "whole")


def killed_in_step_7(policy: Path, place: Path) -> Path:
    """The run ``cut`` in this folder: killed when step 7 was done and not yet written, behind step 6's checkpoint."""
    at_7 = stopped_at(RunObserver, "on_step_end", when=lambda self, args, state, *_, **__: state.global_step == 7)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        kill(policy, "cut", at_7)
    return place / "cut"
