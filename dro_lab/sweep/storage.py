"""Optuna's storage: opened with patience, and refused in one message where it cannot be used."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.utils import instantiate

from dro_lab.errors import UserError
from dro_lab.secrets import beginning

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.study import Study

SQLITE = "sqlite:///"
STUDIES = "studies"
"""The table by which an Optuna storage is known."""
FIRST_WAIT, WAIT = 3.0, 60.0
"""Seconds to wait for a database that is written to: before a sweep begins, and while it goes on."""


def absolute(url: str, cwd: str) -> str:
    """``url`` with the file of an SQLite database made absolute."""
    return f"{SQLITE}{Path(cwd) / url.removeprefix(SQLITE)}" if url.startswith(SQLITE) else url


def is_new(url: str) -> bool:
    """Whether the storage is an SQLite file that does not exist yet."""
    return url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists()


def check_free(url: str, *, wait: float = FIRST_WAIT) -> None:
    """Refuse an SQLite database that another process has locked, that is none, or that is another program's (Optuna
    would add its tables to it); nothing is written.

    Raises:
        UserError: naming the storage and what to do.
    """
    if not url.startswith(SQLITE) or is_new(url):
        return
    try:
        with closing(sqlite3.connect(url.removeprefix(SQLITE), timeout=wait, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # the lock that a writer needs
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise refused(url, error) from None
    if tables and STUDIES not in tables:
        raise refused(url, ValueError(f"it is another program's database, with tables such as {tables[0]}"))


def open_storage(url: str) -> RDBStorage:
    """The storage at ``url``, made where it is missing.

    Raises:
        UserError: it cannot be opened, or is of another version of Optuna.
    """
    options = {"connect_args": {"timeout": WAIT}} if url.startswith(SQLITE) else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy's, the driver's, Optuna's: none is worth a traceback
        raise refused(url, error) from None


def find_study(url: str, name: str) -> Study | None:
    """The study ``name`` in an existing storage; None where there is none yet."""
    if is_new(url):
        return None
    storage = open_storage(url)
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return None
    return optuna.load_study(study_name=name, storage=storage)


def refused(url: str, error: Exception) -> UserError:
    """One message for whatever the storage answered."""
    text = beginning(" ".join(str(error).split()), 300)
    where = f"hydra.sweeper.storage={url}"
    if "locked" in text:
        return UserError(
            f"{where}: the database is locked by another process. End that process or wait for it, then type the same "
            "command again"
        )
    if "no longer compatible" in text:
        return UserError(
            f"{where}: the study was written by another version of Optuna ({text}). Continue it with that version, or "
            "begin another with hydra.sweeper.study_name=NAME"
        )
    return UserError(
        f"{where}: cannot be used as a storage ({text}). Give sqlite:///PATH in a folder that you may write to, or "
        "another database that Optuna takes"
    )


def make_sampler(options: Any) -> Any:
    """The sampler that the options describe (Optuna's GridSampler as a function of its grid)."""
    allowed = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
    made: BaseSampler = instantiate(options, _execution_whitelist_=allowed)
    return made


def make_pruner(options: Any) -> BasePruner:
    """The pruner that the options describe; None is Optuna's that never prunes."""
    if options is None:
        return optuna.pruners.NopPruner()
    made: BasePruner = instantiate(options, _execution_whitelist_=("optuna.pruners.*",))
    return made
