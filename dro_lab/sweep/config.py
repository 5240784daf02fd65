"""The options of ``hydra/sweeper=dro_lab``, typed. Imports nothing heavy: they are part of every composition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

TARGET = "dro_lab.sweep.plugin.LabSweeper"
JOB_MARK = "DRO_LAB_SWEEP_JOB"
"""Key of `hydra.job.env_set` that tells a job which of the sweep's it is: ``trial_007``, or ``test_...``."""


@dataclass
class MedianPruner:
    """Stops a trial that is behind the median of the others at the same step."""

    _target_: str = "optuna.pruners.MedianPruner"
    n_startup_trials: int = 5  # finished trials before any is stopped
    n_warmup_steps: int = 10  # training steps before a trial may be stopped
    interval_steps: int = 1
    n_min_trials: int = 3  # trials that must have reached the step


@dataclass
class HyperbandPruner:
    """Stops all but the best third of the trials of a bracket at steps that grow threefold."""

    _target_: str = "optuna.pruners.HyperbandPruner"
    min_resource: Any = "${evaluation.every}"  # the first step at which trials are compared
    max_resource: Any = "${steps}"
    reduction_factor: int = 3


@dataclass
class NoPruner:
    """Every trial runs to its end."""

    _target_: str = "optuna.pruners.NopPruner"


@dataclass
class LabSweeperConf:
    """What a sweep is; README.md says how to start, interrupt and continue one."""

    _target_: str = TARGET
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "median"}])
    study_name: str | None = None
    storage: str | None = "sqlite:///${hydra.sweep.dir}/study.db"
    direction: str = "maximize"
    n_trials: int = 20  # of the whole sweep, over all starts
    n_jobs: int | None = None  # trials given out at once; null: as many as the launcher runs side by side
    max_failures: int = 5  # of the whole sweep; one more ends it
    final_seeds: int = 5  # runs of the winner on the test split
    final_default: bool = True  # as many runs of the configuration's own values beside them
    sampler: Any = MISSING
    pruner: Any = MISSING  # null: none
    params: dict[str, str] = field(default_factory=dict)


def store() -> None:
    """Make the options known to Hydra."""
    config = ConfigStore.instance()
    config.store(group="hydra/sweeper", name="dro_lab", node=LabSweeperConf, provider="dro_lab")
    for name, node in (("median", MedianPruner), ("hyperband", HyperbandPruner), ("none", NoPruner)):
        config.store(group="hydra/sweeper/pruner", name=name, node=node, provider="dro_lab")


store()
