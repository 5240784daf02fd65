"""``tracking.json``: what MLflow is told of a run beside its record, and whether it has been told all of it.

The record is the buffer. All that a run measures lies in its folder anyway, so an MLflow that is not there costs
nothing but this note, and whoever comes later (`dro_lab.sync`, or the run that goes on) makes MLflow equal to the
record.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dro_lab.errors import UserError
from dro_lab.record.files import write_json

NOTE = "tracking.json"
SWEEP_NOTE = "sweep-tracking.json"
"""That of a sweep (`dro_lab.tracking.sweep_note`)."""
RECORD = "record.id"
"""Tag by which MLflow's run of a record is found, so that there is never a second one."""
State = Literal["live", "behind", "whole"]
"""The run's own process mirrors it; MLflow lacks something; MLflow has all of a run that ended."""
STATES = ("live", "behind", "whole")


def now_ms() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a run's record does not hold and MLflow wants.

    Attributes:
        uri: of the store.
        artifacts: where a database's artifacts go; None: the server decides.
        process: the tags of the process that the run belongs to (`dro_lab.tracking.killed`).
        dataset: the run's input (`dro_lab.tracking.store.described`).
        began: of the run's first start, in ms.
        record_id: names the record, whichever process goes on with it.
    """

    uri: str
    artifacts: str | None
    experiment: str
    run_name: str
    parent: str | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    process: Mapping[str, str]
    dataset: Mapping[str, str]
    state: State
    began: int = field(default_factory=now_ms)
    record_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def write_note(folder: Path, note: Note) -> None:
    """Write ``tracking.json``, whole or not at all."""
    write_json(folder / NOTE, asdict(note))


def read_note(folder: Path) -> Note | None:
    """The note in ``folder``; None where there is none.

    Raises:
        UserError: the file is no such note.
    """
    path = folder / NOTE
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        note = Note(**values)
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as the note of a tracker ({error}). {_TODO}") from None
    texts = (note.uri, note.experiment, note.run_name, note.record_id)
    maps = (note.params, note.tags, note.process, note.dataset)
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(isinstance(each, dict) and all(isinstance(value, str) for value in each.values()) for each in maps)
        or note.state not in STATES
        or type(note.began) is not int
    ):
        raise UserError(
            f"{path}: a value is of the wrong kind (keys: {', '.join(f.name for f in fields(Note))}). {_TODO}"
        )
    return note


_TODO = "The run's record is not touched by this; remove the file to leave MLflow out."
