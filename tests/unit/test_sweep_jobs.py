"""What a sweep hands to its jobs and its parent, Hyperband, and a storage that is another program's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dro_lab.errors import UserError
from tests.sweep_fixture import cheap_runs, errors, near_two, states, study, sweep


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Parent:
    """A parent whose mark on its jobs is their number of threads."""

    overrides = ("threads=3",)

    def __init__(self) -> None:
        self.trials: list[int] = []
        self.closed: list[tuple[str, str | None]] = []

    def result(self, result: Any, files: Any) -> None:
        self.trials.append(result.trial)

    def close(self, status: str, error: str | None) -> None:
        self.closed.append((status, error))


@pytest.mark.slow
def test_every_trial_and_every_test_run_hears_of_the_parent_and_the_parent_of_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        if len(runs.seen) == 2:
            raise KeyboardInterrupt
        if len(runs.seen) == 6:
            raise UserError("judge: no key")
        return near_two(cfg)

    parent = Parent()
    monkeypatch.setattr("dro_lab.sweep.search.open_parent", lambda *_, **__: parent)
    runs = cheap_runs(monkeypatch, answer)
    assert [sweep(trials=3, seeds=2).code for _ in range(3)] == [130, 2, 0]
    assert [(cfg.evaluation.split, cfg.threads) for cfg in runs.seen] == [("validation", 3)] * 4 + [("test", 3)] * 3
    assert [status for status, _ in parent.closed] == ["interrupted", "failed", "finished"]
    assert "seed=1001 on the test split failed: judge: no key" in str(parent.closed[1][1])
    assert parent.trials == [study().best_trial.number]


@pytest.mark.slow
def test_hyperband_stops_who_is_behind_in_its_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        value = 1.0 - 0.1 * len(runs.seen)  # every trial is behind those before it
        for step in (10, 20, 30):
            if trial.report(step, SimpleNamespace(estimates={"quality": SimpleNamespace(value=value)})):
                break
        return value

    runs = cheap_runs(monkeypatch, answer)
    ended = sweep("hydra/sweeper/pruner=hyperband", "evaluation.every=10", "steps=40", trials=8, seeds=0)
    assert ended.code == 0, ended.err
    found = study()
    pruned = [trial for trial in found.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert {trial.last_step for trial in pruned} <= {10, 30}, "brackets of three: rungs at 10 and 30"
    assert states(found)[0] == "COMPLETE"
    assert found.best_trial.number == 0


def test_a_database_of_another_program_is_no_storage_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    file = Path("mlflow.db")
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE runs (id INTEGER)")
    before = file.read_bytes()
    ended = sweep("hydra.sweeper.storage=sqlite:///mlflow.db", trials=1, seeds=0)
    assert (ended.code, runs.seen) == (2, [])
    assert "another program's database, with tables such as runs" in errors(ended)[0]
    assert file.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["mlflow.db"]
