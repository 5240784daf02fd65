"""``tracking=mlflow``: a run mirrored in MLflow by a thread of its own, so that a training step does not wait.

Importing MLflow and creating its database take seconds: the thread does both beside the first step. There is no
active run (MLflow's fluent API is not used), so several jobs in one process do not meet.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dro_lab.checks import flag, number
from dro_lab.errors import UserError
from dro_lab.record import Estimate
from dro_lab.tracking import EndStatus
from dro_lab.tracking.database import WAY_OUT, check_store, check_uri, explain, sqlite_path
from dro_lab.tracking.killed import close_killed, process_tags
from dro_lab.tracking.names import MAX_TAG, clean, flatten
from dro_lab.tracking.note import Note, State, now_ms, read_note, write_note
from dro_lab.tracking.store import (
    Place,
    Point,
    artifact_root,
    described,
    end_run,
    eval_names,
    log_files,
    log_points,
    mirror,
    one_at_a_time,
    open_client,
    open_run,
    parent_experiment,
    record_points,
    unknown,
)
from dro_lab.types import Task

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESUMED = "resumed"
"""Tag of a run that went on: behind which step, the last time."""
GATHER = 0.25
"""Seconds to gather metrics before one write."""
HEAD_START = 10.0
"""Seconds at most that a run has for itself before the thread begins, which it does with the first numbers at the
latest: importing MLflow beside the first evaluation would hold Python's lock from it, and the first step would wait."""
PATIENCE = 60.0
"""Seconds that `MlflowTracker.finish` waits for the last writes."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""MLflow's environment unless the user set it: nothing is sent anywhere, and a dead server is said soon."""

Job = Callable[["MlflowClient", str], None]


class MlflowTracker:
    """Mirrors one run at a time (see `dro_lab.tracking.Tracker`).

    What a store does not take stays in the run's record and is brought once more when the run ends. ``tracking.json``
    in the run's folder (`dro_lab.tracking.note`) says whether anything is missing then: `dro_lab.sync` brings that.

    Args:
        uri: where; None means SQLite in ``folder``.
        folder: holds ``mlflow.db`` and ``mlflow-artifacts/`` when ``uri`` is None.
        experiment: name of the experiment; None takes that of ``parent``, or the one given to `start`.
        parent: id of the MLflow run below which the runs are shown; None: each stands by itself.
        lock_wait: seconds to wait for a database that another program is writing to.
        offline: nothing is sent, and no store is looked for: all of it is left to `dro_lab.sync`.

    Raises:
        UserError: the store is not a URI, holds a password, is not writable, locked, of another MLflow version, or
            unreachable; it has no run ``parent``, or has it in another experiment.
    """

    def __init__(
        self,
        *,
        uri: str | None = None,
        folder: str = "outputs",
        experiment: str | None = None,
        parent: str | None = None,
        lock_wait: float = 5.0,
        offline: bool = False,
    ) -> None:
        for key, value in (("experiment", experiment), ("parent", parent)):
            if value is not None and not isinstance(value, str):
                raise UserError(f"tracking.{key}={value}: must be a text or null; put quotes around it")
        number("tracking.lock_wait", lock_wait, low=0.0, todo="seconds; 5 is the default")
        flag("tracking.offline", offline, todo="false is the default")
        root = Path(folder).expanduser().absolute()
        self.uri = check_uri(uri) if uri is not None else f"sqlite:///{root / 'mlflow.db'}"
        self.offline = offline
        self._experiment, self._parent, self._lock_wait = experiment, parent, lock_wait
        self._artifacts = artifact_root(self.uri)
        quieten()
        if not offline:
            check_store(self.uri, lock_wait=lock_wait)
        if parent is not None and not offline:
            self._experiment = self._parent_experiment(parent)
        self._queue: queue.SimpleQueue[list[Point] | Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._note: Note | None = None
        self._wanted = threading.Event()
        self._open = False
        self._folder: Path | None = None
        self._error: UserError | None = None
        self._raised = False

    @property
    def ui_command(self) -> str:
        """The command that shows the runs; "" where nothing was sent."""
        if self.offline:
            return ""
        if self.uri.startswith("http"):
            return f"open {self.uri}"
        path = sqlite_path(self.uri)
        near = path is not None and path.absolute().is_relative_to(Path.cwd())
        uri = f"sqlite:///{path.absolute().relative_to(Path.cwd())}" if path is not None and near else self.uri
        return f"mlflow ui --backend-store-uri {uri}"

    @property
    def sync_command(self) -> str:
        """The command that brings MLflow what it lacks of the run; "" where it lacks nothing."""
        if self._note is None or self._folder is None or self._note.state != "behind":
            return ""
        near = self._folder.is_relative_to(Path.cwd())
        return (
            f"python -m dro_lab.sync {shlex.quote(str(self._folder.relative_to(Path.cwd()) if near else self._folder))}"
        )

    def start(
        self,
        run_name: str,
        *,
        experiment: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        task: Task,
        files: Sequence[Path] = (),
        folder: Path | None = None,
        after: int | None = None,
    ) -> None:
        """Begin a run, or go on with that of ``folder`` behind step ``after``; returns at once.

        A run that goes on is the same run in MLflow, running again, also where the next start had ended it as KILLED.
        It gets what the record holds up to ``after`` and MLflow never got. MLflow takes no point back: those of later
        steps, from before the fall, stay, and are not written a second time. On a CPU they are the same anyway.
        """
        if self._open:
            raise RuntimeError("start was called twice without finish")
        self._error, self._raised, self._queue = None, False, queue.SimpleQueue()
        self._wanted = threading.Event()
        self._folder = None if folder is None else folder.absolute()
        note = Note(
            uri=self.uri,
            artifacts=self._artifacts,
            experiment=self._experiment or experiment,
            run_name=run_name,
            parent=self._parent,
            params=flatten(config),
            tags={clean(key): value[:MAX_TAG] for key, value in tags.items()},
            process=process_tags(),
            dataset=described(task),
            state="behind" if self.offline else "live",
        )
        if after is not None and folder is not None and (earlier := read_note(folder)) is not None:
            note = replace(note, record_id=earlier.record_id, began=earlier.began)
            note = replace(note, tags={**note.tags, RESUMED: f"after step {after}"})
        self._note, self._open = note, True
        self._write_note(note.state)
        if self.offline:
            return

        def begin() -> tuple[MlflowClient, str, set[Place]]:
            with one_at_a_time(self.uri):
                client = open_client(self.uri)
                close_killed(client, keep=note.record_id)
                run_id, known = open_run(client, note)
            if after is not None and folder is not None:
                kept = [point for point in record_points(folder, began=note.began) if point[3] <= after]
                log_points(client, run_id, unknown(kept, known))
                known |= {(point[0], point[3]) for point in kept}
            log_files(client, run_id, files)
            return client, run_id, known

        self._thread = threading.Thread(target=self._work, args=(begin,), name=f"mlflow {run_name}", daemon=True)
        self._thread.start()

    def _parent_experiment(self, parent: str) -> str:
        """The name of the experiment that holds the run ``parent``; MLflow nests runs within one experiment only."""
        try:
            with one_at_a_time(self.uri):
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
        now = now_ms()
        self._put([(clean(key), float(value), now, step) for key, value in values.items()])

    def evaluation(self, estimates: Sequence[Estimate], *, step: int, split: str, decoding: str = "sampled") -> None:
        """Queue each metric as ``eval/SPLIT/METRIC`` with ``/low`` and ``/high``; what was not measured is left out.

        Of greedy answers: ``eval/SPLIT/greedy/METRIC``.
        """
        values: dict[str, float] = {}
        for item in estimates:
            names = eval_names(item.metric, split=split, decoding=decoding)
            values.update(zip(names, (item.value, item.low, item.high), strict=True))
        self.metrics({key: value for key, value in values.items() if not math.isnan(value)}, step=step)

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Queue files and folders; a folder keeps its name."""
        self._put(lambda client, run_id: log_files(client, run_id, paths))

    def finish(self, status: EndStatus, *, error: str | None = None) -> None:
        """Write all that is queued and end the run as FINISHED (also one that a monitor stopped), KILLED or FAILED.

        Where a write failed on the way, the whole record is brought to the store now, once.

        Raises:
            UserError: something could not be written and no earlier call said so.
        """
        if not self._open:
            return
        self._open = False
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wanted.set()
            self._queue.put(lambda client, run_id: end_run(client, run_id, status, error))
            self._queue.put(None)
            thread.join(PATIENCE)
            if thread.is_alive() and self._error is None:
                self._error = UserError(
                    f"tracking.uri={self.uri}: no answer within {PATIENCE:.0f} s. Check it, {WAY_OUT}"
                )
            elif self._error is not None and self._caught_up():
                self._error = None
            self._write_note("whole" if self._error is None else "behind")
        self._surface()

    def _caught_up(self) -> bool:
        """Whether the store, which refused a write before, takes the whole record now."""
        note, folder = self._note, self._folder
        if note is None or folder is None:
            return False
        done: list[bool] = []

        def bring() -> None:
            with contextlib.suppress(Exception):  # what was wrong is known already
                check_store(self.uri, lock_wait=self._lock_wait)
                with one_at_a_time(self.uri):
                    client = open_client(self.uri)
                mirror(client, note, folder)
                done.append(True)

        thread = threading.Thread(target=bring, name=f"mlflow {note.run_name} again", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return bool(done)

    def _write_note(self, state: State) -> None:
        assert self._note is not None
        self._note = replace(self._note, state=state)
        if self._folder is not None:
            write_note(self._folder, self._note)

    def _put(self, item: list[Point] | Job) -> None:
        self._surface()
        if not self._open:
            raise RuntimeError("start was not called")
        if self._thread is not None and self._error is None:  # else the record has it
            self._queue.put(item)
            self._wanted.set()

    def _surface(self) -> None:
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _work(self, begin: Callable[[], tuple[MlflowClient, str, set[Place]]]) -> None:
        """The thread: open the store, then write what comes, gathering metrics into batches."""
        tasks, wanted = self._queue, self._wanted  # the next run gets its own
        try:
            wanted.wait(HEAD_START)
            client, run_id, known = begin()
            done = False
            while not done:
                points, job, done = _gather(tasks)
                if points:
                    log_points(client, run_id, unknown(points, known))
                if job is not None:
                    job(client, run_id)
        except Exception as error:  # whatever it is, the next call says it
            self._error = explain(error, uri=self.uri)


def quieten() -> None:
    """Set MLflow's environment where the user did not."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


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
