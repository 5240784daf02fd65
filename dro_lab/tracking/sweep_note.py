"""``sweep-tracking.json``: what MLflow is to be told of a sweep whose trials are sent later (tracking.offline=true).

Its trials lie two folders below it. `dro_lab.sync` makes the sweep's run, shows the trials below it, and keeps there
what came out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dro_lab.errors import UserError
from dro_lab.record.files import write_json
from dro_lab.tracking.killed import is_gone, process_tags
from dro_lab.tracking.names import MAX_TAG
from dro_lab.tracking.note import SWEEP_NOTE, now_ms
from dro_lab.tracking.store import artifact_root, create_run, live_run, one_at_a_time

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "killed": "KILLED", "failed": "FAILED"}
"""How a sweep ended, in MLflow's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a sweep came to: ``step`` counts its finished trials, ``files`` are relative to its folder."""

    step: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepNote:
    """A sweep as MLflow will show it.

    Attributes:
        uri: of the store.
        study: its name.
        name: what MLflow shows.
        runs: the sweep's run in each store that has one, by uri.
        process: the tags of the process that searches (`dro_lab.tracking.killed`).
        told: what it came to; None until then.
        whole: the store has all of a sweep that ended.
    """

    uri: str
    study: str
    name: str
    experiment: str
    runs: Mapping[str, str] = field(default_factory=dict)
    process: Mapping[str, str] = field(default_factory=process_tags)
    status: str = "running"
    error: str | None = None
    told: Told | None = None
    whole: bool = False


def write_sweep_note(folder: Path, note: SweepNote) -> None:
    """Write ``sweep-tracking.json``, whole or not at all."""
    write_json(folder / SWEEP_NOTE, asdict(note))


def read_sweep_note(folder: Path) -> SweepNote | None:
    """The note of the sweep in ``folder``; None where there is none.

    Raises:
        UserError: the file is no such note.
    """
    path = folder / SWEEP_NOTE
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        told = values.pop("told")
        return SweepNote(**values, told=told and Told(**{**told, "files": tuple(map(str, told["files"]))}))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read as the note of a sweep ({error}). Remove the file to send the trials alone."
        ) from None


def sweep_of(job: Path) -> Path | None:
    """The folder of the sweep whose job lies in ``job``, where the sweep left a note."""
    place = job.absolute().parents[1]
    return place if (place / SWEEP_NOTE).exists() else None


def sweep_run(client: MlflowClient, folder: Path, *, uri: str) -> str:
    """The id of the sweep's run in the store, which is made where the store lacks it, and noted."""
    note = read_sweep_note(folder)
    assert note is not None
    known = note.runs.get(uri)
    if known is not None and live_run(client, known):
        return known
    with one_at_a_time(uri):
        made = create_run(
            client,
            note.name,
            experiment=note.experiment,
            artifacts=artifact_root(uri),
            tags={"sweep": note.study, **note.process},
        )
    write_sweep_note(folder, replace(note, runs={**note.runs, uri: made}))
    return made


def send_sweep(client: MlflowClient, folder: Path, *, uri: str) -> str:
    """Make the sweep's run say how the sweep stands; its status in one word. Doing it twice changes nothing."""
    run_id = sweep_run(client, folder, uri=uri)
    note = read_sweep_note(folder)
    assert note is not None
    if note.told is not None:
        keep(client, run_id, note.told, folder)
    status = "killed" if note.status == "running" and is_gone(note.process) else note.status
    if status in STATUS:
        end_sweep(client, run_id, status, note.error)
    if status != "running" and uri == note.uri:
        write_sweep_note(folder, replace(note, whole=True))
    return status


def keep(client: MlflowClient, run_id: str, told: Told, folder: Path) -> None:
    """What a sweep came to, on its run: parameters and metrics that it lacks, files in any case."""
    data = client.get_run(run_id).data
    for key, value in told.params.items():
        if key not in data.params:  # a parameter never changes in MLflow
            client.log_param(run_id, key, value)
    for key, number in told.metrics.items():
        points = client.get_metric_history(run_id, key) if key in data.metrics else []
        if told.step not in {point.step for point in points}:
            client.log_metric(run_id, key, number, timestamp=now_ms(), step=told.step)
    for name in told.files:
        place = Path(name).parent.name
        client.log_artifact(run_id, str(folder / name), artifact_path=place if place == "figures" else None)


def end_sweep(client: MlflowClient, run_id: str, status: str, error: str | None) -> None:
    """End the sweep's run; ``error`` says why it failed."""
    if error:
        client.set_tag(run_id, "error", error[:MAX_TAG])
    client.set_terminated(run_id, STATUS[status])
