"""What is done to an MLflow store through its client: runs are made or continued, and made equal to a record."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dro_lab.errors import UserError
from dro_lab.record.files import NONFINITE, artifacts
from dro_lab.tracking.database import WAY_OUT, opening, sqlite_path
from dro_lab.tracking.killed import KILLED, is_gone, process_tags
from dro_lab.tracking.names import MAX_TAG, batches, clean, rows_sha256
from dro_lab.tracking.note import RECORD, Note
from dro_lab.types import Task

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ENDED = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "killed": "KILLED", "failed": "FAILED"}
PARENT = "mlflow.parentRunId"
"""MLflow's own tag for the run that another is shown below."""
ENDINGS = (KILLED, "error", "stopped")
"""Tags that say how a run ended; one that goes on has none."""

Point = tuple[str, float, int, int]
"""Name, value, time in ms, step."""
Place = tuple[str, int]
"""Name and step of a point."""


def one_at_a_time(uri: str) -> contextlib.AbstractContextManager[None]:
    """Held while something is created: MLflow's own creation of schema, experiment and input fails when two meet."""
    path = sqlite_path(uri)
    return contextlib.nullcontext() if path is None else opening(path)


def open_client(uri: str) -> MlflowClient:
    """A client of the store at ``uri``, whose schema is made where it is missing."""
    for name in ("alembic", "mlflow.store.db"):  # a new schema is no news
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None and not (path.exists() and path.stat().st_size):
        # aside: MLflow makes its schema in dozens of steps, and a process killed between two of them would leave a
        # database that looks like one of another version
        aside = path.with_name(f".{path.name}.new")
        aside.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        os.replace(aside, path)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # the first call creates or checks the schema
    return client


def live_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run with this id; None where the store has none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else run


def parent_experiment(client: MlflowClient, parent: str, *, uri: str) -> str:
    """The name of the experiment that holds the run ``parent``.

    Raises:
        UserError: the store has no such run, or it was deleted.
    """
    run = live_run(client, parent)
    if run is None:
        raise UserError(
            f"tracking.parent={parent}: {uri} has no such run. Give the id of a run as `mlflow ui` shows it (32 "
            "letters and digits), or null for a run that stands by itself."
        )
    return client.get_experiment(run.info.experiment_id).name


def create_run(
    client: MlflowClient,
    run_name: str,
    *,
    experiment: str,
    artifacts: str | None,
    tags: Mapping[str, str],
    began: int | None = None,
) -> str:
    """The id of a new run in ``experiment``, which is made if missing; ``began`` in ms (None: now)."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            location = None if artifacts is None else f"{artifacts}/{clean(experiment).replace('/', '_')}"
            client.create_experiment(experiment, artifact_location=location)
        except MlflowException:
            if client.get_experiment_by_name(experiment) is None:  # else another job made it just now
                raise
        found = client.get_experiment_by_name(experiment)
    assert found is not None
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment={experiment!r} was deleted in MLflow. Restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, give another name, {WAY_OUT}"
        )
    run = client.create_run(found.experiment_id, tags=dict(tags), run_name=run_name, start_time=began)
    return run.info.run_id


def find_run(client: MlflowClient, note: Note) -> Run | None:
    """The store's run of the note's record; None where it has none, or it was deleted there."""
    found = client.get_experiment_by_name(note.experiment)
    if found is None:
        return None
    query = f"tags.`{RECORD}` = '{note.record_id}'"
    runs = client.search_runs([found.experiment_id], filter_string=query, max_results=1)
    return client.get_run(runs[0].info.run_id) if runs else None


def open_run(client: MlflowClient, note: Note) -> tuple[str, set[Place]]:
    """The id of the note's run, and the points that it holds already.

    It is made where the store lacks it. One that is there is reopened, also where it was ended as KILLED: it belongs
    to this process from here on. What the store cannot take twice (parameters, the input) is given where it lacks.
    """
    tags = {**note.tags, RECORD: note.record_id, **process_tags()}
    if note.parent is not None:
        tags[PARENT] = note.parent
    run = find_run(client, note)
    if run is None:
        run_id = create_run(
            client,
            note.run_name,
            experiment=note.experiment,
            artifacts=note.artifacts,
            tags=tags,
            began=note.began,
        )
        known: set[Place] = set()
        params, has_input = note.params, False
    else:
        run_id = run.info.run_id
        for key, value in tags.items():  # the process first: nobody may take the run for a dead one's
            if run.data.tags.get(key) != value:
                client.set_tag(run_id, key, value)
        client.update_run(run_id, status="RUNNING")
        for key in ENDINGS:
            if key in run.data.tags:
                client.delete_tag(run_id, key)
        known = known_points(client, run)
        params = {key: value for key, value in note.params.items() if key not in run.data.params}
        has_input = bool(run.inputs and run.inputs.dataset_inputs)
    if not has_input:
        log_data(client, run_id, note.dataset)
    log_params(client, run_id, params)
    return run_id, known


def known_points(client: MlflowClient, run: Run) -> set[Place]:
    """Name and step of every point that the run holds. MLflow only adds points: what is there is not written again."""
    return {(key, point.step) for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)}


def artifact_root(uri: str) -> str | None:
    """Where the artifacts of a local database go; None: a server keeps them where it wants to."""
    path = sqlite_path(uri)
    return None if path is None else (path.absolute().parent / "mlflow-artifacts").as_uri()


def unknown(points: Iterable[Point], known: set[Place]) -> list[Point]:
    """The points whose name and step are not in ``known``."""
    return [point for point in points if (point[0], point[3]) not in known]


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log the parameters, as many at once as MLflow takes."""
    from mlflow.entities import Param

    for batch in batches([Param(key, value) for key, value in params.items()], 100):
        client.log_batch(run_id, params=batch)


def log_files(client: MlflowClient, run_id: str, paths: Sequence[Path]) -> None:
    """Attach files and folders; a folder keeps its name."""
    for path in paths:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), artifact_path=path.name)
        else:
            client.log_artifact(run_id, str(path))


def log_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Log metrics, as many at once as MLflow takes."""
    from mlflow.entities import Metric

    for batch in batches([Metric(*point) for point in points], 1000):
        client.log_batch(run_id, metrics=batch)


def described(task: Task) -> dict[str, str]:
    """The data set as MLflow's input, with the number of rows of each split."""
    provenance = task.provenance
    source = {"location": provenance.location, "revision": provenance.revision, "sha256": provenance.sha256}
    return {
        "name": provenance.dataset,
        "digest": (provenance.sha256 or rows_sha256(task.splits))[:36],
        "source_type": provenance.kind,
        "source": json.dumps(source),
        "profile": json.dumps({"rows": {name: len(rows) for name, rows in task.splits.items()}}),
    }


def log_data(client: MlflowClient, run_id: str, dataset: Mapping[str, str]) -> None:
    """Name the data set as the run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    given = DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", "training")])
    client.log_inputs(run_id, datasets=[given])


def end_run(client: MlflowClient, run_id: str, status: str, error: str | None, *, at: int | None = None) -> None:
    """End the run; ``error`` says why it ended early, ``at`` when, in ms (None: now)."""
    if error:
        tag = {"stopped": "stopped", "killed": KILLED}.get(status, "error")
        client.set_tag(run_id, tag, error[:MAX_TAG])
    client.set_terminated(run_id, ENDED[status], end_time=at)


# ------------------------------------------------------------------------------------------------ the record


def eval_names(metric: str, *, split: str, decoding: str) -> tuple[str, str, str]:
    """``eval/SPLIT/METRIC`` and its interval's two ends; of greedy answers ``eval/SPLIT/greedy/METRIC``."""
    place = split if decoding == "sampled" else f"{split}/{decoding}"
    name = clean(f"eval/{place}/{metric}")
    return name, clean(f"{name}/low"), clean(f"{name}/high")


def record_points(folder: Path, *, began: int) -> list[Point]:
    """All that the record in ``folder`` has measured so far, as the tracker would have logged it.

    A point's time is that of its step in ``metrics.jsonl``; of an evaluation, that of the last step before it.
    """
    points: list[Point] = []
    times: dict[int, int] = {0: began}
    for row in _rows(folder / "metrics.jsonl"):
        step = int(row.pop("step"))
        times[step] = began + int(float(row.pop("seconds", 0.0)) * 1000)
        points += [(clean(key), float(value), times[step], step) for key, value in row.items()]
    for row in _rows(folder / "evals.jsonl"):
        step = int(row["step"])
        when = times.get(step) or times[max(known for known in times if known <= step)]
        names = eval_names(row["metric"], split=row["split"], decoding=row["decoding"])
        for name, key in zip(names, ("value", "low", "high"), strict=True):
            if not math.isnan(row[key]):  # what was not measured is left out
                points.append((name, float(row[key]), when, step))
    return points


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a jsonl file; the last one may be torn."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # behind the last line's end stands nothing, or half a line
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: is damaged ({error}). Remove the line to send the rest.") from None
        row.update({key: float(value) for key, value in row.pop(NONFINITE, {}).items()})
        yield row


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a store was given."""

    run_id: str
    points: int
    files: int
    status: str
    """How the record says the run ended; ``running`` where its process may be alive."""


def mirror(client: MlflowClient, note: Note, folder: Path) -> Sent:
    """Make the store's run equal to the record in ``folder``: what it lacks is added, files are replaced.

    Doing it twice, or again after it was cut short, leaves the same as doing it once.
    """
    with one_at_a_time(note.uri):
        run_id, known = open_run(client, note)
    found = record_points(folder, began=note.began)
    points = unknown(found, known)
    log_points(client, run_id, points)
    files = artifacts(folder)
    log_files(client, run_id, files)
    status, error = ending(folder, note)
    if status == "running":  # its own process, elsewhere, goes on: the run is that one's again
        for key, value in note.process.items():
            client.set_tag(run_id, key, value)
    else:
        end_run(client, run_id, status, error, at=max([note.began, *(point[2] for point in found)]))
    return Sent(run_id=run_id, points=len(points), files=len(files), status=status)


def ending(folder: Path, note: Note) -> tuple[str, str | None]:
    """How the run ended by its summary, and why; ``killed`` where its process is gone without having said so."""
    try:
        summary: Any = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        status = str(summary["status"])
    except (OSError, ValueError, KeyError, TypeError):
        summary, status = {}, "running"
    if status in ENDED and status != "killed":
        return status, summary.get("stopped") if status == "stopped" else summary.get("error")
    if status == "killed" or is_gone(note.process):
        return "killed", "its process ended without closing the run"
    return "running", None
