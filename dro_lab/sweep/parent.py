"""A sweep in MLflow: one run, below which its trials are shown. Without MLflow there is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from optuna.study import Study

from dro_lab.build import Built
from dro_lab.console import RunConsole
from dro_lab.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dro_lab.sweep.result import Result

RUN = "mlflow run"
"""Attribute of the study: the parent's id by tracking URI, so that the next start continues it."""
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class Parent(Protocol):
    """What all jobs of a sweep belong to."""

    @property
    def overrides(self) -> list[str]:
        """What tells a job its parent."""

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Keep the result and what was written of it."""

    def close(self, status: str, error: str | None) -> None:
        """This start of the sweep ends: finished, interrupted, failed, or running on in another process."""


class NoParent:
    """Runs that are mirrored nowhere."""

    overrides: list[str] = []  # noqa: RUF012

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Nowhere to keep it but the folder."""

    def close(self, status: str, error: str | None) -> None:
        """Nothing to end."""


def open_parent(built: Built, cfg: Any, study: Study, *, folder: Path) -> Parent:
    """The sweep's run in the tracker of its jobs, continued where the study has one.

    Raises:
        UserError: the store refuses.
    """
    from dro_lab.tracking.mlflow import MlflowTracker

    if not isinstance(built.tracker, MlflowTracker) or built.tracker.offline:
        return NoParent()
    return MlflowParent(
        built.tracker.uri, study, experiment=cfg.tracking.experiment or built.task.name, name=folder.name
    )


class MlflowParent:
    """The sweep's run in MLflow.

    Args:
        uri: of the store.
        study: names the run.
        experiment: of the sweep and its jobs.
        name: what MLflow shows.
    """

    def __init__(self, uri: str, study: Study, *, experiment: str, name: str) -> None:
        from dro_lab.tracking.database import explain, opening, sqlite_path
        from dro_lab.tracking.killed import process_tags
        from dro_lab.tracking.store import create_run, open_client

        self.client: MlflowClient
        self.run_id: str
        self.uri = uri
        path = sqlite_path(uri)
        artifacts = None if path is None else (path.absolute().parent / "mlflow-artifacts").as_uri()
        tags = {"sweep": study.study_name, **process_tags()}
        try:
            with opening(path) if path is not None else contextlib.nullcontext():
                self.client = open_client(uri)
                known = study.user_attrs.get(RUN, {}).get(uri)
                if known and self._exists(known):
                    self.run_id = known
                    for key, value in tags.items():
                        self.client.set_tag(self.run_id, key, value)
                    self.client.update_run(self.run_id, status="RUNNING")
                else:
                    self.run_id = create_run(self.client, name, experiment=experiment, artifacts=artifacts, tags=tags)
                    study.set_user_attr(RUN, {**study.user_attrs.get(RUN, {}), uri: self.run_id})
        except Exception as error:
            raise explain(error, uri=uri) from None

    @property
    def overrides(self) -> list[str]:
        """The key by which a run finds its parent."""
        return [f"tracking.parent={self.run_id}"]

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Settings of the winner as parameters, values as metrics, figures and tables as artifacts."""
        self._quietly(lambda: self._keep(result, files))

    def close(self, status: str, error: str | None) -> None:
        """End the run, unless the sweep goes on in another process."""

        def end() -> None:
            if error:
                self.client.set_tag(self.run_id, "error", error[:5000])
            self.client.set_terminated(self.run_id, STATUS[status])

        if status in STATUS:
            self._quietly(end)

    def _keep(self, result: Result, files: Sequence[Path]) -> None:
        # a parameter never changes in MLflow; a sweep that is prolonged may have another winner, under another name
        done = result.counts.done
        there = self.client.get_run(self.run_id).data.params
        named = {f"best_of_{done}.{name}": value for name, value in result.params.items()}
        for key, value in {**named, f"best_of_{done}.trial": result.trial}.items():
            if key not in there:
                self.client.log_param(self.run_id, key, value)
        mean, low, high = result.interval
        metrics = {"best/value": result.chosen_by, "test/mean": mean, "test/low": low, "test/high": high}
        for key, value in metrics.items():
            if value == value:  # not nan
                self.client.log_metric(self.run_id, key, value, timestamp=int(time.time() * 1000), step=done)
        for path in files:
            place = path.parent.name if path.parent.name == "figures" else None
            self.client.log_artifact(self.run_id, str(path), artifact_path=place)

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def _quietly(self, call: Any) -> None:
        """The folder is what counts: what MLflow refuses at the end is said, and takes no result away."""
        from dro_lab.tracking.database import explain

        try:
            call()
        except Exception as error:
            failure = error if isinstance(error, UserError) else explain(error, uri=self.uri)
            RunConsole().warn(f"MLflow did not take the end of the sweep, its folder is whole: {failure}")
