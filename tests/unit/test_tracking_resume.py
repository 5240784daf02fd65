"""A run that goes on is the same run in MLflow: nothing of it is lost there, and nothing stands twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dro_lab.errors import UserError
from dro_lab.record.files import JsonLines
from dro_lab.tracking.killed import close_killed, process_tags
from dro_lab.tracking.mlflow import MlflowTracker
from dro_lab.tracking.note import NOTE, Note, read_note, write_note
from dro_lab.types import Row, Task
from tests.record_fixture import PROVENANCE
from tests.tracking_fixture import empty_database

TASK = Task(
    name="pararev",
    provenance=PROVENANCE,
    splits={"train": [Row(id="a", prompt=[{"role": "user", "content": "2 + 2?"}], reference="4")]},
    metric=None,
    metric_name="facts",
)
DEAD = process_tags() | {"process.start": "1.0"}
"""Tags of a process that this host no longer has."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    empty_database(tmp_path)
    (tmp_path / "run").mkdir()
    return tmp_path


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def only_run(folder: Path) -> Run:
    experiment = client(folder).get_experiment_by_name("pararev")
    (run,) = client(folder).search_runs([experiment.experiment_id])
    return run


def start(folder: Path, *, after: int | None = None, config: object = None) -> MlflowTracker:
    tracker = MlflowTracker(folder=str(folder))
    given = {"seed": 0} if config is None else config
    run = folder / "run"
    tracker.start("run", experiment="pararev", config=given, tags={"a": "b"}, task=TASK, folder=run, after=after)
    return tracker


def step(folder: Path, tracker: MlflowTracker, number: int, value: float) -> None:
    """One step, recorded and mirrored as a run does it."""
    lines = JsonLines(folder / "run/metrics.jsonl")
    lines.append({"step": number, "seconds": float(number), "loss": value})
    lines.close()
    tracker.metrics({"loss": value}, step=number)


def history(folder: Path) -> list[tuple[int, float]]:
    points = client(folder).get_metric_history(only_run(folder).info.run_id, "loss")
    return sorted((point.step, point.value) for point in points)


def kill(folder: Path, tracker: MlflowTracker) -> None:
    """What a kill -9 leaves: what was written, and a run that says of itself to be running."""
    thread = tracker._thread
    assert thread is not None
    tracker._wanted.set()
    tracker._queue.put(None)
    thread.join(60)
    note = read_note(folder / "run")
    assert note is not None
    write_note(folder / "run", replace(note, process=DEAD))
    run = only_run(folder)
    for key, value in DEAD.items():
        client(folder).set_tag(run.info.run_id, key, value)
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize("closed_by_another", [False, True])
def test_a_killed_run_goes_on_as_the_same_run(folder: Path, closed_by_another: bool) -> None:
    first = start(folder)
    for number in range(1, 6):
        step(folder, first, number, 0.5)
    kill(folder, first)
    before = only_run(folder)
    if closed_by_another:
        assert close_killed(client(folder)) == [before.info.run_id]
        assert only_run(folder).info.status == "KILLED"
    # the checkpoint is that of step 3; the record is cut there; steps 4 and 5 are made again
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()[:3]
    (folder / "run/metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    again = start(folder, after=3)
    for number in range(4, 8):
        step(folder, again, number, 0.5)
    again.finish("finished")
    run = only_run(folder)
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["resumed"] == "after step 3"
    assert run.data.tags["process.start"] == process_tags()["process.start"]
    assert "killed" not in run.data.tags
    assert run.info.start_time == before.info.start_time
    assert history(folder) == [(number, 0.5) for number in range(1, 8)]
    assert len(run.inputs.dataset_inputs) == 1


def test_what_was_queued_when_the_process_died_is_brought_from_the_record(folder: Path) -> None:
    first = start(folder)
    step(folder, first, 1, 0.5)
    kill(folder, first)
    for number in (2, 3):  # recorded, and never sent
        lines = JsonLines(folder / "run/metrics.jsonl")
        lines.append({"step": number, "seconds": 1.0, "loss": number / 10, "odd": float("inf")})
        lines.close()
    again = start(folder, after=3)
    step(folder, again, 4, 0.4)
    again.finish("finished")
    assert history(folder) == [(1, 0.5), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_a_later_point_from_before_the_fall_stays_and_is_not_written_twice(folder: Path) -> None:
    first = start(folder)
    for number in (1, 2):
        step(folder, first, number, 0.5)
    kill(folder, first)
    again = start(folder, after=1)
    step(folder, again, 2, 0.7)  # another number than before, as a GPU may give
    again.finish("finished")
    assert history(folder) == [(1, 0.5), (2, 0.5)]


def test_a_run_that_mlflow_lost_is_made_anew_with_all_that_its_record_has(folder: Path) -> None:
    first = start(folder)
    for number in (1, 2):
        step(folder, first, number, 0.5)
    kill(folder, first)
    client(folder).delete_run(only_run(folder).info.run_id)
    again = start(folder, after=2)
    step(folder, again, 3, 0.6)
    again.finish("finished")
    assert history(folder) == [(1, 0.5), (2, 0.5), (3, 0.6)]
    assert only_run(folder).data.params == {"seed": "0"}


def test_a_parameter_never_changes(folder: Path) -> None:
    first = start(folder)
    kill(folder, first)
    again = start(folder, after=0, config={"seed": 0, "threads": 2})
    again.finish("finished")
    assert only_run(folder).data.params == {"seed": "0", "threads": "2"}


def test_without_a_step_to_go_on_behind_a_folder_gets_a_run_of_its_own(folder: Path) -> None:
    for _ in range(2):
        start(folder).finish("finished")
    experiment = client(folder).get_experiment_by_name("pararev")
    tags = Counter(run.data.tags["record.id"] for run in client(folder).search_runs([experiment.experiment_id]))
    assert list(tags.values()) == [1, 1]


def test_the_start_of_another_run_leaves_alone_what_is_about_to_go_on(folder: Path) -> None:
    first = start(folder)
    kill(folder, first)
    run = only_run(folder)
    assert close_killed(client(folder), keep=run.data.tags["record.id"]) == []
    stale = client(folder).search_runs([run.info.experiment_id])
    again = start(folder, after=0)
    again.finish("finished")
    client(folder).update_run(run.info.run_id, status="RUNNING")
    with pytest.MonkeyPatch.context() as patched:  # a start that looked before the run went on, and ends it after
        patched.setattr("dro_lab.tracking.killed._running", lambda _: list(stale))
        assert close_killed(client(folder)) == []
    assert only_run(folder).info.status == "RUNNING"


def test_the_note_is_read_as_it_was_written(folder: Path) -> None:
    tracker = start(folder)
    tracker.finish("finished")
    note = read_note(folder / "run")
    assert isinstance(note, Note)
    assert (note.state, note.run_name, note.params) == ("whole", "run", {"seed": "0"})
    write_note(folder, note)
    assert read_note(folder) == note
    assert read_note(folder / "nowhere") is None


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{}", '{"uri": 1}', "null", {"state": "odd"}, {"began": "1"}, {"params": {"a": 1}}, {"tags": None}],
)
def test_a_damaged_note_is_named(folder: Path, damage: object) -> None:
    start(folder).finish("finished")
    path = folder / "run" / NOTE
    path.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(UserError, match=r"tracking.json: (cannot be read as the note|a value is of the wrong kind)"):
        read_note(folder / "run")
