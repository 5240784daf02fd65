"""A sweep's command line in this process, with a run that costs nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from dro_lab.data.__main__ import CONF, compose
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

    def __call__(self, cfg: Any, names: Any, folder: Path, trial: Any, **_: Any) -> Any:
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


def cheap_runs(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any, Any], float] = near_two, *, figures: bool = False
) -> Runs:
    """Replace a job's training, the check that builds its components, and (unless asked for) the figures."""
    if not figures:
        monkeypatch.setattr("dro_lab.sweep.figures.write_figures", lambda *_, **__: [])
    runs = Runs(answer)
    monkeypatch.setattr("dro_lab.lab.run", runs)
    task = SimpleNamespace(name="pararev", splits={"test": [0]})
    monkeypatch.setattr("dro_lab.sweep.search.build", lambda *_: SimpleNamespace(tracker=None, task=task))
    return runs


@cache
def flat_configuration() -> str:
    """``+sweep=r3_omega`` composed into one file, which Hydra reads in a fraction of the time that `conf/` takes."""
    cfg = OmegaConf.to_container(compose(["+sweep=r3_omega", "tracking=none"]))
    hydra = OmegaConf.to_container(OmegaConf.load(CONF / "sweep/r3_omega.yaml").hydra)
    defaults = ["_self_", {"override hydra/sweeper": "dro_lab"}]
    return OmegaConf.to_yaml({"defaults": defaults, **cfg, "hydra": hydra})  # type: ignore[dict-item]


def sweep(*overrides: str, trials: int = 4, seeds: int = 2, default: bool = False) -> Ended:
    """``python -m dro_lab.run --multirun`` with the configuration of ``+sweep=r3_omega`` and few trials."""
    few = (
        f"hydra.sweeper.n_trials={trials}",
        f"hydra.sweeper.final_seeds={seeds}",
        f"hydra.sweeper.final_default={str(default).lower()}",
    )
    return multirun(*few, *overrides)


def multirun(*overrides: str) -> Ended:
    """``python -m dro_lab.run --multirun`` with the configuration of ``+sweep=r3_omega``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "flat.yaml").write_text(flat_configuration())
        return run_main(["--config-path", folder, "--config-name", "flat", "--multirun", *overrides])


def study(name: str = "r3_omega", outputs: str = "outputs") -> optuna.Study:
    """The sweep's study as it lies on disk."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{outputs}/sweeps/{name}/study.db")


def states(found: optuna.Study) -> list[str]:
    return [trial.state.name for trial in found.trials]


def errors(ended: Ended) -> Sequence[str]:
    return [line for line in ended.err.splitlines() if line.startswith("error:")]
