"""Checks of an MLflow store that cost milliseconds, so that a bad one is refused before any training."""

from __future__ import annotations

import http.client
import importlib.util
import re
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dro_lab.errors import UserError
from dro_lab.secrets import hide

WAY_OUT = "or go without it: tracking.offline=true (`python -m dro_lab.sync` uploads later) or tracking=none."
PROBE = 5.0
"""Seconds to wait for a server's first sign of life."""
NOT_THERE = (502, 503, 504)
"""What a gateway answers for a server that is not."""
OPENING = 120.0
"""Seconds to wait for another job that is creating the same database; that takes seconds."""


def sqlite_path(uri: str) -> Path | None:
    """The file behind ``sqlite:///PATH``; None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check_uri(uri: object, *, key: str = "tracking.uri") -> str:
    """``uri`` itself. It is recorded, so it may not hold a password.

    Raises:
        UserError: not the URI of a store, or one with a password or a user of a server, which is not shown.
    """
    if not isinstance(uri, str):
        raise UserError(f"{key}={uri}: must be a text or null; put quotes around it")
    try:
        parts = urlsplit(uri)
        secret = parts.password or (parts.username if uri.startswith("http") else None)
    except ValueError:
        raise UserError(f"{key}: cannot be read as an address; give sqlite:///PATH or http://HOST:PORT") from None
    if secret or "@" in parts.netloc.rpartition("@")[0]:
        raise UserError(
            f"{key}: must not hold a user or a password, since it is recorded. Export MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) for a server, PGPASSWORD or the client's password "
            "file for a database"
        )
    if "://" not in uri and uri != "databricks":
        raise UserError(f"{key}={uri!r} is not a URI: give sqlite:///PATH or http://HOST:PORT, {WAY_OUT}")
    return uri


def check_store(uri: str, *, lock_wait: float) -> None:
    """Refuse a store that cannot be used: not writable, locked, of another version, or unreachable.

    A server that does not answer is known after `PROBE` seconds.

    Raises:
        UserError: naming ``tracking.uri`` and what to do.
    """
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path, uri=uri, lock_wait=lock_wait)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)


def _check_sqlite(path: Path, *, uri: str, lock_wait: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opening(path), closing(sqlite3.connect(path, timeout=lock_wait, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # the lock that a writer needs
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            query = "SELECT version_num FROM alembic_version"
            found = connection.execute(query).fetchone() if "alembic_version" in tables else None
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise explain(error, uri=uri) from None
    expected = newest_revision()
    if found is not None and expected is not None and found[0] != expected:
        raise another_version(uri, detail=f"it is at {found[0]}, this MLflow needs {expected}")


def _check_server(uri: str) -> None:
    """Any answer at all will do: whether this user may write is MLflow's to say."""
    # nothing secret is sent, so the certificate is left to MLflow too, which has settings of its own for it
    context = ssl._create_unverified_context() if uri.startswith("https") else None
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE, context=context).close()
    except urllib.error.HTTPError as answer:
        if answer.code in NOT_THERE:
            raise explain(answer, uri=uri) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise explain(getattr(error, "reason", None) or error, uri=uri) from None


def newest_revision() -> str | None:
    """The schema revision that the installed MLflow writes, read from its migration files without importing it.

    None where the files do not say it: then MLflow's own check decides, when the run is opened.
    """
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return None
    revisions, parents = set(), set()
    for file in (Path(spec.origin).parent / "store/db_migrations/versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(re.findall(r'^revision\s*(?::.*)?=\s*["\'](\w+)', text, re.M))
        for line in re.findall(r"^down_revision\s*(?::.*)?=\s*(.+)$", text, re.M):
            parents.update(re.findall(r'["\'](\w+)["\']', line))
    heads = revisions - parents
    return heads.pop() if len(heads) == 1 else None


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Hold the lock beside the database, so that of jobs that start together one creates it and the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks; MLflow's own guards remain
        yield
        return
    with path.with_name(path.name + ".lock").open("a") as file:
        deadline = time.monotonic() + OPENING
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another job has been creating {path} for {OPENING:.0f} s") from None
                time.sleep(0.05)
        yield


def another_version(uri: str, *, detail: str) -> UserError:
    """The database was written by another version of MLflow."""
    return UserError(
        f"tracking.uri={uri}: the database was written by another version of MLflow ({detail}). Back it up and run "
        f"`mlflow db upgrade {uri}`, give another database (tracking.uri=sqlite:///PATH), {WAY_OUT}"
    )


def explain(error: object, *, uri: str) -> UserError:
    """One message for whatever the store answered."""
    text = hide(" ".join(str(error).split()))
    if isinstance(error, UserError):
        return error
    if "locked" in text:
        return UserError(
            f"tracking.uri={uri}: the database is locked by another program. End that program or wait for it, "
            f"give another database (tracking.uri=sqlite:///PATH), {WAY_OUT}"
        )
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return another_version(uri, detail=text.split(". Take")[0])
    if isinstance(error, PermissionError) or "readonly" in text or "unable to open" in text:
        return UserError(
            f"tracking.uri={uri}: the database cannot be written ({text}). Give a folder that you may write to "
            f"(outputs=DIR or tracking.uri=sqlite:///PATH), {WAY_OUT}"
        )
    if uri.startswith("http"):
        return UserError(
            f"tracking.uri={uri}: the MLflow server does not answer ({text[:300]}). Start it, correct the address, "
            f"take the local database (tracking.uri=null), {WAY_OUT}"
        )
    return UserError(f"tracking.uri={uri}: MLflow refused ({text[:300]}). Mend it, take another database, {WAY_OUT}")
