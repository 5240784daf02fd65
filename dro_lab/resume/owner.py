"""Whose a lock is, and whether that process is gone: for file systems whose locks cannot say it. Imports nothing heavy.

A lock that the system holds for a process, and takes back when the process ends, is the best evidence there is, but not
every file system gives it: Lustre without ``flock`` refuses it, and Lustre with ``localflock``, BeeGFS and some mounts
of NFS lock for one host alone, so that a lock looks free while a process of another host has it. So the process that
has a lock also writes its name into it (host, number, start, and Slurm's job), and removes it when it ends in order.
Who finds a name there that another process left decides so:

- The lock could be taken, and the name is of this host, or the file system's locks reach all hosts (`locks_reach`):
  the process is gone. This is how a Slurm job that is queued anew on another node goes on by itself.
- Slurm started the named job again, and this is the later start: gone, on every file system.
- There are no locks, and the name is of this host: its process is looked for.
- Else nobody can know. The run is never gone on with by itself, since two processes would spoil one record; the user
  says that it is dead, with ``resume=FOLDER``.

A lock without a name is nobody's: its process ended in order, or is of a version that wrote none. Without locks, two
commands that are typed within the same few milliseconds can still take one folder.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

SLACK = 2.0
"""Seconds by which two readings of one process's start may differ: the clock may be set meanwhile."""
MOUNTS = Path("/proc/self/mounts")
LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
)
"""File systems of one host: whoever else sees a file there, as another container does, sees its locks too."""
ACROSS = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock"),
    "lustre": ("localflock", "noflock"),
    "ceph": (),
    "ocfs2": ("localflocks",),
    "gfs2": ("localflocks",),
    "cifs": ("nobrl",),
    "smb3": ("nobrl",),
}
"""File systems whose locks reach all hosts, and the options with which they do not."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that has a lock.

    Args:
        start: of the process, in seconds since 1970.
        job: Slurm's number of the job; "" outside of one.
        restarts: how often Slurm started the job anew.
    """

    host: str
    pid: int
    start: float
    job: str = ""
    restarts: int = 0

    @property
    def here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()

    def is_gone(self, *, locked: bool, folder: Path) -> bool | None:
        """Whether it ended; None where that cannot be known.

        Args:
            locked: the system's lock on a file in ``folder`` is ours; False: there are no locks.
        """
        me = this_process()
        if me.job and me.job == self.job and me.restarts > self.restarts:
            return True
        if locked:
            return True if self.here or locks_reach(folder) else None
        return self._ended() if self.here else None

    def _ended(self) -> bool:
        import psutil

        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.start) > SLACK or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # it is there, and we may not look at it
            return False

    def line(self) -> str:
        """As it stands in a lock."""
        return json.dumps(asdict(self))


def this_process() -> Owner:
    """The name of this process."""
    import psutil

    job, restarts = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "")
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        start=round(psutil.Process().create_time(), 2),
        job=job,
        restarts=int(restarts) if restarts.isdigit() else 0,
    )


def read_owner(line: str) -> Owner | None:
    """The process that a line of a lock names; None where it names none."""
    try:
        found = json.loads(line)
        return Owner(str(found["host"]), int(found["pid"]), float(found["start"]), str(found["job"]), found["restarts"])
    except (ValueError, KeyError, TypeError):
        return None


def locks_reach(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether locks on files in this folder are seen by every host that sees the files, by what is mounted there.

    True where the system has no such table: those have no file systems of clusters.
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    place, best, kind, options = Path(os.path.realpath(folder)), -1, "", set[str]()
    for _, point, found, given, *_ in (line.split() for line in table):
        where = Path(point.replace("\\040", " "))
        if place.is_relative_to(where) and len(where.parts) >= best:  # a later mount covers an earlier one
            best, kind, options = len(where.parts), found, set(given.split(","))
    if kind == "lustre" and "flock" not in options:
        return False
    return kind in LOCAL or (kind in ACROSS and not options & set(ACROSS[kind]))
