"""The entry point: ``python -m dro_lab.run [group=option ...] [key=value ...]``.

Composes the configuration, refuses what is wrong in one message, and only then imports what is heavy.
"""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dro_lab.config import check, chosen_names
from dro_lab.errors import UserError
from dro_lab.explain import HELP, explain
from dro_lab.grid_end import say_what_next
from dro_lab.judges.keys import refuse_keys
from dro_lab.launch.world import check_launch, silent_rank, world
from dro_lab.listing import read_once
from dro_lab.loading import load_lab
from dro_lab.resume.grid import GRID_LOCK, recorded_objective
from dro_lab.resume.place import Taken, end_grid, forget, taken
from dro_lab.resume.settings import checkpoint_settings
from dro_lab.secrets import hide, hide_in_logs, refuse_recorded
from dro_lab.sweep.plugin import register
from dro_lab.sweep.trial import current_trial, job_mark

CONF = Path(__file__).resolve().parents[1] / "conf"  # absolute: found also when `main` is imported, not run with -m
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
MAIN = "MainProcess"
"""How multiprocessing names the process that a user started."""
SUBMITIT = "SUBMITIT_EXECUTOR"
"""Set in the jobs that submitit starts."""
NOTES = ".hydra"
"""Where Hydra notes the configuration of a job."""
GRID = "multirun.yaml"
"""What Hydra calls its note of a grid."""
FULL_ERROR = "HYDRA_FULL_ERROR"
"""Hydra's switch: raise errors instead of printing their tracebacks."""


def main() -> None:
    """The command line. Bad input ends in one message and status 2, Ctrl-C in status 130, a bug in its traceback."""
    try:
        refuse_keys(sys.argv[1:])  # before Hydra: it writes every override into the run's folder
        register()
        _grids.clear()
        forget()
        given = sys.argv
        sys.argv = [given[0], *silent_rank(given[1:])]
        try:
            with (
                env_override({FULL_ERROR: "1"}),
                _composing(),
                read_once() if {"--help", "-h"} & set(given) else nullcontext(),
            ):
                job()
        finally:
            sys.argv = given
        _grids.update(folder for folder in (end_grid(), _own_grid(given)) if folder is not None)
        for folder in _grids:
            say_what_next(folder)
    except KeyboardInterrupt:
        if world().size == 1:  # of several, each would say so behind the line on how to go on
            print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except UserError as error:
        _refuse(str(error))
    except Exception as error:
        inside = _inside_job(error.__traceback__)
        message = None if inside else _outside(error)
        if message is None:
            _print_traceback(error.with_traceback(inside))
            sys.exit(FAILED)
        _forget_grid(error.__traceback__)
        _refuse(message)


def _own_grid(given: list[str]) -> Path | None:
    """The folder that the user chose for a grid, whose jobs may have run in other processes."""
    own = [argument.partition("=")[2] for argument in given if argument.startswith("hydra.sweep.dir=")]
    return Path(own[-1]) if own and "${" not in own[-1] and {"--multirun", "-m"} & set(given) else None


def _process_name() -> str:
    """As multiprocessing calls this process; a process of its making has imported it."""
    loaded = sys.modules.get("multiprocessing")
    return str(loaded.current_process().name) if loaded is not None else MAIN


_grids: set[Path] = set()
"""The folders of the plain grids whose jobs ran in this process."""


@hydra.main(config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """Run one job; returns the objective to Hydra (for sweeps)."""
    searched = job_mark() is not None  # a trial's failure is the sweep's to write down, and does not end it
    worker = _process_name() != MAIN  # of the joblib launcher, which waits for ever if it exits
    try:
        return _job(cfg)
    except UserError as error:
        if searched or worker:
            raise
        _leave_nothing(Path(HydraConfig.get().runtime.output_dir))
        _refuse(str(error))
    except OmegaConfBaseException as error:
        message = explain(error) or str(error)
        if searched or worker:
            raise UserError(message) from error
        _leave_nothing(Path(HydraConfig.get().runtime.output_dir))
        _refuse(message)
    except SystemExit as error:
        if searched or worker:
            raise RuntimeError(f"the run left with exit status {error.code}") from error
        raise
    except Exception as error:
        if worker and not searched:  # a traceback does not travel between processes, and some errors do not either
            _print_traceback(error)
            raise RuntimeError(hide(f"a job failed with {type(error).__name__}: {error}")) from None
        raise


def _job(cfg: DictConfig) -> float:
    if job_mark() is None and HydraConfig.get().mode is RunMode.MULTIRUN:
        _grids.add(Path(HydraConfig.get().sweep.dir))
    folder = Path(HydraConfig.get().runtime.output_dir)
    gc.enable()
    hide_in_logs()
    _refuse_secrets(cfg, folder)
    names, searched = chosen_names(cfg, HydraConfig.get().runtime.choices), job_mark() is not None
    with taken(folder, cfg, searched=searched) as found:
        if found is Taken.DONE:
            return recorded_objective(folder)
        check(cfg)
        check_launch(cfg, names["launch"])
        trial = current_trial(cfg.objective)
        lab = load_lab(cfg.algorithm.get("report_to"))
        from dro_lab.sweep.claim import claimed

        # a sweep queues its killed trials anew: they are short, and its own ledger says which of them live
        settings = None if searched else checkpoint_settings(cfg.checkpoint)
        with claimed(folder, trial) if searched else nullcontext():
            objective = lab.run(cfg, names, folder, trial, settings=settings, goes_on=found is Taken.GOES_ON).objective
        trial.end()
    return objective


def _refuse_secrets(cfg: DictConfig, folder: Path) -> None:
    """A key that stands in a file of the user's, or comes from the environment by an interpolation, is not recorded."""
    hydra_config = HydraConfig.get()
    noted = [folder / hydra_config.output_subdir] if hydra_config.output_subdir else []
    if hydra_config.mode is RunMode.MULTIRUN:
        noted.append(Path(hydra_config.sweep.dir))
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    refuse_recorded(config, noted=noted)


def _print_traceback(error: BaseException) -> None:
    print(hide("".join(traceback.format_exception(error))), file=sys.stderr, end="")


@contextmanager
def _composing() -> Iterator[None]:
    """Composing makes many objects and hardly any garbage; looking for it would take a tenth of ``--help``."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _inside_job(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that lies in the job, without Hydra's frames above it; None where it never began."""
    while trace is not None and trace.tb_frame.f_code is not job.__wrapped__.__code__:
        trace = trace.tb_next
    return trace


def _forget_grid(trace: TracebackType | None) -> None:
    """Remove what is written of a grid before its jobs are composed, where no job began."""
    while trace is not None:
        place = trace.tb_frame.f_locals.get("sweep_dir")
        if isinstance(place, Path) and place.is_dir() and _holds_no_job(place):
            place = place.resolve()
            for name in (GRID, GRID_LOCK):
                (place / name).unlink(missing_ok=True)
            for folder in (place, *place.parents):
                if any(folder.iterdir()) or not folder.is_relative_to(Path.cwd()) or folder == Path.cwd():
                    return
                folder.rmdir()
        trace = trace.tb_next


def _leave_nothing(folder: Path) -> None:
    """Remove the folder of a run that was refused before it began, where Hydra's notes are all that is in it; then its
    grid's, and those above it that are empty now."""
    if [path.name for path in folder.glob("*")] != [NOTES] or not (folder / NOTES).is_dir():
        return
    grid = folder.parent
    for handler in list(logging.root.handlers):  # Hydra's, which opens its file when something is logged
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder.absolute():
            logging.root.removeHandler(handler)
            handler.close()
    try:
        for path in (folder / NOTES).iterdir():
            path.unlink()
        (folder / NOTES).rmdir()
        folder.rmdir()
        if _holds_no_job(grid):
            for name in (GRID, GRID_LOCK):
                (grid / name).unlink(missing_ok=True)
        while grid.resolve() != Path.cwd() and grid.resolve().is_relative_to(Path.cwd()):
            grid.rmdir()
            grid = grid.parent
    except OSError:  # something else lies there, and stays
        return


def _holds_no_job(grid: Path) -> bool:
    found = {path.name for path in grid.iterdir()}
    return bool(found) and found <= {GRID, GRID_LOCK}


def _outside(error: Exception) -> str | None:
    """The message for what fails in Hydra before a job begins."""
    inner: BaseException | None = error
    while isinstance(inner, OmegaConfBaseException):  # in it: what went wrong in the choice of the run's folder
        inner = inner.__context__
    error = inner if isinstance(inner, UserError | OSError) else error
    if isinstance(error, UserError):
        return str(error)
    if message := explain(error):  # first: some of Hydra's errors are OSErrors too
        return message
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return (
            f"hydra.run.dir: the run's folder cannot be made ({place}{error.strerror or error}). Give a folder that "
            "you may write to, for example outputs=/tmp/outputs or hydra.run.dir=/tmp/run."
        )
    if isinstance(error, ValueError):
        return f"configuration: {' '.join(str(error).split())}. Given: {' '.join(sys.argv[1:])}. {HELP}"
    return None


def _refuse(message: str) -> NoReturn:
    here, message = world(), hide(message)
    print(f"error: {message}" if here.size == 1 else f"error: process {here.rank}: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)  # passes through Hydra without a word


if __name__ == "__main__":
    main()
