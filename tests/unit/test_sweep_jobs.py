"""What a sweep hands to its jobs and its parent, Hyperband, and a storage that is another program's."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from optuna.distributions import FloatDistribution

from dro_lab.errors import UserError
from dro_lab.record.files import write_json
from dro_lab.record.summary import write_summary
from dro_lab.sweep.claim import FILE
from dro_lab.sweep.ledger import Ledger
from dro_lab.tracking.killed import process_tags
from tests.record_fixture import summary
from tests.sweep_fixture import OMEGA, cheap_runs, errors, near_two, states, study, sweep


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


@pytest.mark.long
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


@pytest.mark.slow
def test_a_worker_that_outlived_its_sweep_is_waited_for_and_its_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    assert sweep(trials=1, seeds=0).code == 0
    killed = Ledger(study(), folder=Path("outputs/sweeps/r3_omega"), objective="quality")
    sampler = optuna.samplers.RandomSampler(seed=1)
    killed.take(1, n_trials=2, space={OMEGA: FloatDistribution(0.0, 8.0)}, sampler=lambda _: sampler)
    killed.close()
    folder = killed.folder / "trials/trial_001"
    folder.mkdir()
    write_json(folder / FILE, process_tags())  # a process that lives: this one
    ended = sweep(trials=2, seeds=1)
    assert (ended.code, len(runs.seen)) == (0, 1)
    assert f"trial 1 (process {os.getpid()}): still running, left over from a start that was killed" in ended.out
    assert "another process, which will finish" not in ended.out
    write_summary(folder / "summary.json", summary(status="finished", objective=2.0))
    (folder / FILE).unlink()
    assert sweep(trials=2, seeds=1).code == 0
    assert study().best_trial.number == 1
    steps = pd.read_csv("outputs/sweeps/r3_omega/trials.csv")["steps"]
    assert pd.isna(steps[0])
    assert steps[1] == json.loads((folder / "summary.json").read_text())["steps"]
    assert len(runs.omegas) == 1, "the trial was run twice"

    place = killed.folder / "test/trial_001_s1001"
    place.mkdir(parents=True)
    write_json(place / FILE, process_tags())
    ended = sweep(trials=2, seeds=2)
    assert (ended.code, len(runs.tested)) == (0, 1)
    assert "the winner's run with seed=1001" in ended.out


@pytest.mark.slow
def test_a_worker_that_dies_is_charged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    launch = BasicLauncher.launch
    deadly: list[str] = []

    def dies(self: Any, jobs: Any, initial_job_idx: int) -> Any:
        deadly[:] = deadly or [jobs[1][0]]
        if any(job[0] == deadly[0] for job in jobs):
            raise RuntimeError("a worker was killed")
        return launch(self, jobs, initial_job_idx)

    monkeypatch.setattr(BasicLauncher, "launch", dies)
    ended = sweep("hydra.sweeper.n_jobs=3", trials=3, seeds=0)
    assert ended.code == 0, ended.err
    found = study()
    assert states(found) == ["FAIL"] * 3 + ["COMPLETE", "FAIL", "COMPLETE"]
    assert [trial.user_attrs.get("error") for trial in found.trials[:5]] == [None] * 4 + [
        "RuntimeError: a worker was killed"
    ]
    assert found.trials[4].params == found.trials[1].params
    assert len(runs.seen) == 2
    assert ended.out.count("cut off, to be run again by itself: RuntimeError: a worker was killed") == 3


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
