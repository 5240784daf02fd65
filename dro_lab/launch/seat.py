"""Where a process of a run stands: the first writes and prints, the others keep what they write to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict
from transformers import TrainerCallback

from dro_lab.errors import NonFiniteError
from dro_lab.launch.group import join, ranks, same
from dro_lab.launch.world import check_wrapped, splits_weights, world

if TYPE_CHECKING:
    from dro_lab.build import Built
    from dro_lab.console import RunConsole


@dataclass(frozen=True, slots=True)
class Seat:
    """One process of a run.

    Args:
        first: whether it writes the record, the tracker's entry and the lines on the screen.
        shared: the run's folder, the same for all.
        own: where this process writes.
    """

    first: bool
    shared: Path
    own: Path

    def quiet(self, cfg: DictConfig, built: Built) -> tuple[DictConfig, Built]:
        """Configuration and parts for this process: of several the first alone has a report and a tracker."""
        if self.first:
            return cfg, built
        from dro_lab.tracking.none import NoTracker

        cfg = cfg.copy()
        with open_dict(cfg):
            cfg.report = False
        return cfg, replace(built, tracker=NoTracker())

    def console(self) -> RunConsole:
        """The run's; silent where it is not the first process."""
        from rich.console import Console

        from dro_lab.console import RunConsole

        return RunConsole() if self.first else RunConsole(Console(quiet=True))


@contextmanager
def seated(cfg: DictConfig, folder: Path) -> Iterator[Seat]:
    """Form the group of processes, where there are several, and agree on the run's folder."""
    here = world()
    if here.size == 1:
        yield Seat(True, folder, folder)
        return
    join(cpu=bool(cfg.algorithm.get("use_cpu")))
    shared = Path(same(str(folder.resolve())))
    try:
        yield Seat(ranks().index == 0, shared, folder)
    except NonFiniteError as error:
        if error.together:
            same(None)  # the first closes its record before the end of another takes it along
        raise


class WhenWrapped(TrainerCallback):
    """Once the engine has taken the policy, and before the first step: is it the engine that ``launch=`` names?

    Under engines that split weights the first evaluation is made here, since before it no device holds the policy.
    """

    def __init__(self, trainer: Any, cfg: DictConfig, name: str, evaluate: Any) -> None:
        self.trainer, self.cfg, self.name, self.evaluate = trainer, cfg, name, evaluate

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Look, and evaluate where that had to wait."""
        check_wrapped(self.trainer, self.cfg, self.name)
        if splits_weights(self.cfg):
            self.trainer.policy._is_fsdp_managed_module = True  # generate: ranks go on until the last one is done
            self.evaluate()
