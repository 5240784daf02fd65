"""A sweep's command line in this process, with a run that costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from tests.cli_fixture import Ended, run_main

OMEGA = "reward.omega"


@dataclass
class Runs:
    """What the runs of a sweep were asked to do, and what they answer.

    Args:
        answer: the objective of a run with this configuration; may raise.
    """

    answer: Callable[[Any, Any], float]
    seen: list[Any] = field(default_factory=list)

    def __call__(self, cfg: Any, names: Any, folder: Path, trial: Any) -> Any:
        self.seen.append(cfg)
        return SimpleNamespace(objective=self.answer(cfg, trial))

    @property
    def omegas(self) -> list[float]:
        """Of the search alone."""
        return [cfg.reward.omega for cfg in self.seen if cfg.evaluation.split == "validation"]

    @property
    def tested(self) -> list[Any]:
        return [cfg for cfg in self.seen if cfg.evaluation.split == "test"]


def near_two(cfg: Any, trial: Any = None) -> float:
    """Best at omega 2; the seed moves it a little."""
    return 1.0 - abs(cfg.reward.omega - 2.0) / 8 + 0.001 * (cfg.seed % 10)


def cheap_runs(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any, Any], float] = near_two) -> Runs:
    """Replace a job's training and the check that builds its components."""
    runs = Runs(answer)
    monkeypatch.setattr("dro_lab.lab.run", runs)
    task = SimpleNamespace(name="pararev", splits={"test": [0]})
    monkeypatch.setattr("dro_lab.sweep.search.build", lambda *_: SimpleNamespace(tracker=None, task=task))
    return runs


def sweep(*overrides: str, name: str = "r3_omega", trials: int = 4, seeds: int = 2) -> Ended:
    """``python -m dro_lab.run --multirun +sweep=NAME`` with few trials."""
    few = (f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.final_seeds={seeds}", "tracking=none")
    return run_main(["--multirun", f"+sweep={name}", *few, *overrides])


def study(name: str = "r3_omega", outputs: str = "outputs") -> optuna.Study:
    """The sweep's study as it lies on disk."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{outputs}/sweeps/{name}/study.db")


def states(found: optuna.Study) -> list[str]:
    return [trial.state.name for trial in found.trials]


def errors(ended: Ended) -> Sequence[str]:
    return [line for line in ended.err.splitlines() if line.startswith("error:")]
