"""Which folder a run gets: that of a killed run of the same configuration, or a new one that nobody else has.

Hydra makes a run's folder before the job begins, so the choice is made where it reads the folder's name: by the
resolvers ``run_folder``, ``grid_folder`` and ``job_folder`` of conf/config.yaml. Imports nothing heavy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dro_lab.errors import UserError
from dro_lab.launch.world import world
from dro_lab.resume import grid
from dro_lab.resume.lock import LOCK, RunLock, take, written
from dro_lab.resume.settings import AUTO, NEVER, fingerprint

GOES_ON = ("running", "interrupted")
"""Statuses of ``summary.json`` that a run can go on from. A process that is killed leaves ``running``."""
DATED = "[0-9][0-9][0-9][0-9]-*"
PLACES = (f"{DATED}/*/{LOCK}", f"{DATED}/*/*/{LOCK}")
"""Where below ``outputs`` runs lie: by themselves, and as jobs of a grid."""
LOOKS_ONLY = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help"}

_held: dict[Path, RunLock] = {}
"""Locks of folders that were chosen for a run which is about to begin."""
_chosen: dict[str, str] = {}
"""What was chosen for it, by the name of a new folder."""
_grids: list[RunLock] = []
"""The lock of the grid that this process runs; none or one."""


class Taken(Enum):
    """What a run finds in its folder."""

    NEW = auto()
    GOES_ON = auto()  # a run of this configuration that stopped
    DONE = auto()  # this job of a grid, finished before the grid was typed again


def register() -> None:
    """Make the resolvers known."""
    OmegaConf.register_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_resolver("grid_folder", grid_folder, use_cache=True, replace=True)
    OmegaConf.register_resolver("grid_mark", grid.grid_mark, replace=True)


def run_folder(path: str, *, _root_: DictConfig) -> str:
    """The folder of a run by itself. ``path``: of a new one."""
    if _looks_only() or grid.is_composing(_root_):
        return path
    if path not in _chosen:  # once: Hydra reads the name more often
        _chosen[path] = str(_continued(_root_) or _new(Path(path), hold=True))
    return _chosen[path]


def grid_folder(path: str, outputs: str = "", mark: str = "") -> str:
    """The folder of a grid of runs, the same wherever Hydra asks for it again.

    Args:
        path: of a new one.
        outputs: where an earlier one may lie.
        mark: the grid's `dro_lab.resume.grid.grid_mark`; empty: always a new one.
    """
    if _looks_only() or mark == grid.COMPOSING:
        return path
    if not _grids:
        held = grid.unfinished(Path(outputs).glob(f"{DATED}/*/{grid.GRID_LOCK}"), mark) if mark else None
        if held is not None:
            print(grid.announcement(held.path.parent), flush=True)
        elif (held := take(_new(Path(path), hold=False), name=grid.GRID_LOCK)) is not None:
            held.write(mark)
        else:
            return path
        _grids.append(held)
    return str(_grids[0].path.parent)


def job_folder(name: str, *, _root_: DictConfig) -> str:
    """The folder of a grid's job below the grid's own; that of an earlier run to go on with is absolute."""
    if _looks_only() or grid.is_composing(_root_):
        return name
    if name not in _chosen:
        found = _continued(_root_)
        _chosen[name] = grid.free_name(Path(_root_.hydra.sweep.dir), name) if found is None else str(found.absolute())
    return _chosen[name]


def end_grid() -> Path | None:
    """All jobs of the grid that this process runs are done; its folder, None where it runs none."""
    if not _grids:
        return None
    held = _grids.pop()
    grid.close(held)
    return held.path.parent


@contextmanager
def taken(folder: Path, cfg: DictConfig, *, searched: bool) -> Iterator[Taken]:
    """Take the folder for a run as long as it lasts; gives what it holds.

    Args:
        searched: the run is a sweep's, which knows by itself which of its jobs run and which are killed.

    Raises:
        UserError: another process has it, or it holds a run that this one cannot go on with.
    """
    if searched or not world().first:
        if grid.status(folder) is not None:
            raise UserError(_why_not(folder, "", same=False, resume=AUTO))
        yield Taken.NEW
        return
    lock, found = _begin(folder, cfg)
    _chosen.clear()
    try:
        yield found
    except BaseException:
        lock.release(remove=grid.status(folder) not in (*GOES_ON, "failed"))  # none: it was refused before it began
        raise
    lock.release(remove=not grid.is_open(folder.parent))  # else its line stays, for the grid to know it by


def forget() -> None:
    """Give back the folders that were chosen and never used."""
    for lock in (*_held.values(), *_grids):
        lock.release(remove=False)
    _held.clear()
    _chosen.clear()
    _grids.clear()


def _begin(folder: Path, cfg: DictConfig) -> tuple[RunLock, Taken]:
    named = cfg.resume not in (AUTO, NEVER) and Path(cfg.resume).resolve() == folder.resolve()
    lock = _held.pop(folder.absolute(), None) or take(folder, sure=named)
    if lock is None:
        raise UserError(
            f"hydra.run.dir={folder}: another process is writing this run. Wait for it, or give another folder."
        )
    status, whose = grid.status(folder), written(folder)
    try:
        mine = fingerprint(cfg)
    except OmegaConfBaseException:
        mine = ""  # what is wrong with the configuration is said by its check
    if status is None:
        lock.write(mine)
        return lock, Taken.NEW
    if cfg.resume != NEVER and whose == mine and _may(status, asked=cfg.resume != AUTO):
        return lock, Taken.GOES_ON
    if cfg.resume == AUTO and whose == mine and status in grid.DONE and _is_job_of(folder.parent):
        return lock, Taken.DONE
    lock.release(remove=whose is None)
    raise UserError(_why_not(folder, status, same=whose == mine, resume=cfg.resume))


def _is_job_of(place: Path) -> bool:
    """Whether this run is a job of the grid in ``place``, which did not come to its end."""
    given = HydraConfig.get()
    return (
        given.mode is RunMode.MULTIRUN and Path(given.sweep.dir).absolute() == place.absolute() and grid.is_open(place)
    )


def _may(status: str, *, asked: bool) -> bool:
    return status in GOES_ON or (asked and status == "failed")


def _why_not(folder: Path, status: str, *, same: bool, resume: str) -> str:
    if resume not in (AUTO, NEVER):
        over = not _may(status, asked=True)
        why = f"its status is {status}" if over or same else "it is a run of another configuration"
        return (
            f"resume={resume}: cannot be gone on with, {why} (its config.yaml: `python -m dro_lab.run --config-path "
            f"{folder.absolute()} --config-name config` repeats it). Give the run that stopped, or leave resume=auto."
        )
    return (
        f"hydra.run.dir={folder} already holds a run, and a record is never overwritten. "
        "Give another folder, or remove this one."
    )


def _continued(root: DictConfig) -> Path | None:
    """The folder of the newest run of the same configuration that stopped and nobody is writing; its lock is taken."""
    try:
        resume, outputs = str(root.resume), Path(str(root.outputs))
        if resume == NEVER or _searched():
            return None
        if resume != AUTO:
            return _given(Path(resume))
        mine = fingerprint(root)
    except OmegaConfBaseException:  # what is wrong with the configuration is said where it is checked
        return None
    found = [lock for place in PLACES for lock in outputs.glob(place)]
    for lock in sorted(found, key=grid.changed, reverse=True):
        folder = lock.parent
        if (
            written(folder) == mine
            and grid.status(folder) in GOES_ON
            and (held := take(folder, make=False)) is not None
        ):
            if grid.status(folder) in GOES_ON:  # still, now that nobody else can change it
                _held[folder.absolute()] = held
                return folder
            held.release(remove=False)
    return None


def _given(folder: Path) -> Path:
    """The folder that ``resume`` names."""
    if not (folder / "summary.json").exists():
        raise UserError(f"resume={folder}: holds no run. Give the folder of a run that stopped, or auto, or never.")
    return folder


def _searched() -> bool:
    """Whether the run is a trial of a sweep, which queues its killed trials anew by itself."""
    from dro_lab.sweep.trial import job_mark

    return HydraConfig.initialized() and job_mark() is not None


def _looks_only() -> bool:
    return bool(LOOKS_ONLY & {argument.split("=")[0] for argument in sys.argv[1:]})


def _new(path: Path, *, hold: bool) -> Path:
    """A new folder: ``path``, or where that is taken ``path_2`` and so on; two processes never make the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, made = 1, path
    while True:
        try:
            made.mkdir()
        except FileExistsError:
            if not made.is_dir():
                raise
            number += 1
            made = path.with_name(f"{path.name}_{number}")
        else:
            if hold and (lock := take(made)) is not None:
                _held[made.absolute()] = lock
            return made
