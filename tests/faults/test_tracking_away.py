"""MLflow that is not there: at the start, in the middle of a run, or not at all; nothing of the run is lost."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dro_lab import sync
from dro_lab.errors import UserError
from dro_lab.record.read import load_run
from dro_lab.tracking import database, store
from dro_lab.tracking.mlflow import MlflowTracker
from dro_lab.tracking.note import read_note
from tests.cli_fixture import Ended, assert_refused, run_main, small_run
from tests.mlflow_server import MlflowServer, free_port
from tests.tracking_fixture import empty_database

R3_KEYS = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def the_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("pararev")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def points_of(client: MlflowClient, run: Run) -> list[tuple[str, int, float]]:
    """Every point that MLflow holds, twice where it holds one twice."""
    found = [
        (key, point.step, -1.0 if math.isnan(point.value) else point.value)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    return sorted(found)


def recorded(folder: Path) -> list[tuple[str, int, float]]:
    """What the record holds, read with pandas, under the names that MLflow shows."""
    found = load_run(folder)
    rows: list[tuple[str, int, float]] = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        odd = row.pop("nonfinite", {})
        rows += [
            (key.replace("@", "_"), row["step"], -1.0 if odd.get(key) == "nan" else value)
            for key, value in row.items()
            if key not in ("step", "seconds")
        ]
    for item in found.all_evals.itertuples():
        place = item.split if item.decoding == "sampled" else f"{item.split}/{item.decoding}"
        name = f"eval/{place}/{item.metric}".replace("@", "_")
        values = {name: item.value, f"{name}/low": item.low, f"{name}/high": item.high}
        rows += [(key, item.step, value) for key, value in values.items() if not math.isnan(value)]
    return sorted(rows)


def synced(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    capsys.readouterr()
    code = sync.main(list(arguments))
    said = capsys.readouterr()
    return Ended(code=code, out=said.out, err=said.err)


# ------------------------------------------------------------------------------------------------ at the start


@pytest.mark.tried("faults")
def test_a_server_that_takes_connections_and_never_answers_is_refused_soon(
    black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PROBE", 0.2)
    message = rf"tracking.uri={black_hole}: the MLflow server does not answer \(timed out\).*tracking.offline=true"
    with pytest.raises(UserError, match=message):
        MlflowTracker(uri=black_hole)


def test_the_probe_is_a_matter_of_seconds_and_mlflow_itself_gives_up_within_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dro_lab.tracking import mlflow as tracking

    assert database.PROBE <= 10
    tries = 1 + int(tracking.QUIET["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert tries * float(tracking.QUIET["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 60
    assert tracking.PATIENCE <= 60
    for key in tracking.QUIET:
        monkeypatch.setenv(key, "7")
    tracking.quieten()
    import os

    assert {os.environ[key] for key in tracking.QUIET} == {"7"}, "what the user set stays"


def test_a_run_without_its_server_does_not_begin(policy: Path, own_folder: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    ended = run_main(small_run(policy, ["tracking=mlflow", f"tracking.uri={uri}"]))
    expected = [
        f"tracking.uri={uri}",
        "does not answer",
        "Connection refused",
        "tracking.offline=true",
        "tracking=none",
    ]
    assert_refused(ended, own_folder, expected)


@pytest.mark.parametrize("value", ["maybe", 1, None])
@pytest.mark.tried("bad inputs")
def test_offline_is_true_or_false(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"tracking.offline=.*: must be true or false"):
        MlflowTracker(folder=str(tmp_path), offline=value)


# ------------------------------------------------------------------------------------------------ offline, then sync


@pytest.fixture(scope="module")
def offline(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was made offline, far from any server."""
    place = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        uri = f"http://127.0.0.1:{free_port()}"
        given = ["tracking=mlflow", "tracking.offline=true", f"tracking.uri={uri}", "report=false"]
        ended = run_main(small_run(policy, given))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[-1] == "upload   python -m dro_lab.sync run", "the last line says what to do"
    assert not [line for line in lines if line.startswith("compare")], "there is nothing to look at yet"
    return place / "run"


def copy_of(run: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.slow
def test_an_offline_run_is_uploaded_whole_and_once(
    offline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(offline, tmp_path)
    uri = f"sqlite:///{empty_database(tmp_path / 'store')}"
    first = synced(capsys, str(run), f"uri={uri}")
    assert first.code == 0, first.err
    points = recorded(run)
    assert f"{len(points)} points" in first.out
    assert "1 run: 1 sent" in first.out
    client = MlflowClient(uri)
    found = the_run(client)
    assert points_of(client, found) == points
    assert len(points) > 200
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    note = read_note(run)
    assert note is not None
    assert found.data.params == note.params
    assert found.data.params["tracking.offline"] == "True"
    assert found.data.tags["reward"] == "r3"
    (given,) = found.inputs.dataset_inputs
    assert json.loads(given.dataset.profile)["rows"]["train"] == 8
    listed = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "env.json", "summary.json", "evals.jsonl", "rollouts.parquet"} <= listed
    assert abs(found.info.start_time - note.began) < 1000

    again = synced(capsys, str(run), f"uri={uri}")
    assert again.code == 0
    assert "sent     " in again.out
    assert ": 0 points" in again.out
    assert points_of(client, the_run(client)) == points


@pytest.mark.slow
@pytest.mark.tried("faults")
def test_an_upload_that_was_cut_short_goes_on(
    offline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(offline, tmp_path)
    uri = f"sqlite:///{empty_database(tmp_path / 'store')}"
    client = MlflowClient(uri)
    log_points = store.log_points

    def half(client: MlflowClient, run_id: str, points: Any) -> None:
        log_points(client, run_id, points[: len(points) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "log_points", half)
        ended = synced(capsys, str(run), f"uri={uri}")
    assert ended.code == 130
    assert ended.err.strip() == "interrupted; the same command goes on from here"
    there = points_of(client, the_run(client))
    assert 0 < len(there) < len(recorded(run))
    ended = synced(capsys, str(run), f"uri={uri}")
    assert ended.code == 0
    assert f"{len(recorded(run)) - len(there)} points" in ended.out
    assert points_of(client, the_run(client)) == recorded(run)
    assert the_run(client).info.status == "FINISHED"


# ------------------------------------------------------------------------------------------------ in mid-run


@pytest.mark.long
def test_a_server_that_dies_in_mid_run_costs_nothing(
    policy: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning, the run goes on; what MLflow lacks is uploaded when the server is back."""
    server = MlflowServer(own_folder / "server")
    server.start()
    try:
        assert server.process is not None
        (own_folder / "murder.py").write_text(
            "import os, signal\nfrom dro_lab.rewards.r3 import r3\n\ncalls = []\n\n\n"
            "def reward(groups, stats):\n    calls.append(groups.step)\n"
            f"    if len(calls) == 2:\n        os.kill({server.process.pid}, signal.SIGKILL)\n"
            "    return r3(groups, stats)\n"
        )
        monkeypatch.syspath_prepend(str(own_folder))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        given = ["tracking=mlflow", f"tracking.uri={server.uri}", "steps=4", "report=false"]
        reward = ["reward._target_=murder.reward", *(f"~reward.{key}" for key in R3_KEYS)]
        ended = run_main(small_run(policy, [*given, *reward]))
        assert ended.code == 0, ended.err
        assert ended.err == ""
        warned = [line for line in ended.out.splitlines() if "tracking.uri" in line]
        assert len(warned) == 1, ended.out
        assert warned[0].startswith("warning: ")
        assert f"tracking.uri={server.uri}: the MLflow server does not answer" in warned[0]
        assert "upload   python -m dro_lab.sync run\n" in ended.out
        found = load_run(own_folder / "run", require_finished=True)
        assert len(found.metrics) == 4

        down = synced(capsys, ".")
        assert down.code == 2
        assert down.err.count("error:") == 1
        assert f"tracking.uri={server.uri}" in down.err

        server.kill()
        server.start()
        up = synced(capsys, "run")
        assert up.code == 0, up.err
        assert "sent     run: " in up.out
        client = MlflowClient(server.uri)
        assert points_of(client, the_run(client)) == recorded(own_folder / "run")
        assert the_run(client).info.status == "FINISHED"
        assert "summary.json" in {item.path for item in client.list_artifacts(the_run(client).info.run_id)}
        again = synced(capsys, "run")
        assert again.code == 0
        assert f"there    run: {server.uri} has all of it" in again.out
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.tried("faults")
def test_a_store_that_comes_back_before_the_end_gets_all_of_it(
    policy: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dro_lab.tracking import mlflow as tracking

    empty_database(own_folder / "outputs")

    def refuse(*_: object) -> None:
        raise OSError("gone for a while")

    monkeypatch.setattr(tracking, "log_points", refuse)  # what the run's thread writes with; the end has another
    ended = run_main(small_run(policy, ["tracking=mlflow", "report=false"]))
    assert ended.code == 0, ended.err
    assert ended.out.count("gone for a while") <= 1, "said once, by a step or not at all"
    assert "\nupload " not in ended.out
    client = MlflowClient(f"sqlite:///{own_folder}/outputs/mlflow.db")
    assert points_of(client, the_run(client)) == recorded(own_folder / "run")
    assert the_run(client).info.status == "FINISHED"
    note = read_note(own_folder / "run")
    assert note is not None
    assert note.state == "whole"


# ------------------------------------------------------------------------------------------------ bad input


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    ended = synced(capsys, "--help")
    assert ended.code == 0
    assert ended.out.startswith("usage: python -m dro_lab.sync [OUTPUTS|RUN ...] [uri=URI]")


BAD = [
    ([], "outputs: there is no such folder here"),
    (["nowhere"], "nowhere: is not a folder"),
    (["empty"], "empty: no run with a tracking.json in there"),
    (["--force"], "--force: unknown option. Allowed: folders, uri=URI, --help"),
    (["dir=empty"], "dir: unknown option"),
    (["empty", "uri=mlflow.db"], "uri='mlflow.db' is not a URI"),
    (["empty", "uri="], "uri='' is not a URI"),
    (["empty", "uri=http://me:pass-word-1@host"], "uri: must not hold a key or a password"),
    (["empty", "uri=http://[::1"], "uri: cannot be read as an address"),
    (["damaged"], "damaged/tracking.json: cannot be read as the note"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
@pytest.mark.tried("bad inputs")
def test_bad_input_is_one_message(
    own_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (own_folder / "empty").mkdir()
    (own_folder / "damaged").mkdir()
    (own_folder / "damaged/tracking.json").write_text("{")
    ended = synced(capsys, *arguments)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert "pass-word-1" not in ended.out + ended.err


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:pass-word-1@host:5000",
        "https://token-only@host",
        "mysql+pymysql://me:pass-word-1@host/db",
        "http://a:b@c@pass-word-1/",
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_password_in_the_address_is_refused_and_not_shown(policy: Path, own_folder: Path, uri: str) -> None:
    with pytest.raises(UserError, match=r"tracking.uri: must not hold a user or a password") as caught:
        MlflowTracker(uri=uri)
    assert "pass-word-1" not in str(caught.value)
    assert "token-only" not in str(caught.value)
