"""Whole runs with ``tracking=mlflow``: what MLflow holds of one that ended well, crashed, or was killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from dro_lab.record.read import load_run
from dro_lab.tracking.names import flatten
from tests.cli_fixture import run_main, save_policy, small_run
from tests.tracking_fixture import empty_database

pytestmark = pytest.mark.slow
R3_KEYS = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy and the database that the runs of this file share."""
    folder = tmp_path_factory.mktemp("tracked")
    empty_database(folder / "outputs")
    save_policy(folder / "policy")
    return folder


@pytest.fixture(autouse=True)
def _own_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def arguments(place: Path, name: str, *overrides: str) -> list[str]:
    return small_run(place / "policy", ["tracking=mlflow", f"hydra.run.dir={name}", *overrides])


def client(place: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{place / 'outputs/mlflow.db'}")


def tracked(place: Path, name: str) -> list[Run]:
    """The runs that were recorded in the folder ``name``."""
    experiment = client(place).get_experiment_by_name("pararev")
    where = [experiment.experiment_id] if experiment else []
    return list(client(place).search_runs(where, filter_string=f"attributes.run_name = '{name}'"))


def the_run(place: Path, name: str) -> Run:
    (found,) = tracked(place, name)
    return found


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def history(place: Path, run: Run, key: str) -> dict[int, float]:
    return {point.step: point.value for point in client(place).get_metric_history(run.info.run_id, key)}


@pytest.fixture(scope="module")
def whole(place: Path) -> Run:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        ended = run_main(arguments(place, "whole", "evaluation.every=1"))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    return the_run(place, "whole")


def test_a_run_lies_in_the_database_under_outputs(place: Path, whole: Run) -> None:
    assert whole.info.status == "FINISHED"
    assert (
        whole.info.artifact_uri
        == f"{(place / 'outputs/mlflow-artifacts/pararev').as_uri()}/{whole.info.run_id}/artifacts"
    )


def test_its_parameters_are_the_configuration(place: Path, whole: Run) -> None:
    given = OmegaConf.to_container(OmegaConf.load(place / "whole/config.yaml"))
    assert isinstance(given, dict)
    del given["hydra"]  # for a repetition only
    assert whole.data.params == flatten(given)
    assert whole.data.params["evaluation.every"] == "1"


def test_its_tags_say_code_data_policy_seed_and_versions(place: Path, whole: Run) -> None:
    found = load_run(place / "whole")
    tags = whole.data.tags
    assert tags["git.commit"] == str(found.environment["git"]["commit"])
    assert tags["git.dirty"] == str(found.environment["git"]["dirty"])
    assert tags["data"].startswith("pararev (twin: default")
    assert len(tags["data.rows_sha256"]) == 64
    assert (tags["reward"], tags["policy"], tags["seed"]) == ("r3", found.summary["policy"], "0")
    versions = {key.removeprefix("version."): value for key, value in tags.items() if key.startswith("version.")}
    assert versions == {key: str(value) for key, value in found.environment["versions"].items()}


def test_its_metrics_are_those_of_the_record(place: Path, whole: Run) -> None:
    steps = rows(place / "whole", "metrics.jsonl")
    assert len(steps) == 2
    for key in set().union(*steps) - {"step", "seconds"}:
        mine = {row["step"]: row[key] for row in steps if key in row and not math.isnan(row[key])}
        theirs = {step: value for step, value in history(place, whole, key).items() if not math.isnan(value)}
        assert theirs == mine, key


def test_its_evaluations_have_the_ends_of_their_intervals(place: Path, whole: Run) -> None:
    evaluations = rows(place / "whole", "evals.jsonl")
    assert {row["step"] for row in evaluations} == {0, 1, 2}
    assert {(row["split"], row["decoding"]) for row in evaluations} >= {
        ("validation", "sampled"),
        ("validation", "greedy"),
    }
    found: dict[str, dict[int, float]] = {}
    for row in evaluations:
        place_ = row["split"] if row["decoding"] == "sampled" else f"{row['split']}/{row['decoding']}"
        for name, key in ((row["metric"], "value"), (f"{row['metric']}/low", "low"), (f"{row['metric']}/high", "high")):
            if not math.isnan(row[key]):
                found.setdefault(f"eval/{place_}/{name}".replace("@", "_"), {})[row["step"]] = row[key]
    assert set(found) == {key for key in whole.data.metrics if key.startswith("eval/")}
    assert "eval/validation/quality/low" in found
    for key in sorted(found)[:: max(1, len(found) // 40)]:  # each costs a query
        assert history(place, whole, key) == found[key]


def test_its_artifacts_are_the_files_of_the_record(place: Path, whole: Run) -> None:
    listed = {item.path: item for item in client(place).list_artifacts(whole.info.run_id)}
    kept = {"config.yaml", "env.json", "summary.json", "evals.jsonl", "rollouts.parquet", "answers.parquet"}
    assert kept | {"tokens.parquet", "report.html", "figures"} == set(listed)
    assert listed["figures"].is_dir
    for name in kept | {"report.html"}:
        stored = client(place).download_artifacts(whole.info.run_id, name)
        assert Path(stored).read_bytes() == (place / "whole" / name).read_bytes(), name


def test_its_data_set_is_an_input(whole: Run) -> None:
    (given,) = whole.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.source_type) == ("pararev", "twin")
    assert json.loads(given.dataset.profile)["rows"]["train"] == 8
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_a_crashed_run_ends_failed_with_its_error(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run
) -> None:
    (tmp_path / "crashes.py").write_text("def reward(groups, stats):\n    raise RuntimeError('out of ideas')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = run_main(
        arguments(place, "crashed", "reward._target_=crashes.reward", *(f"~reward.{key}" for key in R3_KEYS))
    )
    assert ended.code == 1
    run = the_run(place, "crashed")
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "RuntimeError: out of ideas"
    assert {"config.yaml", "env.json", "summary.json"} <= {
        item.path for item in client(place).list_artifacts(run.info.run_id)
    }


@pytest.mark.long
def test_a_killed_run_is_ended_by_the_next_start(place: Path, whole: Run) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dro_lab.run", *arguments(place, "dies", "steps=5000", "evaluation.every=5000")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not any("loss" in run.data.metrics for run in tracked(place, "dies")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no training step within two minutes"
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    dead = the_run(place, "dies")
    assert dead.info.status == "RUNNING"
    assert {item.path for item in client(place).list_artifacts(dead.info.run_id)} == {"config.yaml", "env.json"}

    ended = run_main(arguments(place, "next", "steps=0"))
    assert ended.code == 0, ended.err
    assert the_run(place, "next").info.status == "FINISHED"
    dead = the_run(place, "dies")
    assert dead.info.status == "KILLED"
    assert dead.data.tags["killed"] == f"process {process.pid} ended without closing the run; found by the next start"
    assert dead.info.start_time < dead.info.end_time <= time.time() * 1000
    assert load_run(place / "dies").summary["status"] == "running"
