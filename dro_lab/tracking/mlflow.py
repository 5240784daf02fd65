"""``tracking=mlflow``: a run mirrored in MLflow by a thread of its own, so that a training step does not wait.

Importing MLflow and creating its database take seconds: the thread does both beside the first sampling. There is no
active run (MLflow's fluent API is not used), so several jobs in one process do not meet.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dro_lab.checks import number
from dro_lab.errors import UserError
from dro_lab.record import Estimate
from dro_lab.tracking import EndStatus
from dro_lab.tracking.database import WAY_OUT, check_store, explain, opening, sqlite_path
from dro_lab.tracking.killed import close_killed, process_tags
from dro_lab.tracking.names import MAX_TAG, batches, clean, flatten, rows_sha256
from dro_lab.types import Task

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENDED = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
PARENT = "mlflow.parentRunId"
"""MLflow's own tag for the run that another is shown below."""
GATHER = 0.25
"""Seconds to gather metrics before one write."""
PATIENCE = 60.0
"""Seconds that `MlflowTracker.finish` waits for the last writes."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""MLflow's environment unless the user set it: nothing is sent anywhere, and a dead server is said soon."""

Job = Callable[["MlflowClient", str], None]
Point = tuple[str, float, int, int]  # name, value, time in ms, step


class MlflowTracker:
    """Mirrors one run at a time (see `dro_lab.tracking.Tracker`).

    Args:
        uri: where; None means SQLite in ``folder``.
        folder: holds ``mlflow.db`` and ``mlflow-artifacts/`` when ``uri`` is None.
        experiment: name of the experiment; None takes that of ``parent``, or the one given to `start`.
        parent: id of the MLflow run below which the runs are shown; None: each stands by itself.
        lock_wait: seconds to wait for a database that another program is writing to.

    Raises:
        UserError: the store is not a URI, not writable, locked, of another MLflow version, or unreachable; it has no
            run ``parent``, or has it in another experiment.
    """

    def __init__(
        self,
        *,
        uri: str | None = None,
        folder: str = "outputs",
        experiment: str | None = None,
        parent: str | None = None,
        lock_wait: float = 5.0,
    ) -> None:
        for key, value in (("uri", uri), ("experiment", experiment), ("parent", parent)):
            if value is not None and not isinstance(value, str):
                raise UserError(f"tracking.{key}={value}: must be a text or null; put quotes around it")
        number("tracking.lock_wait", lock_wait, low=0.0, todo="seconds; 5 is the default")
        root = Path(folder).expanduser().absolute()
        self.uri = uri or f"sqlite:///{root / 'mlflow.db'}"
        self._experiment = experiment
        # a server keeps artifacts where it wants to; beside a local database they must have a place
        path = sqlite_path(self.uri)
        self._artifacts = None if path is None else (path.absolute().parent / "mlflow-artifacts").as_uri()
        check_store(self.uri, lock_wait=lock_wait)
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        self._parent = parent
        if parent is not None:
            self._experiment = self._parent_experiment(parent)
        self._queue: queue.SimpleQueue[list[Point] | Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: UserError | None = None
        self._raised = False

    @property
    def ui_command(self) -> str:
        """The command that shows the runs."""
        if self.uri.startswith("http"):
            return f"open {self.uri}"
        path = sqlite_path(self.uri)
        near = path is not None and path.absolute().is_relative_to(Path.cwd())
        uri = f"sqlite:///{path.absolute().relative_to(Path.cwd())}" if path is not None and near else self.uri
        return f"mlflow ui --backend-store-uri {uri}"

    def start(
        self,
        run_name: str,
        *,
        experiment: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        task: Task,
        files: Sequence[Path] = (),
    ) -> None:
        """Begin a run; returns at once."""
        if self._thread is not None:
            raise RuntimeError("start was called twice without finish")
        self._error, self._raised, self._queue = None, False, queue.SimpleQueue()
        params = flatten(config)
        named = {clean(key): value[:MAX_TAG] for key, value in tags.items()} | process_tags()
        if self._parent is not None:
            named[PARENT] = self._parent
        name = self._experiment or experiment

        def begin() -> tuple[MlflowClient, str]:
            # one job at a time: MLflow's own creation of schema, experiment and data set fails when two jobs meet in it
            with self._alone():
                client = open_client(self.uri)
                close_killed(client)
                run_id = create_run(client, run_name, experiment=name, artifacts=self._artifacts, tags=named)
                log_data(client, run_id, task)
            log_params(client, run_id, params)
            log_files(client, run_id, files)
            return client, run_id

        self._thread = threading.Thread(target=self._work, args=(begin,), name=f"mlflow {run_name}", daemon=True)
        self._thread.start()

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        path = sqlite_path(self.uri)
        return contextlib.nullcontext() if path is None else opening(path)

    def _parent_experiment(self, parent: str) -> str:
        """The name of the experiment that holds the run ``parent``; MLflow nests runs within one experiment only."""
        try:
            with self._alone():
                found = parent_experiment(open_client(self.uri), parent, uri=self.uri)
        except Exception as error:
            raise explain(error, uri=self.uri) from None
        if self._experiment not in (None, found):
            raise UserError(
                f"tracking.experiment={self._experiment}: the run tracking.parent={parent} lies in experiment {found}, "
                "and MLflow shows nested runs in one experiment only. Leave tracking.experiment=null."
            )
        return found

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Queue the numbers of one step."""
        now = int(time.time() * 1000)
        self._put([(clean(key), float(value), now, step) for key, value in values.items()])

    def evaluation(self, estimates: Sequence[Estimate], *, step: int, split: str, decoding: str = "sampled") -> None:
        """Queue each metric as ``eval/SPLIT/METRIC`` with ``/low`` and ``/high``; what was not measured is left out.

        Of greedy answers: ``eval/SPLIT/greedy/METRIC``.
        """
        values = {}
        place = split if decoding == "sampled" else f"{split}/{decoding}"
        for item in estimates:
            name = f"eval/{place}/{item.metric}"
            values.update({name: item.value, f"{name}/low": item.low, f"{name}/high": item.high})
        self.metrics({key: value for key, value in values.items() if not math.isnan(value)}, step=step)

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Queue files and folders; a folder keeps its name."""
        self._put(lambda client, run_id: log_files(client, run_id, paths))

    def finish(self, status: EndStatus, *, error: str | None = None) -> None:
        """Write all that is queued and end the run as FINISHED (also one that a monitor stopped), KILLED or FAILED.

        Raises:
            UserError: something could not be written and no earlier call said so.
        """
        if self._thread is None:
            return
        thread, self._thread = self._thread, None

        def end(client: MlflowClient, run_id: str) -> None:
            if error:
                client.set_tag(run_id, "stopped" if status == "stopped" else "error", error[:MAX_TAG])
            client.set_terminated(run_id, ENDED[status])

        self._queue.put(end)
        self._queue.put(None)
        thread.join(PATIENCE)
        if thread.is_alive() and self._error is None:
            self._error = UserError(f"tracking.uri={self.uri}: no answer within {PATIENCE:.0f} s. Check it, {WAY_OUT}")
        self._surface()

    def _put(self, item: list[Point] | Job) -> None:
        self._surface()
        if self._thread is None:
            raise RuntimeError("start was not called")
        self._queue.put(item)

    def _surface(self) -> None:
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _work(self, begin: Callable[[], tuple[MlflowClient, str]]) -> None:
        """The thread: open the store, then write what comes, gathering metrics into batches."""
        tasks = self._queue  # the next run gets a queue of its own
        try:
            client, run_id = begin()
            done = False
            while not done:
                points, job, done = _gather(tasks)
                if points:
                    log_points(client, run_id, points)
                if job is not None:
                    job(client, run_id)
        except Exception as error:  # whatever it is, the next call says it
            self._error = explain(error, uri=self.uri)


def _gather(tasks: queue.SimpleQueue[list[Point] | Job | None]) -> tuple[list[Point], Job | None, bool]:
    """The points up to the next job (at most ``GATHER`` seconds of them), that job, and whether it was the end."""
    points: list[Point] = []
    deadline = None
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            item = tasks.get(timeout=wait)
        except queue.Empty:
            return points, None, False
        if not isinstance(item, list):
            return points, item, item is None
        points.extend(item)
        deadline = deadline or time.monotonic() + GATHER


def open_client(uri: str) -> MlflowClient:
    """A client of the store at ``uri``, whose schema is made where it is missing."""
    for name in ("alembic", "mlflow.store.db"):  # a new schema is no news
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # the first call creates or checks the schema
    return client


def parent_experiment(client: MlflowClient, parent: str, *, uri: str) -> str:
    """The name of the experiment that holds the run ``parent``.

    Raises:
        UserError: the store has no such run, or it was deleted.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(parent)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        run = None
    if run is None or run.info.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.parent={parent}: {uri} has no such run. Give the id of a run as `mlflow ui` shows it (32 "
            "letters and digits), or null for a run that stands by itself."
        )
    return client.get_experiment(run.info.experiment_id).name


def create_run(
    client: MlflowClient, run_name: str, *, experiment: str, artifacts: str | None, tags: Mapping[str, str]
) -> str:
    """The id of a new run in ``experiment``, which is made if missing."""
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
    return client.create_run(found.experiment_id, tags=dict(tags), run_name=run_name).info.run_id


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


def log_data(client: MlflowClient, run_id: str, task: Task) -> None:
    """Name the data set as the run's input, with the number of rows of each split."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    provenance = task.provenance
    source = {"location": provenance.location, "revision": provenance.revision, "sha256": provenance.sha256}
    dataset = Dataset(
        name=provenance.dataset,
        digest=(provenance.sha256 or rows_sha256(task.splits))[:36],
        source_type=provenance.kind,
        source=json.dumps(source),
        profile=json.dumps({"rows": {name: len(rows) for name, rows in task.splits.items()}}),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
