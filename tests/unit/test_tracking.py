"""MLflow mirrors a run, against a real SQLite file; what goes wrong there is said in one message."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from dro_lab.errors import UserError
from dro_lab.record import Estimate
from dro_lab.record.environment import environment
from dro_lab.tracking import mlflow as tracking
from dro_lab.tracking.database import newest_revision
from dro_lab.tracking.mlflow import MlflowTracker
from dro_lab.tracking.names import CUT, MAX_PARAM, clean, flatten, rows_sha256, run_tags
from dro_lab.tracking.none import NoTracker
from dro_lab.types import Provenance, Row, Task
from tests.record_fixture import PROVENANCE
from tests.tracking_fixture import empty_database

CONFIG = {"seed": 0, "reward": {"_target_": "dro_lab.rewards.r3.r3", "omega": 2.0}, "list": [1, 2], "empty": {}}
ROW = Row(id="train-0", prompt=[{"role": "user", "content": "2 + 2?"}], reference="4")
TASK = Task(
    name="pararev", provenance=PROVENANCE, splits={"train": [ROW], "test": []}, metric=None, metric_name="facts"
)
CONF = Path(__file__).parents[2] / "conf" / "tracking"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    empty_database(tmp_path)
    return tmp_path


def start(tracker: MlflowTracker | NoTracker, name: str = "run", **changes: object) -> None:
    tags = run_tags(environment(seeds={"seed": 0}, threads=1), task=TASK, reward="r3", policy="tiny", seed=0)
    values = {"experiment": "pararev", "config": CONFIG, "tags": tags, "task": TASK}
    tracker.start(name, **(values | changes))  # type: ignore[arg-type]


def runs(folder: Path, experiment: str = "pararev") -> list:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client.search_runs([found.experiment_id], order_by=["attributes.run_name"])


def test_a_whole_run_is_read_back(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    (tmp_path / "report.html").write_text("<html>")
    (tmp_path / "config.yaml").write_text("seed: 0")
    tracker = MlflowTracker(folder=str(folder))
    start(tracker, files=[tmp_path / "config.yaml"])
    for step in range(1500):
        tracker.metrics({"rewards/r3": step / 1500, "loss": math.nan}, step=step)
    tracker.evaluation([Estimate(metric="facts", value=0.5, low=0.4, high=0.6, n=64)], step=0, split="test")
    greedy = Estimate(metric="facts", value=0.7, low=0.6, high=0.8, n=64)
    tracker.evaluation([greedy], step=0, split="test", decoding="greedy")
    tracker.artifacts([tmp_path / "report.html", tmp_path / "policy"])
    tracker.finish("stopped", error="health.x at step 3: bad")

    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert run.data.tags["stopped"] == "health.x at step 3: bad"
    assert run.info.run_name == "run"
    assert run.data.params["reward._target_"] == "dro_lab.rewards.r3.r3"
    assert run.data.params["reward.omega"] == "2.0"
    assert run.data.params["list"] == "[1, 2]"
    assert run.data.tags["data"] == "pararev (twin: default, generator 1)"
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["version.torch"].startswith("2.13.0")
    assert {"git.commit", "git.dirty", "policy"} <= set(run.data.tags)
    assert run.data.metrics["eval/test/facts"] == 0.5
    assert run.data.metrics["eval/test/facts/low"] == 0.4
    assert run.data.metrics["eval/test/greedy/facts"] == 0.7
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.source_type) == ("pararev", "twin")
    rows = run.data.tags["data.rows_sha256"]
    assert given.dataset.digest == rows[:36]
    assert json.loads(given.dataset.profile) == {"rows": {"train": 1, "test": 0}}
    assert json.loads(given.dataset.source)["revision"] == "generator 1"
    assert "data.sha256" not in run.data.tags
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    history = client.get_metric_history(run.info.run_id, "rewards/r3")
    assert sorted(point.step for point in history) == list(range(1500))
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.yaml", "report.html", "policy"}
    assert [item.path for item in client.list_artifacts(run.info.run_id, "policy")] == ["policy/config.json"]
    assert (folder / "mlflow-artifacts").is_dir()


def test_two_runs_that_start_at_once_on_a_new_database_stay_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    trackers = [MlflowTracker(folder=str(folder)) for _ in range(2)]
    began = time.perf_counter()
    for i, tracker in enumerate(trackers):
        start(tracker, f"run {i}", config={"seed": i})
    assert time.perf_counter() - began < 1.0, "start does not wait for the database, which takes seconds to make"
    for step in range(20):
        for i, tracker in enumerate(trackers):
            tracker.metrics({"reward": 10.0 * i + step}, step=step)
    trackers[0].finish("interrupted")
    trackers[1].finish("failed", error="ValueError: nan")
    said = capfd.readouterr().err
    assert "INFO" not in said
    assert "alembic" not in said
    first, second = runs(folder)
    assert (first.info.status, second.info.status) == ("KILLED", "FAILED")
    assert (first.data.params["seed"], second.data.params["seed"]) == ("0", "1")
    assert (first.data.metrics["reward"], second.data.metrics["reward"]) == (19.0, 29.0)
    assert second.data.tags["error"] == "ValueError: nan"
    assert "error" not in first.data.tags


def test_one_tracker_takes_one_run_after_another(folder: Path) -> None:
    tracker = MlflowTracker(folder=str(folder), experiment="mine")
    for name in ("a", "b"):
        start(tracker, name)
        tracker.metrics({"reward": 1.0}, step=0)
        tracker.finish("finished")
    assert [run.info.run_name for run in runs(folder, "mine")] == ["a", "b"]
    with pytest.raises(RuntimeError, match="start was not called"):
        tracker.metrics({"reward": 1.0}, step=0)
    tracker.finish("failed")  # nothing was started: nothing happens
    assert len(runs(folder, "mine")) == 2


def test_a_step_does_not_wait_for_the_database(folder: Path) -> None:
    tracker = MlflowTracker(folder=str(folder))
    start(tracker)
    values = {f"metric {i}": float(i) for i in range(40)}
    costs = []
    for step in range(50):
        began = time.perf_counter()
        tracker.metrics(values, step=step)
        costs.append(time.perf_counter() - began)
    tracker.finish("finished")
    assert sorted(costs)[25] < 0.002
    assert runs(folder)[0].data.metrics["metric 39"] == 39.0


@pytest.fixture
def exclusive(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


@pytest.mark.usefixtures("exclusive")
def test_a_locked_database_is_refused_at_once(folder: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"tracking.uri=sqlite:///.*mlflow.db: the database is locked .*tracking=none"):
        MlflowTracker(folder=str(folder), lock_wait=0.2)
    assert time.perf_counter() - began < 3


def test_a_short_lock_is_waited_for(folder: Path, exclusive: sqlite3.Connection) -> None:
    threading.Timer(0.4, exclusive.execute, ["ROLLBACK"]).start()
    began = time.perf_counter()
    MlflowTracker(folder=str(folder), lock_wait=10)
    assert 0.2 < time.perf_counter() - began < 9


def test_another_version_of_the_database_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert found == (newest_revision(),)
        connection.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        connection.commit()
    with pytest.raises(UserError, match=r"another version of MLflow \(it is at 0a8213491aaa.*mlflow db upgrade"):
        MlflowTracker(folder=str(folder))


def test_another_version_is_said_by_mlflow_where_we_cannot_know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        connection.commit()
    monkeypatch.setattr("dro_lab.tracking.database.newest_revision", lambda: None)
    tracker = MlflowTracker(folder=str(folder))
    start(tracker)
    with pytest.raises(UserError, match=r"another version of MLflow .*found version 0a8213491aaa"):
        tracker.finish("finished")


def test_an_error_behind_a_call_is_raised_once_by_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tracking, "log_points", refuse)
    tracker = MlflowTracker(folder=str(folder))
    start(tracker)
    thread = tracker._thread
    assert thread is not None
    tracker.metrics({"reward": 1.0}, step=0)
    thread.join(30)
    with pytest.raises(UserError, match=r"tracking.uri=sqlite:.*disk full.*tracking=none"):
        tracker.metrics({"reward": 1.0}, step=1)
    tracker.finish("failed")  # said already


def test_a_deleted_experiment_is_said(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.delete_experiment(client.create_experiment("pararev"))
    tracker = MlflowTracker(folder=str(folder))
    start(tracker)
    with pytest.raises(UserError, match=r"tracking.experiment='pararev' was deleted in MLflow.*restore"):
        tracker.finish("finished")


def test_an_unreachable_server_is_refused_soon() -> None:
    with socket.socket() as server:  # bound, but it never listens
        server.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"tracking.uri={uri}: the MLflow server does not answer"):
            MlflowTracker(uri=uri)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a database, but long enough to be read as one" * 30, "file is not a database"),
        (None, "cannot be written"),
    ],
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mlflow.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        MlflowTracker(uri=f"sqlite:///{path}")


def test_a_uri_is_a_uri() -> None:
    with pytest.raises(UserError, match=r"tracking.uri='outputs/mlflow.db' is not a URI: give sqlite:///PATH"):
        MlflowTracker(uri="outputs/mlflow.db")


def test_names_and_values_fit_mlflow() -> None:
    flat = flatten({"a": {"b": {"c": None}}, "+x": "y" * (MAX_PARAM + 1)})
    assert flat["a.b.c"] == "None"
    assert len(flat["_x"]) == MAX_PARAM
    assert flat["_x"].endswith(CUT)
    assert clean("rewards/r3 (mean)") == "rewards/r3 _mean_"


def test_none_takes_every_call() -> None:
    tracker = NoTracker()
    start(tracker)
    tracker.metrics({"reward": 1.0}, step=0)
    tracker.evaluation([], step=0, split="test")
    tracker.artifacts([Path("missing")])
    tracker.finish("finished")
    assert tracker.ui_command == ""


@pytest.mark.filterwarnings("ignore:hydra.utils.instantiate")
def test_the_shipped_options_build_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.utils import instantiate

    assert isinstance(instantiate(OmegaConf.load(CONF / "none.yaml")), NoTracker)
    config = OmegaConf.merge({"outputs": str(tmp_path)}, {"tracking": OmegaConf.load(CONF / "mlflow.yaml")})
    tracker = instantiate(config.tracking)
    assert tracker.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracker.ui_command == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert tracker.ui_command == "mlflow ui --backend-store-uri sqlite:///mlflow.db"


def test_a_run_is_nested_below_its_parent(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    parent = client.create_run(client.create_experiment("sweeps"), run_name="sweep").info.run_id
    tracker = MlflowTracker(folder=str(folder), parent=parent)
    for name in ("trial 0", "trial 1"):
        start(tracker, name)  # of the experiment `pararev`, but for its parent
        tracker.finish("finished")
    assert client.get_experiment_by_name("pararev") is None
    below = client.search_runs(
        [client.get_run(parent).info.experiment_id], filter_string=f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert sorted(run.info.run_name for run in below) == ["trial 0", "trial 1"]
    assert client.get_run(parent).info.status == "RUNNING", "the parent is its owner's to end"
    MlflowTracker(folder=str(folder), parent=parent, experiment="sweeps")
    with pytest.raises(UserError, match=r"tracking.experiment=mine: the run .* lies in experiment sweeps"):
        MlflowTracker(folder=str(folder), parent=parent, experiment="mine")


@pytest.mark.parametrize("parent", ["0" * 32, "no id", ""])
def test_an_unknown_parent_is_refused(folder: Path, parent: str) -> None:
    with pytest.raises(UserError, match=rf"tracking.parent={parent}: sqlite:.*has no such run. Give the id of a run"):
        MlflowTracker(folder=str(folder), parent=parent)


def test_a_deleted_parent_is_refused(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    parent = client.create_run(client.create_experiment("sweeps")).info.run_id
    client.delete_run(parent)
    with pytest.raises(UserError, match="has no such run"):
        MlflowTracker(folder=str(folder), parent=parent)


def test_the_rows_have_a_digest_of_their_own() -> None:
    line = b'["train", "train-0", [{"content": "2 + 2?", "role": "user"}], "4"]\n'
    assert rows_sha256(TASK.splits) == hashlib.sha256(line).hexdigest()
    other = replace(ROW, reference="5")
    assert rows_sha256({"train": [other]}) != rows_sha256({"train": [ROW]})
    assert rows_sha256({"train": [ROW, other]}) != rows_sha256({"train": [other, ROW]})


def test_a_file_is_named_by_the_sha256_of_its_bytes() -> None:
    file = Provenance(dataset="jsonl", kind="file", location="rows.jsonl", sha256="ab" * 32)
    state = environment(seeds={}, threads=1)
    tags = run_tags(state, task=replace(TASK, provenance=file), reward="r3", policy="tiny", seed=1)
    assert tags["data.sha256"] == "ab" * 32
    assert tags["data"] == "jsonl (file: rows.jsonl, sha256 abababababab)"
