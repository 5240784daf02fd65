"""Runs whose process was killed: found by the next start on the same host, and ended as KILLED.

A run says by its tags which process it belongs to. The process is gone when the host has no process of that number,
or one that began at another time (numbers are used again). Runs of other hosts and of live processes are left alone,
and so are runs without these tags.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psutil

from dro_lab.tracking.note import RECORD

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HOST, PID, BEGAN = "process.host", "process.pid", "process.start"
"""Tags of the process that a run belongs to: the host's name, the process's number, its start in seconds since 1970."""
KILLED = "killed"
"""Tag that says how a run was found dead."""
SLACK = 2.0
"""Seconds by which two readings of one process's start may differ: the clock may be set meanwhile."""
PAGE = 1000

log = logging.getLogger(__name__)


def process_tags() -> dict[str, str]:
    """The tags that name this process."""
    me = psutil.Process()
    return {HOST: socket.gethostname(), PID: str(os.getpid()), BEGAN: f"{me.create_time():.2f}"}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process that these tags name has ended; False where that cannot be known."""
    try:
        host, pid, began = tags[HOST], int(tags[PID]), float(tags[BEGAN])
    except (KeyError, ValueError):
        return False
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) > SLACK or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def close_killed(client: MlflowClient, *, keep: str | None = None) -> list[str]:
    """End every RUNNING run of this host whose process is gone as KILLED; returns their ids.

    The run of the record ``keep`` is left alone: it is about to go on. So is one that went on just now in another
    process: what a run says of its process is read again right before it is ended. A run that the store does not let
    this user end is named in a warning: it is not ours to fail for.
    """
    from mlflow.exceptions import MlflowException

    closed = []
    for run in _running(client):
        if not is_gone(run.data.tags) or (keep is not None and run.data.tags.get(RECORD) == keep):
            continue
        if not is_gone(client.get_run(run.info.run_id).data.tags):
            continue
        why = f"process {run.data.tags[PID]} ended without closing the run; found by the next start"
        try:
            client.set_terminated(run.info.run_id, "KILLED", end_time=_last_sign(client, run))
            client.set_tag(run.info.run_id, KILLED, why)
        except MlflowException as error:
            log.warning("run %s was killed and cannot be closed in MLflow: %s", run.info.run_name, error)
        else:
            closed.append(run.info.run_id)
    return closed


def _running(client: MlflowClient) -> list[Run]:
    """The runs of this host that the store believes to be running."""
    experiments = [found.experiment_id for found in client.search_experiments(max_results=PAGE)]
    running = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    return list(client.search_runs(experiments, filter_string=running, max_results=PAGE))


def _last_sign(client: MlflowClient, run: Run) -> int:
    """When the run last wrote a metric, in ms; its start where it wrote none. When it died is not known better."""
    each_step = sorted(run.data.metrics, key=lambda key: (key.startswith("eval/"), key))[:1]
    times = [point.timestamp for key in each_step for point in client.get_metric_history(run.info.run_id, key)]
    return max([run.info.start_time, *times])
