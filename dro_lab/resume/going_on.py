"""One run's resuming: what it goes on from, what it saves, and how it ends when it is stopped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from dro_lab.errors import UserError
from dro_lab.launch.group import same
from dro_lab.record.environment import command_line
from dro_lab.record.writer import NOTHING, Mark
from dro_lab.resume.checkpoint import Checkpoint, Checkpoints, link_folder, read_state
from dro_lab.resume.grid import short
from dro_lab.resume.interrupt import Interrupt
from dro_lab.resume.recorded import recorded_evaluations
from dro_lab.resume.settings import CheckpointSettings
from dro_lab.resume.steps import BEST, LAGGED, Carried, Saving
from dro_lab.tracking.names import rows_sha256
from dro_lab.types import Task

if TYPE_CHECKING:
    from dro_lab.lab import Run


@dataclass
class GoingOn:
    """How one run is saved and gone on with.

    Args:
        folder: of the run.
        settings: when to save; None: never, and Ctrl-C ends the run where it is (trials of a sweep, runs of a study).
        goes_on: the folder holds a run of this configuration that stopped.
    """

    folder: Path
    settings: CheckpointSettings | None = None
    goes_on: bool = False
    checkpoints: Checkpoints = field(init=False)
    found: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder, keep=self.settings.keep if self.settings else 1)

    def find(self, task: Task, *, planned: int, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """Find the newest whole checkpoint, and say from where the run goes on.

        Raises:
            UserError: the data are others than they were.
        """
        if not self.goes_on:
            return
        self.found = self.checkpoints.newest()
        for path, fault in self.checkpoints.passed_over:
            warn(f"checkpoint {short(path)}: {fault}; the one before it is taken")
        if self.found is None:
            say(f"resume   {short(self.folder)}: no checkpoint yet, from its start (resume=never: a new run)")
            return
        if self.found.state["data"] != rows_sha256(task.splits):
            raise UserError(
                f"{self.folder}: the run stopped at step {self.found.step} and cannot go on: dataset={task.name} has "
                "other rows now. Bring the rows back, or begin a new run with resume=never."
            )
        say(
            f"resume   {short(self.folder)}: goes on from step {self.found.step} of {planned} (resume=never: a new run)"
        )

    @property
    def mark(self) -> Mark | None:
        """Where the record goes on; None: a new one."""
        return self.found.mark if self.found else (NOTHING if self.goes_on else None)

    @property
    def step(self) -> int | None:
        """The step that the run goes on behind; 0 where it begins once more, None in a new run."""
        return self.found.step if self.found else (0 if self.goes_on else None)

    @property
    def checkpoint(self) -> str | None:
        """What the trainer goes on from."""
        return str(self.found.path) if self.found else None

    def saving(self, run: Run) -> Saving | None:
        """The trainer's callback that saves."""
        if self.settings is None:
            return None
        return Saving(
            checkpoints=self.checkpoints,
            record=run.record,
            every=self.settings.every,
            planned=run.cfg.steps,
            parts=lambda: parts_of(run),
            best=lambda: run.keeper.folder if run.keeper.best is not None else None,
            lagged=lambda: _lagged(run),
            about={"data": rows_sha256(run.built.task.splits)},
            interrupt=Interrupt(run.console.warn),
        )

    def restore(self, run: Run, *, rank: int = 0) -> None:
        """Bring the run's parts to where they were; weights, optimizer and random numbers are the trainer's to load."""
        same(None)  # the first rank has cut the record before any other reads it
        if self.goes_on and rank == 0:
            self.checkpoints.clear_aside()
            self.checkpoints.forget_after(self.found.step if self.found else -1)
            shutil.rmtree(run.keeper.folder, ignore_errors=True)
        if self.found is None:
            return
        carried = read_state(self.found.path, rank=rank)["parts"]
        for name, part in parts_of(run).items():
            part.resume(carried[name])
        policy = _policies(run).lagged
        if policy is not None:
            policy.load_state_dict(load_file(self.found.path / LAGGED))
        if rank == 0 and (self.found.path / BEST).is_dir():
            link_folder(self.found.path / BEST, run.keeper.folder)
        run.observer.evaluations = recorded_evaluations(self.folder)

    def how_to_go_on(self) -> str:
        """The lines for who stopped the run."""
        if self.settings is None:
            return ""
        step = self.checkpoints.last
        place = f"from step {step}" if step else "from its start: no checkpoint was due yet"
        return f"go on    {_command(self.folder)}\n         ({place})"


def parts_of(run: Run) -> Mapping[str, Carried]:
    """The parts of a run with memory."""
    assert run.scoring is not None
    assert run.trainer is not None
    parts: dict[str, Any] = {
        "clock": run.clock,
        "observer": run.observer,
        "watch": run.observer.watch,
        "keeper": run.keeper,
        "pipeline": run.scoring,
        "guard": run.trainer.guard,
        "judge": run.built.judge,
        "scorer": run.built.scorer,
        "references": run.references,
        "prompts": run.trainer.refill.prompts if run.trainer.refill else None,
    }
    return {name: part for name, part in parts.items() if hasattr(part, "carried")}


def _policies(run: Run) -> Any:
    assert run.scoring is not None
    return run.scoring.policies


def _lagged(run: Run) -> Mapping[str, Any]:
    policy = _policies(run).lagged
    return {} if policy is None else policy.state_dict()


def _command(folder: Path) -> str:
    """The command that goes on with the run: the same one, unless it asks for a new run."""
    said = [argument for argument in sys.argv[1:] if argument.startswith("resume=")]
    if not said or said[-1] == "resume=auto":
        return command_line()
    return command_line().replace(said[-1], f"resume={short(folder)}")
