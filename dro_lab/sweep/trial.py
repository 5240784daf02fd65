"""The job's side of a sweep: a trial hears how its run does, and says when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.hydra_config import HydraConfig

from dro_lab.errors import UserError
from dro_lab.sweep.config import JOB_MARK, TARGET

if TYPE_CHECKING:
    from optuna.trial import Trial

    from dro_lab.evaluation.evaluate import Evaluation

PRUNED = "pruned"
"""The first word of why a pruned run was stopped."""


class RunTrial(Protocol):
    """What a run tells the sweep that it belongs to."""

    def report(self, step: int, evaluation: Evaluation) -> str | None:
        """An evaluation before the last step is done; returns why the run should stop, or None to go on."""

    def end(self) -> None:
        """The run's record is closed. Raises `optuna.TrialPruned` where `report` stopped it."""


class NoTrial:
    """A run by itself."""

    def report(self, step: int, evaluation: Evaluation) -> str | None:
        """Nobody to compare with."""
        return None

    def end(self) -> None:
        """Nobody to tell."""


ALONE = NoTrial()


@dataclass
class SweepTrial:
    """A trial of a study, opened anew in the job's own process.

    Args:
        trial: Optuna's, of a study that has the sweep's pruner.
        objective: the metric to report.
    """

    trial: Trial
    objective: str
    stopped: str | None = None

    def report(self, step: int, evaluation: Evaluation) -> str | None:
        """Report the objective at this step; returns why to stop where the pruner says so.

        A value that was not measured is not reported, so it stops nothing.
        """
        estimate = evaluation.estimates.get(self.objective)
        if estimate is None or not math.isfinite(estimate.value):
            return None
        self.trial.report(estimate.value, step)
        if self.trial.should_prune():
            self.stopped = f"{PRUNED} at step {step}: {self.objective} {estimate.value:.4f} is behind the other trials"
        return self.stopped

    @property
    def is_running(self) -> bool:
        """Whether the study still counts on this trial's run."""
        from optuna.trial import TrialState

        return self.trial.study._storage.get_trial(self.trial._trial_id).state is TrialState.RUNNING

    def end(self) -> None:
        """Say to the sweep that the run was stopped."""
        if self.stopped is not None:
            from optuna import TrialPruned

            raise TrialPruned(self.stopped)


def job_mark() -> str | None:
    """The name of the sweep's job that runs now; None in a run by itself or in a plain grid."""
    return HydraConfig.get().job.env_set.get(JOB_MARK)


def current_trial(objective: str) -> RunTrial:
    """The trial of the sweep that runs now, by what Hydra knows of the job.

    Raises:
        UserError: the configuration is a sweep's, but the job is none of it: ``--multirun`` was left out.
    """
    hydra, mark = HydraConfig.get(), job_mark()
    if mark is None and hydra.sweeper._target_ == TARGET:
        raise UserError(
            f"+sweep={hydra.runtime.choices.get('sweep', '...')} without --multirun would be one run and no search; "
            "add --multirun, or leave the sweep out"
        )
    if mark is None or not mark.startswith("trial_"):
        return NoTrial()
    return open_trial(hydra.sweeper, int(mark.removeprefix("trial_")), objective, cwd=hydra.runtime.cwd)


def open_trial(sweeper: Any, number: int, objective: str, *, cwd: str) -> SweepTrial:
    """Trial ``number`` of the study that the sweeper's options name."""
    import optuna

    from dro_lab.sweep.storage import absolute, make_pruner, open_storage

    storage = open_storage(absolute(sweeper.storage, cwd))
    study = optuna.load_study(
        study_name=sweeper.study_name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),  # the parameters are chosen already
        pruner=make_pruner(sweeper.pruner),
    )
    study_id = storage.get_study_id_from_name(sweeper.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    return SweepTrial(trial=optuna.trial.Trial(study, trial_id), objective=objective)
