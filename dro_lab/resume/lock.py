"""One process a run: ``run.lock`` in its folder, locked as long as the process lives, however it ends."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

LOCK = "run.lock"
"""Holds one line, the run's `dro_lab.resume.settings.fingerprint`, and goes when the run is finished."""


@dataclass
class RunLock:
    """A lock that this process holds; the system takes it back when the process ends, also by kill -9."""

    path: Path
    handle: int

    def write(self, fingerprint: str) -> None:
        """Say whose run it is."""
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, f"{fingerprint}\n".encode(), 0)

    def release(self, *, remove: bool) -> None:
        """Give it back; ``remove``: nobody will go on with this run."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.handle)


def take(folder: Path, *, make: bool = True, name: str = LOCK) -> RunLock | None:
    """The lock of a run's folder; None where another process has it, or there is none and ``make`` is false.

    Where the file system knows no locks, the folder is taken as it is.
    """
    path = folder / name
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o644)
    except FileNotFoundError:
        if make:
            raise
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        return RunLock(path, handle)
    if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:  # removed by who finished just now
        os.close(handle)
        return take(folder, make=make, name=name)
    return RunLock(path, handle)


def written(folder: Path, name: str = LOCK) -> str | None:
    """The fingerprint in a folder's lock file; None where there is none."""
    try:
        return (folder / name).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
