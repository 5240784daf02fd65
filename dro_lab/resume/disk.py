"""A run's folder that takes no more: known by its errors, whoever wrote, and said in one message.

A full disk, a quota, or a file system that is mounted read-only is one wherever it is met. Permissions that were taken
away and devices that went away (EACCES, EPERM, EIO, ESTALE) count where the failing path lies in the run's folder: a
data set that may not be read is another mistake, and stays one. An error without a path, as of a write to an open file,
counts where code that writes a run raised it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from dro_lab.errors import UserError
from dro_lab.secrets import beginning

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""No space, no quota, mounted read-only, a file larger than allowed."""
FULL_SAID = re.compile(
    r"os error (28|122|30|27)\b|No space left|quota exceeded|Read-only file system|file write failed|File too large",
    re.IGNORECASE,
)
"""What safetensors and torch, whose errors have no number, say of the same."""
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE})
"""Not permitted, or the device or its server went away."""
DENIED_SAID = re.compile(
    r"os error (13|1|5|116)\b|Permission denied|Operation not permitted|Input/output error|Stale file handle"
)
QUOTED = re.compile(r"'([^']*/[^']*)'|\"([^\"]*/[^\"]*)\"")
"""A path in an error's words."""
PACKAGE = Path(__file__).resolve().parents[1]
WRITERS = ("record/", "resume/", "training/keep.py", "training/weights.py")
"""The code that writes a run."""


def refuses_writes(error: BaseException, folder: Path) -> bool:
    """Whether it says that nothing more can be written into a run's folder."""
    if isinstance(error, UserError | ValueError):
        return False
    number, text = getattr(error, "errno", None), str(error)
    if number in FULL or FULL_SAID.search(text):
        return True
    if number not in DENIED and not DENIED_SAID.search(text):
        return False
    if paths := list(_paths(error)):
        return any(path.is_relative_to(os.path.realpath(folder)) for path in paths)
    return _of_a_writer(error.__traceback__)


def cannot_go_on(folder: Path, error: BaseException) -> UserError:
    """What the user reads. ``folder``: of the run."""
    step = max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=None)
    why = getattr(error, "strerror", None) or beginning(" ".join(str(error).split()), 160)
    place = getattr(error, "filename", None) or folder
    goes_on = f"from step {step}" if step else "from its start"
    return UserError(
        f"{place}: the run cannot be written any more ({why}). Make room, or make the folder writable; the same "
        f"command then goes on {goes_on}. Nothing that was saved is lost."
    )


def _paths(error: BaseException) -> Iterator[Path]:
    """The files that an error is about: those that it has, else those that its words name."""
    given = [getattr(error, name, None) for name in ("filename", "filename2")]
    if any(name is not None for name in given):
        found = [os.fsdecode(name) for name in given if isinstance(name, str | bytes | os.PathLike)]
    else:
        found = [one or other for one, other in QUOTED.findall(str(error))]
    for name in found:
        yield Path(os.path.realpath(name))


def _of_a_writer(trace: TracebackType | None) -> bool:
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE) and file.relative_to(PACKAGE).as_posix().startswith(WRITERS):
            return True
        trace = trace.tb_next
    return False
