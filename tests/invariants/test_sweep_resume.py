"""Sweeps of real runs: killed and continued, side by side, stopped early, and mirrored in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from analysis import heatmaps
from dro_lab.evaluation.evaluate import Evaluation
from dro_lab.record.read import load_run
from dro_lab.sweep.parent import MlflowParent
from dro_lab.sweep.result import Result, write_result
from tests.cli_fixture import Ended, run_main, save_policy, small_run
from tests.sweep_fixture import OMEGA, states, study
from tests.unit.test_sweep_ledger import complete, open_ledger, take

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


def command(policy: Path, *overrides: str) -> list[str]:
    """A sweep of three trials, whose objective moves."""
    small = [argument for argument in small_run(policy, ()) if not argument.startswith("hydra.run.dir")]
    few = [
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.final_seeds=1",
        "hydra.sweeper.final_default=false",
        "objective=reward",
        "report=false",
        "evaluation.every=1",
    ]
    return ["--multirun", "+sweep=r3_omega", *small, *few, *overrides]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The numbers of a run's steps and evaluations, without those that tell the time."""
    lines = [*(folder / "metrics.jsonl").read_text().splitlines(), *(folder / "evals.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if "seconds" not in k and not k.endswith("time")} for row in rows]


# -------------------------------------------------------------------------------------------------- a kill


@dataclass
class Killed:
    """A sweep whose process was killed in its second trial, and what the same command made of it."""

    folder: Path
    before: optuna.Study
    first: list[dict[str, Any]]
    ended: Ended

    @property
    def sweep(self) -> Path:
        return self.folder / "outputs/sweeps/r3_omega"


def kill_in_second_trial(arguments: Sequence[str], folder: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "dro_lab.run", *arguments], cwd=folder, env=env)
    begun = folder / "outputs/sweeps/r3_omega/trials/trial_001/summary.json"
    deadline = time.monotonic() + 250
    while not begun.exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the sweep ended before its second trial"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    arguments = command(policy)
    kill_in_second_trial(arguments, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        frozen = optuna.create_study()  # a copy: what is on disk goes on
        before = study()
        for trial in before.trials:
            frozen.add_trial(trial)
        first = numbers(folder / "outputs/sweeps/r3_omega/trials/trial_000")
        return Killed(folder=folder, before=frozen, first=first, ended=run_main(arguments))


def test_a_killed_sweep_is_continued_by_the_same_command(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(killed.folder)
    assert states(killed.before) == ["COMPLETE", "RUNNING"]
    assert killed.ended.code == 0, killed.ended.err
    after = study()
    assert states(after) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert after.trials[1].user_attrs["interrupted"] is True
    assert after.trials[2].user_attrs["again"] == 1
    assert after.trials[2].params == after.trials[1].params == killed.before.trials[1].params
    assert len({trial.params[OMEGA] for trial in after.trials}) == 3


def test_what_was_finished_is_left_as_it_was(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(killed.folder)
    before, after = killed.before.trials[0], study().trials[0]
    assert (after.params, after.value, after.datetime_complete) == (
        before.params,
        before.value,
        before.datetime_complete,
    )
    assert numbers(killed.sweep / "trials/trial_000") == killed.first
    assert load_run(killed.sweep / "trials/trial_001").summary["status"] == "running"


def test_the_winner_alone_runs_on_test(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(killed.folder)
    runs = {path.parent.name: load_run(path.parent) for path in killed.sweep.glob("*/*/summary.json")}
    splits = {name: set(run.evals["split"]) for name, run in runs.items() if len(run.evals)}
    winner = study().best_trial
    tested = f"trial_{winner.number:03d}_s1000"
    assert {name for name, split in splits.items() if split == {"test"}} == {tested}
    assert {*map(str, splits)} - {tested} <= {f"trial_{number:03d}" for number in range(4)}
    found = json.loads((killed.sweep / "sweep.json").read_text())
    assert found["winner"] == {"trial": winner.number, "params": winner.params}
    assert found["test"]["values"] == [runs[tested].summary["objective"]]
    assert runs[tested].summary["seed"] == 1000


def test_the_sweeps_folder_is_drawn_as_a_heat_map_of_its_finished_trials(killed: Killed) -> None:
    found = heatmaps.draw(killed.sweep)
    quality = found.frame[found.frame["outcome"] == "quality"]
    assert (len(quality), quality["runs"].sum()) == (3, 3), "one value of omega a trial"
    trials = {n: load_run(killed.sweep / f"trials/trial_{n:03d}").evals for n in (0, 2, 3)}
    last = [evals[evals["metric"] == "quality"].sort_values("step")["value"].iloc[-1] for evals in trials.values()]
    assert sorted(quality["value"]) == pytest.approx(sorted(last))
    assert "2 runs that were pruned, did not finish or were evaluated on another split are left out" in found.page


@pytest.mark.long
def test_trials_side_by_side_give_the_numbers_of_trials_one_after_another(
    killed: Killed, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two = [
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.final_seeds=0",
    ]
    ended = run_main(command(policy, *two))
    assert ended.code == 0, ended.err
    assert states(study()) == ["COMPLETE"] * 2
    assert study().trials[0].params == killed.before.trials[0].params
    # the same parameters and seed; in a process of its own beside another there, in the first of several jobs here
    assert numbers(tmp_path / "outputs/sweeps/r3_omega/trials/trial_000") == killed.first
    for trial in study().trials:  # the worker's process told the study how its run does
        evals = load_run(tmp_path / f"outputs/sweeps/r3_omega/trials/trial_{trial.number:03d}").evals
        reward = evals[(evals["metric"] == "reward") & (evals["step"] == 1)]["value"].item()
        assert trial.intermediate_values == {1: reward}


# ------------------------------------------------------------------------------------------- stopped early


class BehindAtOne:
    """A trial that is told to stop at the first evaluation."""

    def report(self, step: int, evaluation: Evaluation) -> str | None:
        self.reported = (step, evaluation.estimates["reward"].value)
        return f"pruned at step {step}: reward is behind the other trials"

    def end(self) -> None:
        raise optuna.TrialPruned


def test_a_pruned_run_closes_its_record_as_stopped(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = BehindAtOne()
    monkeypatch.setattr("dro_lab.run.current_trial", lambda objective: trial)
    run_main(small_run(policy, ["steps=3", "evaluation.every=1", "report=false"]))
    run = load_run(tmp_path / "run")
    assert (run.summary["status"], run.summary["steps"]) == ("stopped", 1)
    assert run.summary["stopped"] == "pruned at step 1: reward is behind the other trials"
    reward = run.evals[(run.evals["metric"] == "reward") & (run.evals["step"] == 1)]["value"].item()
    assert trial.reported == (1, reward)


# ------------------------------------------------------------------------------------------------- MLflow


def test_the_parent_in_mlflow_is_continued_and_holds_result_and_figures(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    ledger = open_ledger(tmp_path / "sweep")
    band = {OMEGA: FloatDistribution(0.0, 8.0), "reward.clip_low": FloatDistribution(0.0, 0.3)}
    for trial in take(ledger, 3, space=band):
        complete(ledger, trial)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)

    def opened() -> MlflowParent:
        return MlflowParent(uri, ledger.study, experiment="pararev", folder=ledger.folder)

    first = opened()
    assert first.overrides == [f"tracking.parent={first.run_id}"]
    assert client.get_run(first.run_id).info.status == "RUNNING"
    first.close("interrupted", None)
    assert client.get_run(first.run_id).info.status == "KILLED"
    again = opened()
    assert again.run_id == first.run_id
    best = ledger.study.best_trial
    result = Result(
        study="s",
        objective="quality",
        direction="maximize",
        counts=ledger.progress(),
        trial=best.number,
        params=best.params,
        test={1000: 0.5, 1001: 0.7},
        confidence=0.9,
        chosen_by=0.9,
    )
    again.result(result, write_result(ledger, result))
    again.close("finished", None)
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    settings = {f"best_of_3.{name}": str(value) for name, value in best.params.items()}
    assert run.data.params == {**settings, "best_of_3.trial": str(best.number)}
    assert (run.data.metrics["best/value"], run.data.metrics["test/mean"]) == (0.9, 0.6)
    figures = {path.path for path in client.list_artifacts(first.run_id, "figures")}
    drawn = ("history", "importance", "slice", "contour")
    assert figures == {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "csv")}
    ledger.close()
