"""What goes wrong with several processes ends at once, and is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_fixture import save_policy
from tests.launch.group import run_two
from tests.launch.test_same_numbers import REJECTED, by_one, job

SECONDS = 75
"""Far more than two processes need, and far less than they would wait for each other."""


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path, save_policy(tmp_path / "policy")


def test_ranks_that_make_different_numbers_of_forwards_do_not_pass_unseen(prepared: tuple[Path, Path]) -> None:
    """The guard of `test_a_rank_whose_groups_are_all_rejected_holds_nobody_up`: with texts that the split policy itself
    scores, equally many on both ranks, the same run ends; with more on one of them it fails or waits."""
    folder, policy = prepared
    by_one(folder, policy, "equal", own := [*REJECTED, "scorer.share=false", "scorer.tokens_per_batch=100000"])
    jobs = [
        job(folder, policy, name, "fsdp", own, before=fault, completions=str(folder / "equal.json"))
        for name, fault in (("equal", "score_through_fsdp"), ("unequal", "score_unequally_through_fsdp"))
    ]
    ended = run_two(folder, jobs, timeout=SECONDS)
    assert [json.loads((folder / f"equal_rank{rank}.json").read_text())["code"] for rank in (0, 1)] == [0, 0]
    assert ended.codes != [0, 0]
    assert not (folder / "two_unequal/policy").exists()


def test_a_failure_in_one_process_ends_all(prepared: tuple[Path, Path]) -> None:
    folder, policy = prepared
    by_one(folder, policy, "dies", ["steps=1"])
    ended = run_two(folder, [job(folder, policy, "dies", "ddp", ["steps=1"], before="die")], timeout=SECONDS)
    assert ended.codes[1] not in (0, None)
    assert ended.codes[0] != 0
    assert "planted" in ended.texts[1]
