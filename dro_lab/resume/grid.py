"""A grid of runs that is typed again: one that did not come to its end goes on in its folder, and what is done stays.

``grid.lock`` in a grid's folder is locked as long as the grid's process lives, and goes when all jobs are done. Until
then a finished job keeps its ``run.lock``, whose line says of which configuration it is. Imports nothing heavy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dro_lab.resume.lock import GRID_LOCK, LOCK, RunLock, take, written
from dro_lab.resume.settings import AUTO, FOR_NO_NUMBER, fingerprint

DONE = ("finished", "stopped")
"""Statuses of a run that came to its end; a health monitor's stop is one."""


COMPOSING = "composing"
"""The mark of a configuration that is not whole yet."""


def is_composing(root: DictConfig) -> bool:
    """Whether Hydra is still putting the configuration together.

    Merging looks at what it replaces: a folder that is asked for then is not the one that the run gets.
    """
    return bool(OmegaConf.is_missing(root.hydra.runtime, "version"))


def grid_mark(*, _root_: DictConfig) -> str:
    """Equal for two grids that are the same: the configuration, and what was typed; empty where none may go on."""
    if is_composing(_root_):
        return COMPOSING
    try:
        if str(_root_.resume) != AUTO:
            return ""
        typed = [text for text in _root_.hydra.overrides.task if _group(text) not in FOR_NO_NUMBER]
        return sha256(json.dumps([fingerprint(_root_), typed]).encode()).hexdigest()
    except OmegaConfBaseException:  # what is wrong with the configuration is said where it is checked
        return ""


def _group(override: str) -> str:
    """The first word of an override's key."""
    key: str = OverridesParser.create().parse_override(override).key_or_group
    return key.replace("/", ".").partition(".")[0]


def unfinished(locks: Iterable[Path], mark: str) -> RunLock | None:
    """The newest grid with this mark that did not come to its end and that no living process has; it is taken."""
    for lock in sorted(locks, key=changed, reverse=True):
        if written(lock.parent, GRID_LOCK) == mark and (held := take(lock.parent, make=False, name=GRID_LOCK)):
            return held
    return None


def changed(path: Path) -> float:
    """When a file was last written; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_open(grid: Path) -> bool:
    """Whether a folder is that of a grid that did not come to its end."""
    return (grid / GRID_LOCK).exists()


def announcement(grid: Path) -> str:
    """What a user reads of a grid that goes on."""
    jobs = [path.parent for path in grid.glob("*/summary.json") if (path.parent / LOCK).exists()]
    done = sum(status(job) in DONE for job in jobs)
    return f"grid     {grid}: goes on, {done} of its jobs done before (resume=never: a new grid)"


def status(folder: Path) -> str | None:
    """The status in a run's summary; None where there is no summary."""
    try:
        content: object = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "unreadable"
    return str(content.get("status")) if isinstance(content, dict) else "unreadable"


def recorded_objective(folder: Path) -> float:
    """What a job that is done returned; says that it is not run again."""
    print(f"done     {short(folder)}: this job of the grid had finished", flush=True)
    objective = json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("objective")
    return math.nan if objective is None else float(objective)


def short(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def free_name(grid: Path, name: str) -> str:
    """A job's folder in its grid: ``name``, or ``name_2`` and so on where those before it hold a run that failed."""
    number, found = 1, name
    while status(grid / found) in ("failed", "unreadable"):
        number += 1
        found = f"{name}_{number}"
    return found


def close(held: RunLock) -> None:
    """All jobs are done: nobody goes on with this grid or its jobs."""
    for lock in held.path.parent.glob(f"*/{LOCK}"):
        if status(lock.parent) in DONE:
            lock.unlink(missing_ok=True)
    held.release(remove=True)
