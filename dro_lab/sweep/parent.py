"""A sweep in MLflow: one run, below which its trials are shown. Without MLflow there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from optuna.study import Study

from dro_lab.build import Built
from dro_lab.console import RunConsole
from dro_lab.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dro_lab.sweep.result import Result
    from dro_lab.tracking.sweep_note import SweepNote, Told

RUN = "mlflow run"
"""Attribute of the study: the parent's id by tracking URI, so that the next start continues it."""
ENDS = ("finished", "interrupted", "failed")
"""With these a start of the sweep is over; with any other it goes on in another process."""


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

    if not isinstance(built.tracker, MlflowTracker):
        return NoParent()
    kind = LaterParent if built.tracker.offline else MlflowParent
    experiment = cfg.tracking.experiment or built.task.name
    return kind(built.tracker.uri, study, experiment=experiment, folder=folder)


def told(result: Result, files: Sequence[Path], folder: Path) -> Told:
    """The result as MLflow keeps it: the winner's settings, its values, and what was written of them.

    A sweep that is prolonged may have another winner, and a parameter never changes: its name says after how many
    trials it won.
    """
    from dro_lab.tracking.sweep_note import Told

    done = result.counts.done
    mean, low, high = result.interval
    metrics = {"best/value": result.chosen_by, "test/mean": mean, "test/low": low, "test/high": high}
    named = {f"best_of_{done}.{name}": str(value) for name, value in result.params.items()}
    return Told(
        step=done,
        params={**named, f"best_of_{done}.trial": str(result.trial)},
        metrics={key: value for key, value in metrics.items() if value == value},  # not nan
        files=tuple(str(path.relative_to(folder)) for path in files),
    )


class LaterParent:
    """The sweep as a note in its folder, for `dro_lab.sync` to send with the trials.

    Args:
        uri: of the store.
        study: names the run, and knows it where the store has it from an earlier start.
        experiment: of the sweep and its jobs.
        folder: of the sweep.
    """

    overrides: list[str] = []  # noqa: RUF012 - sync finds the sweep by where its jobs lie

    def __init__(self, uri: str, study: Study, *, experiment: str, folder: Path) -> None:
        from dro_lab.tracking.sweep_note import SweepNote, read_sweep_note

        before = read_sweep_note(folder)
        self.folder = folder
        self.note = SweepNote(
            uri=uri,
            study=study.study_name,
            name=folder.name,
            experiment=experiment,
            runs={**(before.runs if before else {}), **study.user_attrs.get(RUN, {})},
            told=before.told if before else None,
        )
        self._write(self.note)

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Settings of the winner, values, and the names of the files."""
        self._write(replace(self._now(), told=told(result, files, self.folder)))

    def close(self, status: str, error: str | None) -> None:
        """Note how it ended, unless the sweep goes on in another process."""
        if status in ENDS:
            self._write(replace(self._now(), status=status, error=error))

    def _now(self) -> SweepNote:
        """With the runs that a sync has made meanwhile."""
        from dro_lab.tracking.sweep_note import read_sweep_note

        there = read_sweep_note(self.folder)
        return replace(self.note, runs={**self.note.runs, **(there.runs if there else {})})

    def _write(self, note: SweepNote) -> None:
        from dro_lab.tracking.sweep_note import write_sweep_note

        self.note = note
        write_sweep_note(self.folder, note)


class MlflowParent:
    """The sweep's run in MLflow.

    Args:
        uri: of the store.
        study: names the run.
        experiment: of the sweep and its jobs.
        folder: of the sweep; MLflow shows its name.
    """

    def __init__(self, uri: str, study: Study, *, experiment: str, folder: Path) -> None:
        from dro_lab.tracking.database import explain, opening, sqlite_path
        from dro_lab.tracking.killed import process_tags
        from dro_lab.tracking.store import artifact_root, create_run, live_run, open_client

        self.client: MlflowClient
        self.run_id: str
        self.uri, self.folder, path = uri, folder, sqlite_path(uri)
        tags = {"sweep": study.study_name, **process_tags()}
        try:
            with opening(path) if path is not None else contextlib.nullcontext():
                self.client = open_client(uri)
                known = study.user_attrs.get(RUN, {}).get(uri)
                if known and live_run(self.client, known):
                    self.run_id = known
                    for key, value in tags.items():
                        self.client.set_tag(self.run_id, key, value)
                    self.client.update_run(self.run_id, status="RUNNING")
                else:
                    self.run_id = create_run(
                        self.client, folder.name, experiment=experiment, artifacts=artifact_root(uri), tags=tags
                    )
                    study.set_user_attr(RUN, {**study.user_attrs.get(RUN, {}), uri: self.run_id})
        except Exception as error:
            raise explain(error, uri=uri) from None

    @property
    def overrides(self) -> list[str]:
        """The key by which a run finds its parent."""
        return [f"tracking.parent={self.run_id}"]

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Settings of the winner as parameters, values as metrics, figures and tables as artifacts."""
        from dro_lab.tracking.sweep_note import keep

        self._quietly(lambda: keep(self.client, self.run_id, told(result, files, self.folder), self.folder))

    def close(self, status: str, error: str | None) -> None:
        """End the run, unless the sweep goes on in another process."""
        from dro_lab.tracking.sweep_note import end_sweep

        if status in ENDS:
            self._quietly(lambda: end_sweep(self.client, self.run_id, status, error))

    def _quietly(self, call: Callable[[], None]) -> None:
        """The folder is what counts: what MLflow refuses at the end is said, and takes no result away."""
        from dro_lab.tracking.database import explain

        try:
            call()
        except Exception as error:
            failure = error if isinstance(error, UserError) else explain(error, uri=self.uri)
            RunConsole().warn(f"MLflow did not take the end of the sweep, its folder is whole: {failure}")
