"""A disk that takes no more, whoever meets it: one message, and the same command goes on when there is room again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from dro_lab.record.files import JsonLines
from dro_lab.resume import checkpoint
from dro_lab.training.keep import PolicyKeeper
from dro_lab.training.observer import RunObserver
from tests import resume_fixture as stopping
from tests.resume_fixture import refused, stopped_at


@pytest.mark.parametrize("what", ["a checkpoint", "a line", "a table", "the policy", "a device that is gone"])
@pytest.mark.tried("faults")
def test_a_disk_that_takes_no_more(policy: Path, place: Path, whole: dict[str, Any], what: str) -> None:
    """Whoever meets it, with the errors that the libraries raise: torch's and safetensors' have no number."""
    folder = f"full_{what.split()[-1]}"
    full = OSError(28, "No space left on device", f"{folder}/x")
    said = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    stale = OSError(116, "Stale file handle")  # of an open file: no name, known by who wrote
    torchs = RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3")
    owner, name, when, error, step = {
        "a checkpoint": (checkpoint, "write_manifest", lambda folder, step: step == 4, torchs, 2),
        "a line": (JsonLines, "append", lambda _, row: "loss" in row and row["step"] == 5, full, 4),
        "a table": (pq, "write_table", lambda table, where, **_: "part-00003" in str(where), full, 2),
        "the policy": (PolicyKeeper, "trained", lambda *_: True, said, 6),
        "a device that is gone": (JsonLines, "append", lambda _, row: "loss" in row and row["step"] == 5, stale, 4),
    }[what]
    with stopped_at(owner, name, when=when, error=error) as stops:
        message = refused(policy, folder)
    assert stops == [1]
    assert folder in message
    assert f"the same command then goes on from step {step}" in message
    stopping.go(policy, folder)
    assert stopping.differing(whole, stopping.facts(place / folder)) == []


NOBODY = 65534


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within, nothing may be made in this folder; who is root, whom permissions do not bind, is not root within."""
    root = os.geteuid() == 0
    found = [folder, *(path for path in folder.rglob("*"))]
    for path in found:
        if root:
            os.chown(path, NOBODY, -1)
        path.chmod(0o555 if path.is_dir() else 0o644)
    if root:
        for above in folder.parents:
            if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in found:
            if path.exists():
                path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.tried("faults")
def test_a_folder_that_becomes_read_only(
    policy: Path, place: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions, for real, from step 5 on: one message, the checkpoint of step 4 stays, and the run goes on."""
    folder = place / "denied"
    ends = RunObserver.on_step_end
    with ExitStack() as denied:

        def close(self: RunObserver, args: Any, state: Any, *more: Any, **named: Any) -> None:
            if state.global_step == 5 and not closed:
                closed.append(1)
                denied.enter_context(read_only(folder))
            ends(self, args, state, *more, **named)

        closed: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(RunObserver, "on_step_end", close)
            message = refused(policy, "denied")
    assert closed == [1]
    assert "denied" in message
    assert "Permission denied" in message
    assert "make the folder writable; the same command then goes on from step 4" in message
    assert json.loads((folder / "summary.json").read_text())["status"] in ("running", "interrupted")
    ended = stopping.go(policy, "denied")
    assert stopping.said(ended) == ["resume   denied: goes on from step 4 of 7 (resume=never: a new run)"]
    assert stopping.differing(whole, stopping.facts(folder)) == []
