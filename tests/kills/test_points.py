"""Faults at named points of a run: whatever it was doing when it was killed, the same command ends with the numbers of
an undisturbed run, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import Trainer

from dro_lab.evaluation.evaluate import Evaluator
from dro_lab.record.files import JsonLines, ParquetParts
from dro_lab.resume import checkpoint, steps
from dro_lab.tracking.none import NoTracker
from dro_lab.training import keep
from dro_lab.training.empty_update import SkipEmptyUpdate
from dro_lab.training.keep import PolicyKeeper
from dro_lab.training.observer import RunObserver
from dro_lab.training.rollouts import RolloutScorer
from dro_lab.training.trainer import LabTrainer
from tests import resume_fixture as stopping
from tests.resume_fixture import stopped_at


def at_step(step: int) -> Callable[..., bool]:
    """Of a callback of the trainer."""
    return lambda self, args, state, *_, **__: state.global_step == step


def training_at(step: int) -> Callable[..., bool]:
    """Of a method of the trainer, while it trains."""
    return lambda self, *_, **__: self.model.training and self.state.global_step == step


def half_a_line(lines: JsonLines, row: Any) -> None:
    lines._file.write('{"step": 5, "lo')
    lines._file.flush()


def half_a_file(folder: Path, *_: Any, **__: Any) -> None:
    (Path(folder) / "lab.json").write_text('{"step": 4, "par')


POINTS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "before the first step": (lambda: stopped_at(RunObserver, "on_train_begin"), None),
    "while the first policy is evaluated": (lambda: stopped_at(Evaluator, "__call__", behind=True), None),
    "while sampling": (lambda: stopped_at(LabTrainer, "_generate_single_turn", when=training_at(4), behind=True), 4),
    "while scoring, the filter's memory moved on": (
        lambda: stopped_at(RolloutScorer, "score", when=lambda *_, **named: named["step"] == 4, behind=True), 4,
    ),
    "after rewards, before the optimizer": (
        lambda: stopped_at(SkipEmptyUpdate, "on_pre_optimizer_step", when=at_step(4), behind=True), 4,
    ),
    "after the optimizer, before the log": (lambda: stopped_at(RunObserver, "on_step_end", when=at_step(6)), 4),
    "in the middle of a line of metrics": (
        lambda: stopped_at(
            JsonLines, "append", when=lambda _, row: "loss" in row and row["step"] == 5, half=half_a_line
        ), 4,
    ),
    "after a line of metrics, before its tracker": (
        lambda: stopped_at(NoTracker, "metrics", when=lambda *_, step, **__: step == 5), 4,
    ),
    "between a part of the rollouts and its name": (lambda: stopped_at(pq, "write_table", nth=6, behind=True), 2),
    "in the middle of an evaluation's rows": (
        lambda: stopped_at(
            JsonLines, "append", when=lambda _, row: row.get("metric") == "reward" and row["step"] == 6
        ), 4,
    ),
    "while the best policy is replaced": (
        lambda: stopped_at(
            keep.shutil, "rmtree", when=lambda path, **_: Path(path).name == "policy" and Path(path).exists(),
            behind=True,
        ), 2,
    ),
    "a checkpoint has weights, and no optimizer yet": (
        lambda: stopped_at(Trainer, "_save_optimizer_and_scheduler", nth=2), 2,
    ),
    "a checkpoint's own state is half written": (
        lambda: stopped_at(steps, "write_state", nth=2, half=half_a_file), 2,
    ),
    "a checkpoint is written, and has no manifest yet": (
        lambda: stopped_at(checkpoint, "write_manifest", nth=2), 2,
    ),
    "a checkpoint is whole, and has no name yet": (
        lambda: stopped_at(checkpoint, "write_manifest", nth=2, behind=True), 2,
    ),
    "a checkpoint has its name, older ones stand beside it": (
        lambda: stopped_at(checkpoint, "sync_folder", when=lambda path: path.name == "checkpoints", nth=3), 6,
    ),
    "while an older checkpoint is removed": (
        lambda: stopped_at(
            checkpoint.shutil, "rmtree", when=lambda path, **_: Path(path).name == ".step-000002"
        ), 6,
    ),
    "while the last policy is evaluated": (
        lambda: stopped_at(RunObserver, "on_train_end"), 6,
    ),
    "at the final save": (lambda: stopped_at(PolicyKeeper, "trained"), 6),
    "while the record's tables are merged": (lambda: stopped_at(ParquetParts, "close", nth=2), 6),
}  # fmt: skip
"""The point, and the step of the checkpoint that the run then goes on from."""
SEVERAL = (
    "before the first step",
    "between a part of the rollouts and its name",
    "in the middle of a line of metrics",
    "while sampling",
    "at the final save",
)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.tried("faults")
def test_a_run_that_is_killed_goes_on(policy: Path, place: Path, whole: dict[str, Any], point: str) -> None:
    fault, step = POINTS[point]
    folder = f"point_{list(POINTS).index(point):02d}"
    stopping.kill(policy, folder, fault(), closing=point.startswith("while the record"))
    assert (place / folder / "summary.json").exists()
    ended = stopping.go(policy, folder)
    where = "no checkpoint yet, from its start" if step is None else f"goes on from step {step} of 7"
    assert stopping.said(ended) == [f"resume   {folder}: {where} (resume=never: a new run)"]
    assert stopping.differing(whole, stopping.facts(place / folder)) == []


@pytest.mark.tried("faults", len(SEVERAL))
def test_several_faults_in_one_run(policy: Path, place: Path, whole: dict[str, Any]) -> None:
    """Killed before its first checkpoint, in each stretch between two, and in one of them twice."""
    for name in SEVERAL:
        if name.startswith("between"):
            stopping.kill(policy, "several", stopped_at(RunObserver, "on_step_end", when=at_step(3)))
        else:
            stopping.kill(policy, "several", POINTS[name][0]())
    stopping.go(policy, "several")
    assert stopping.differing(whole, stopping.facts(place / "several")) == []


def test_there_are_at_least_fourteen_points() -> None:
    assert len(POINTS) >= 14
