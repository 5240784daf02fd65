"""A disk that takes no more: known by its errors, whoever wrote, and said in one message."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from dro_lab.errors import UserError
from dro_lab.secrets import beginning

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""No space, no quota, mounted read-only, a file larger than allowed."""
SAID = re.compile(r"os error (28|122|30|27)\b|No space left|Read-only file system|file write failed|File too large")
"""What safetensors and torch, whose errors have no number, say of the same."""


def is_full(error: BaseException) -> bool:
    """Whether it says that nothing more can be written."""
    if isinstance(error, UserError):
        return False
    return getattr(error, "errno", None) in FULL or SAID.search(str(error)) is not None


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
