"""A disk that takes no more, whoever meets it: one message, and the same command goes on when there is room again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from dro_lab.record.files import JsonLines
from dro_lab.resume import checkpoint
from dro_lab.training.keep import PolicyKeeper
from tests import resume_fixture as stopping
from tests.resume_fixture import refused, stopped_at


@pytest.mark.parametrize("what", ["a checkpoint", "a line", "a table", "the policy"])
def test_a_disk_that_takes_no_more(policy: Path, place: Path, whole: dict[str, Any], what: str) -> None:
    """Whoever meets it, with the errors that the libraries raise: torch's and safetensors' have no number."""
    folder = f"full_{what.split()[-1]}"
    full = OSError(28, "No space left on device", f"{folder}/x")
    said = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    torchs = RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3")
    owner, name, when, error, step = {
        "a checkpoint": (checkpoint, "write_manifest", lambda folder, step: step == 4, torchs, 2),
        "a line": (JsonLines, "append", lambda _, row: "loss" in row and row["step"] == 5, full, 4),
        "a table": (pq, "write_table", lambda table, where, **_: "part-00003" in str(where), full, 2),
        "the policy": (PolicyKeeper, "trained", lambda *_: True, said, 6),
    }[what]
    with stopped_at(owner, name, when=when, error=error) as stops:
        message = refused(policy, folder)
    assert stops == [1]
    assert folder in message
    assert f"the same command then goes on from step {step}" in message
    stopping.go(policy, folder)
    assert stopping.differing(whole, stopping.facts(place / folder)) == []
