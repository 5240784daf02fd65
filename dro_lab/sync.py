"""``python -m dro_lab.sync [OUTPUTS|RUN ...]``: upload to MLflow what it lacks of recorded runs.

A run's record is the buffer: whatever MLflow missed (``tracking.offline=true``, a server that went away, a kill) is
there. What MLflow has already is not sent again, so the command may be repeated, and goes on where it was cut short.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dro_lab.commands import BAD_INPUT, command
from dro_lab.errors import UserError
from dro_lab.tracking.note import NOTE, SWEEP_NOTE, Note, read_note, write_note

if TYPE_CHECKING:
    from mlflow import MlflowClient

USAGE = """\
usage: python -m dro_lab.sync [OUTPUTS|RUN ...] [uri=URI]

Uploads to MLflow what it lacks of recorded runs: of those with tracking.offline=true, of those whose server went away,
and of those that were killed. What MLflow has already is not sent again: the command may be repeated and interrupted.

  OUTPUTS|RUN  folders of runs, or folders that hold such folders; default: outputs
  uri=URI      another MLflow than the runs name (sqlite:///PATH or http://HOST:PORT), also for runs that theirs has

Exit status: 0 all is there (or its process still mirrors it), 2 something is wrong or could not be sent.
"""
SKIP = ("mlflow-artifacts", "policy", "figures", "trainer", ".hydra")
"""Folders in which no run lies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return command(arguments, _sync, usage=USAGE, interrupted="interrupted; the same command goes on from here")


def _sync(given: list[str]) -> int:
    uri, places = _arguments(given)
    folders = [folder for place in places for folder in find_runs(place)]
    sweeps = dict.fromkeys(found for place in places for found in find_sweeps(place))
    if not folders and not sweeps:
        raise UserError(
            f"{', '.join(map(str, places))}: no run with a {NOTE} in there, which tracking=mlflow writes. Give the "
            "folder of a run or one that holds runs."
        )
    stores = Stores()
    counts: Counter[str] = Counter()
    for folder in dict.fromkeys(folders):
        try:
            said, line = sync_run(folder, stores, uri=uri)
        except (UserError, OSError) as error:
            counts["failed"] += 1
            stores.say_once(folder, error)
        else:
            counts[said] += 1
            print(f"{said:<9}{_short(folder)}{line}", flush=True)
    for folder in sweeps:
        _tell_of_sweep(folder, stores, counts, uri=uri)
    total = sum(counts.values())
    words = ", ".join(f"{count} {said}" for said, count in counts.items())
    print(f"{total} run{'s' if total != 1 else ''}: {words}")
    return BAD_INPUT if counts["failed"] else 0


def _arguments(given: Sequence[str]) -> tuple[str | None, list[Path]]:
    uri = None
    places = []
    for argument in given:
        key, equals, value = argument.partition("=")
        if argument.startswith("-") or (equals and key != "uri" and not Path(argument).exists()):
            raise UserError(f"{key}: unknown option. Allowed: folders, uri=URI, --help")
        if equals and key == "uri":
            uri = value
        else:
            places.append(Path(argument))
    if uri is not None:
        from dro_lab.tracking.database import check_uri

        check_uri(uri, key="uri")
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: is not a folder. Give the folder of a run or one that holds runs.")
    if not places and not Path("outputs").is_dir():
        raise UserError("outputs: there is no such folder here. Give the folder of a run or one that holds runs.")
    return uri, places or [Path("outputs")]


def find_runs(place: Path, note: str = NOTE) -> list[Path]:
    """The folders at and below ``place`` with a tracker's note, in order."""
    found = []
    for folder, below, files in os.walk(place):
        below[:] = sorted(set(below).difference(SKIP))
        if note in files:
            found.append(Path(folder))
    return found


def find_sweeps(place: Path) -> list[Path]:
    """The folders at and below ``place`` of sweeps whose trials are sent later."""
    return find_runs(place, SWEEP_NOTE)


class Stores:
    """The stores that were opened, each once; one that refused is not asked again."""

    def __init__(self) -> None:
        self._clients: dict[str, MlflowClient | UserError] = {}
        self._said: set[str] = set()

    def say_once(self, folder: Path, error: Exception) -> None:
        """Print what went wrong; a server that is down is said once."""
        if str(error) not in self._said:
            self._said.add(str(error))
            print(f"error: {_short(folder)}: {error}", file=sys.stderr)

    def client(self, uri: str) -> MlflowClient:
        """Raises `UserError` where the store cannot be used."""
        from dro_lab.tracking.database import check_store, explain
        from dro_lab.tracking.mlflow import quieten
        from dro_lab.tracking.store import one_at_a_time, open_client

        if uri not in self._clients:
            try:
                quieten()
                check_store(uri, lock_wait=5.0)
                with one_at_a_time(uri):
                    self._clients[uri] = open_client(uri)
            except Exception as error:
                self._clients[uri] = explain(error, uri=uri)
        found = self._clients[uri]
        if isinstance(found, UserError):
            raise found
        return found

    def ask_again(self, uri: str) -> None:
        """Something failed there: ask nothing more of a store that is gone."""
        from dro_lab.tracking.database import check_store

        try:
            check_store(uri, lock_wait=5.0)
        except UserError as error:
            self._clients[uri] = error


def sync_run(folder: Path, stores: Stores, *, uri: str | None = None) -> tuple[str, str]:
    """Upload what MLflow lacks of the run in ``folder``; what was done in one word, and the rest of the line.

    Args:
        uri: another store than the run's own; None: the run's own.

    Raises:
        UserError: the note or the record is damaged, or the store refuses.
    """
    from dro_lab.tracking.killed import is_gone

    with alone(folder) as mine:
        if not mine:
            return "skipped", ": another sync is at work on it"
        note = read_note(folder)
        if note is None:
            return "skipped", f": its {NOTE} is gone"
        if uri is None and note.state == "whole":
            return "there", f": {note.uri} has all of it"
        if uri is None and note.state == "live" and not is_gone(note.process):
            return "running", f": its own process mirrors it to {note.uri}"
        return _send(folder, note, stores, uri=uri)


def _tell_of_sweep(folder: Path, stores: Stores, counts: Counter[str], *, uri: str | None) -> None:
    """Give the sweep's run what the sweep came to; what goes wrong is counted and said."""
    from dro_lab.tracking.database import explain
    from dro_lab.tracking.sweep_note import read_sweep_note, send_sweep

    try:
        note = read_sweep_note(folder)
        if note is None or (uri is None and note.whole):
            return
        to = uri or note.uri
        client = stores.client(to)
        try:
            status = send_sweep(client, folder, uri=to)
        except Exception as error:
            raise explain(error, uri=to) from None
        hint = "; it is still running: once more at its end" if status == "running" else f", {status}"
        print(f"sweep    {_short(folder)}: its run in {to} shows its trials{hint}", flush=True)
    except (UserError, OSError) as error:
        counts["failed"] += 1
        stores.say_once(folder, error)


def _send(folder: Path, note: Note, stores: Stores, *, uri: str | None) -> tuple[str, str]:
    from dro_lab.tracking.database import explain
    from dro_lab.tracking.store import artifact_root, mirror, parent_experiment
    from dro_lab.tracking.sweep_note import sweep_of, sweep_run

    to = (
        note if uri in (None, note.uri) else replace(note, uri=str(uri), artifacts=artifact_root(str(uri)), parent=None)
    )
    client = stores.client(to.uri)
    try:
        if to.parent is None and (sweep := sweep_of(folder)) is not None:
            to = replace(to, parent=sweep_run(client, sweep, uri=to.uri))
        if to.parent is not None:  # MLflow shows a run below another of its own experiment only
            to = replace(to, experiment=parent_experiment(client, to.parent, uri=to.uri))
        sent = mirror(client, to, folder)
    except Exception as error:
        failure = explain(error, uri=to.uri)
        stores.ask_again(to.uri)
        raise failure from None
    if sent.status != "running" and to.uri == note.uri and read_note(folder) == note:  # else it went on meanwhile
        write_note(folder, replace(to, state="whole"))
    said = "so far" if sent.status == "running" else "sent"
    hint = "; it is still running: once more at its end" if sent.status == "running" else f", {sent.status}"
    return said, f": {sent.points} points and {sent.files} files to {to.uri}{hint}"


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process is the only one that syncs the folder; it stays that until the end."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _short(folder: Path) -> str:
    return shlex.quote(str(folder))


if __name__ == "__main__":
    sys.exit(main())
