"""One process a run: ``run.lock`` in its folder, locked as long as the process lives, however it ends.

Its first line is the run's `dro_lab.resume.settings.fingerprint`; the second one names the process that has it, for
file systems whose locks do not say enough (`dro_lab.resume.owner`, which holds what was decided about them).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from dro_lab.errors import UserError
from dro_lab.resume.owner import Owner, read_owner, this_process

LOCK = "run.lock"
"""Goes when the run is finished."""
GRID_LOCK = "grid.lock"
"""In a grid's folder: its first line is the grid's `dro_lab.resume.grid.grid_mark`."""


@dataclass
class RunLock:
    """A lock that this process holds; the system takes it back when the process ends, also by kill -9."""

    path: Path
    handle: int

    def write(self, fingerprint: str) -> None:
        """Say whose run it is, and that this process has it."""
        content = f"{fingerprint}\n{this_process().line()}\n".encode()
        os.pwrite(self.handle, content, 0)  # over what was there, which is the same line where a run goes on
        os.ftruncate(self.handle, len(content))

    def release(self, *, remove: bool) -> None:
        """Give it back; ``remove``: nobody will go on with this run."""
        if remove:
            self.path.unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError):  # a disk that takes no more: the name stays, of a process that is gone
                os.ftruncate(self.handle, len(_first_line(self.handle)))
        os.close(self.handle)


def take(folder: Path, *, make: bool = True, name: str = LOCK, sure: bool = False) -> RunLock | None:
    """The lock of a run's folder; None where another process has it, or there is none and ``make`` is false.

    Args:
        sure: the user says that the process that had it is dead.

    Raises:
        UserError: a process of another host had it, and nobody can know whether that one lives.
    """
    path = folder / name
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o644)
    except FileNotFoundError:
        if make:
            raise
        return None
    except PermissionError:
        if make or path.stat().st_uid == os.geteuid():
            raise
        return None  # somebody else's
    locked = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # there are no locks here
        locked = False
    if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:  # removed by who finished just now
        os.close(handle)
        return take(folder, make=make, name=name, sure=sure)
    owner = read_owner(_owner_line(handle))
    gone = True if owner is None else owner.is_gone(locked=locked, folder=folder)
    if not gone and not (sure and gone is None):
        os.close(handle)
        if owner is not None and gone is None:
            raise UserError(_nobody_knows(folder, name, owner))
        return None
    held = RunLock(path, handle)
    if first := _first_line(handle).decode(errors="replace").strip():
        with contextlib.suppress(OSError):  # a full disk is met, and said, where the run is written
            held.write(first)
    return held


def written(folder: Path, name: str = LOCK) -> str | None:
    """The fingerprint in a folder's lock file; None where there is none."""
    try:
        return (folder / name).read_text(encoding="utf-8").partition("\n")[0].strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _first_line(handle: int) -> bytes:
    return os.pread(handle, 4096, 0).partition(b"\n")[0] + b"\n"


def _owner_line(handle: int) -> str:
    return os.pread(handle, 4096, 0).partition(b"\n")[2].decode(errors="replace")


def _nobody_knows(folder: Path, name: str, owner: Owner) -> str:
    grid = folder if name == GRID_LOCK else folder.parent
    in_grid = (grid / GRID_LOCK).exists()
    say = (
        f"`sed -i 2d {grid}/{GRID_LOCK} {grid}/*/{LOCK}`, and the same command goes on with the grid"
        if in_grid
        else f"resume={folder} goes on with it"
    )
    return (
        f"{folder}: did not end, and this host ({this_process().host}) cannot see whether process {owner.pid} of host "
        f"{owner.host} is still writing it: locks on this file system do not reach other hosts. If it is, wait for it. "
        f"If it was killed, say so: {say}. resume=never begins anew."
    )
