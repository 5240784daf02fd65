"""Grids and sweeps whose MLflow is away: no job is lost, and what was missed is uploaded later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dro_lab.errors import UserError
from dro_lab.tracking.note import read_note
from tests.cli_fixture import run_main, small_run
from tests.faults.test_tracking_away import synced
from tests.tracking_fixture import empty_database


@pytest.mark.long
def test_a_store_that_goes_away_between_the_jobs_of_a_grid_stops_none_of_them(
    policy: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first job has it; those after the loss run all the same, say so, and are uploaded later."""
    from dro_lab.tracking import mlflow as tracking

    uri = f"sqlite:///{empty_database(own_folder / 'store')}"
    asked: list[str] = []

    def check(of: str, **_: Any) -> None:
        asked.append(of)
        if len(asked) > 1:
            raise UserError(f"tracking.uri={of}: does not answer")

    monkeypatch.setattr(tracking, "check_store", check)
    given = ["tracking=mlflow", f"tracking.uri={uri}", "report=false", "steps=0"]
    small = [argument for argument in small_run(policy, given) if not argument.startswith("hydra.run.dir")]
    ended = run_main(["--multirun", *small, "seed=1,2,3"])
    assert ended.code == 0, ended.err
    assert len(asked) == 3
    assert ended.err.count("does not answer This job goes on without it") == 2, ended.err
    folders = sorted(path.parent for path in own_folder.glob("outputs/*/*/*/tracking.json"))
    assert [read_note(folder).state for folder in folders] == ["whole", "behind", "behind"]  # type: ignore[union-attr]
    sent = synced(capsys, "outputs")
    assert sent.code == 0, sent.err
    assert "3 runs: 1 there, 2 sent" in sent.out
    asked.clear()
    asked.append("the first job finds no store either")
    refused = run_main(["--multirun", *small, "seed=4,5"])
    assert refused.code == 2
    assert "error: tracking.uri=" in refused.err


@pytest.mark.long
def test_an_offline_sweep_is_uploaded_with_its_trials_below_it(
    policy: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a sweep with a tracker: one run that holds the winner, the values and the files, its trials below."""
    small = [argument for argument in small_run(policy, ["steps=0"]) if not argument.startswith("hydra.run.dir")]
    few = ["hydra.sweeper.n_trials=2", "hydra.sweeper.final_seeds=1", "hydra.sweeper.final_default=false"]
    uri = f"sqlite:///{empty_database(own_folder / 'store')}"
    given = ["tracking=mlflow", "tracking.offline=true", f"tracking.uri={uri}", "report=false", "objective=reward"]
    ended = run_main(["--multirun", "+sweep=r3_omega", *small, *few, *given])
    assert ended.code == 0, ended.err
    client = MlflowClient(uri)
    assert not client.search_runs([one.experiment_id for one in client.search_experiments()])

    sent = synced(capsys, "outputs")
    assert sent.code == 0, sent.err
    assert "3 runs: 3 sent" in sent.out
    assert f"sweep    outputs/sweeps/r3_omega: its run in {uri} shows its trials, finished" in sent.out
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(below) == len(found) - 1 == 3
    assert {run.info.experiment_id for run in below} == {parent.info.experiment_id}
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "r3_omega")
    result = json.loads((own_folder / "outputs/sweeps/r3_omega/sweep.json").read_text())
    assert parent.data.params["best_of_2.trial"] == str(result["winner"]["trial"])
    assert parent.data.params["best_of_2.reward.omega"] == str(result["winner"]["params"]["reward.omega"])
    assert parent.data.metrics["test/mean"] == pytest.approx(result["test"]["values"][0])
    assert "sweep.md" in {item.path for item in client.list_artifacts(parent.info.run_id)}

    again = synced(capsys, "outputs")
    assert again.code == 0
    assert "3 runs: 3 there" in again.out
    assert "sweep    " not in again.out, "it is whole"
    assert len(client.search_runs([parent.info.experiment_id])) == 4
    other = f"sqlite:///{empty_database(own_folder / 'other')}"
    elsewhere = synced(capsys, "outputs", f"uri={other}")
    assert elsewhere.code == 0, elsewhere.err
    there = MlflowClient(other)
    found = there.search_runs([one.experiment_id for one in there.search_experiments()])
    assert len([run for run in found if "mlflow.parentRunId" in run.data.tags]) == 3
    assert len(found) == 4


def test_a_damaged_note_of_a_sweep_is_named(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_folder / "outputs/sweeps/a/trials/x").mkdir(parents=True)
    (own_folder / "outputs/sweeps/a/sweep-tracking.json").write_text("{")
    ended = synced(capsys, "outputs")
    assert ended.code == 2
    assert "sweep-tracking.json: cannot be read as the note of a sweep" in ended.err
    assert "Remove the file to send the trials alone" in ended.err
