"""The study as a ledger: which trials are done, which run, which were cut off and are to be run again.

Every change is made so that a kill at any moment leaves a state from which the next start continues: a trial that
ended is never run again, and one that was cut off is run again with the same parameters, once. A sweep's process
holds a lock on a file of its own while it lives, and each of its trials names that file: a trial that is RUNNING
behind a free lock belongs to nobody, unless a worker that outlived the sweep's process still runs it
(`dro_lab.sweep.claim`).
"""

from __future__ import annotations

import math
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from dro_lab.errors import UserError
from dro_lab.record.summary import read_summary
from dro_lab.secrets import hide
from dro_lab.sweep.claim import LOCKS, MUTEX, worker_of
from dro_lab.sweep.trial import PRUNED

OWNER, INTERRUPTED, AGAIN, ERROR, ALONE = "owner", "interrupted", "again", "error", "alone"
"""Attributes of a trial: who runs it, that it was cut off, the number of the trial that it repeats, why it failed, that
it is to run by itself."""
IDLE = RandomSampler()
"""The study's sampler while no trial is given out: told of a trial's end, a grid's would stop a loop of Optuna's that
there is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    error: str | None = None
    shared: bool = False  # the error ended several jobs at once, and which of them it came from is not known


def ending_of_job(job: JobReturn, objective: str) -> Ending:
    """How the job that Hydra ran ended."""
    found = job._return_value
    if job.status is JobStatus.COMPLETED:
        return ending_of_value(found, objective)
    if isinstance(found, TrialPruned):
        return Ending(state=TrialState.PRUNED)
    return Ending(state=TrialState.FAIL, error=describe(found))


def ending_of_value(value: Any, objective: str) -> Ending:
    """A finite value completes a trial; anything else is a failure that says so."""
    if isinstance(value, int | float) and math.isfinite(value):
        return Ending(state=TrialState.COMPLETE, value=float(value))
    return Ending(state=TrialState.FAIL, error=f"objective={objective} came out as {value}: it could not be measured")


def ending_of_record(folder: Path, objective: str) -> Ending | None:
    """How the run in ``folder`` ended by its own record; None where it was cut off or never began."""
    try:
        summary = read_summary(folder / "summary.json")
    except UserError:
        return None
    if summary["status"] == "failed":
        return Ending(state=TrialState.FAIL, error=summary["error"])
    if summary["status"] == "stopped" and str(summary["stopped"]).startswith(PRUNED):
        return Ending(state=TrialState.PRUNED)
    return ending_of_value(summary["objective"], objective) if summary["status"] in ("finished", "stopped") else None


def describe(error: Any) -> str:
    """An exception in one line; the kind of one that is not meant for users."""
    return hide(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


class Owner:
    """This process's claim on its trials: a locked file, which the system frees however the process ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = uuid.uuid4().hex
        self._lock = FileLock(folder / self.name)
        self._lock.acquire(timeout=0)

    @property
    def tag(self) -> dict[str, str]:
        """What a trial says of its owner."""
        return {"lock": self.name, "host": platform.node()}

    def alive(self, tag: Mapping[str, str] | None) -> bool:
        """Whether the owner with this tag still lives. One on another host that locks elsewhere counts as alive."""
        if tag is None:  # trials are given out under the ledger's lock, so nobody is about to claim it
            return False
        path = self.folder / tag["lock"]
        if not path.exists():
            return tag["host"] != platform.node()
        if tag["lock"] == self.name:
            return True
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def close(self) -> None:
        """Give up the claim."""
        self._lock.release()
        (self.folder / self.name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts of a study's trials; ``interrupted`` ones are not among the failed."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    interrupted: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def done(self) -> int:
        return self.complete + self.pruned + self.failed


class Ledger:
    """A study, its trials given out and taken back.

    Args:
        study: Optuna's.
        folder: the sweep's folder; trials lie in ``trials/``.
        objective: the metric that a trial's value is.
    """

    def __init__(self, study: Study, *, folder: Path, objective: str) -> None:
        self.study, self.folder, self.objective = study, folder, objective
        self.owner = Owner(folder / LOCKS)
        self._mutex = FileLock(folder / LOCKS / MUTEX)
        self._storage = study._storage
        study.sampler = IDLE

    def close(self) -> None:
        """End this process's part; its trials that still run count as cut off from now on."""
        self.owner.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the ledger's lock: one process at a time counts trials and gives them out."""
        with self._mutex:
            yield

    def trials(self) -> list[FrozenTrial]:
        """Every trial, by number."""
        return self.study.get_trials(deepcopy=False)

    def progress(self) -> Progress:
        """How far the sweep is."""
        states = [INTERRUPTED if t.user_attrs.get(INTERRUPTED) else t.state for t in self.trials()]
        return Progress(
            complete=states.count(TrialState.COMPLETE),
            pruned=states.count(TrialState.PRUNED),
            failed=states.count(TrialState.FAIL),
            interrupted=states.count(INTERRUPTED),
            running=states.count(TrialState.RUNNING),
            waiting=states.count(TrialState.WAITING),
        )

    def place(self, number: int) -> str:
        """A trial's folder below the sweep's."""
        return f"trials/{trial_name(number)}"

    def take(
        self,
        at_most: int,
        *,
        n_trials: int,
        space: Mapping[str, BaseDistribution],
        sampler: Callable[[int], BaseSampler],
    ) -> list[Trial]:
        """Give out the next trials: first those that were cut off, then new ones.

        ``sampler`` is made anew for each trial from the number of trials so far, cut off ones left out: an
        interrupted sweep draws what it would have drawn. A trial that is to run by itself is given out by itself.
        """
        with self.alone():
            self.recover()
            taken: list[Trial] = []
            if any(t.state is TrialState.WAITING and t.user_attrs.get(ALONE) for t in self.trials()):
                at_most = min(at_most, 1)
            while len(taken) < at_most:
                progress = self.progress()
                so_far = progress.done + progress.running
                if so_far >= n_trials:
                    break
                self.study.sampler = sampler(so_far)
                trial = self.study.ask()
                trial.set_user_attr(OWNER, self.owner.tag)
                for name, distribution in space.items():
                    trial._suggest(name, distribution)
                taken.append(trial)
            self.study.sampler = IDLE
        return taken

    def settle(self, number: int, ending: Ending) -> None:
        """Write down how a trial ended. One that fell with others is run again by itself, which shows whose error it
        was.
        """
        if ending.shared:
            with self.alone():
                self._cut_off(self.trials()[number], alone=True)
            return
        if ending.error is not None:
            self._mark(number, ERROR, ending.error)
        self.study.tell(number, ending.value, state=ending.state, skip_if_finished=True)

    def recover(self) -> None:
        """Settle the trials of dead processes: what their records say they are, or cut off and to be run again."""
        for trial in self.trials():
            if trial.state is TrialState.RUNNING and not self.owner.alive(trial.user_attrs.get(OWNER)):
                self._settle_by_record(trial)

    def orphans(self) -> dict[int, str]:
        """The trials of dead processes whose workers live on: the workers' process numbers by trial."""
        found = {
            trial.number: worker_of(self.folder / self.place(trial.number))
            for trial in self.trials()
            if trial.state is TrialState.RUNNING and not self.owner.alive(trial.user_attrs.get(OWNER))
        }
        return {number: pid for number, pid in found.items() if pid is not None}

    def give_back(self) -> None:
        """Settle this process's own trials that still run: it is about to end."""
        with self.alone():
            for trial in self.trials():
                if trial.state is TrialState.RUNNING and trial.user_attrs.get(OWNER) == self.owner.tag:
                    self._settle_by_record(trial)

    def _settle_by_record(self, trial: FrozenTrial) -> None:
        folder = self.folder / self.place(trial.number)
        if worker_of(folder) is not None:  # asked first: a worker that ends meanwhile has closed its record
            return
        ending = ending_of_record(folder, self.objective)
        if ending is None:
            self._cut_off(trial)
        else:
            self.settle(trial.number, ending)

    def _cut_off(self, trial: FrozenTrial, *, alone: bool = False) -> None:
        """Mark a trial as cut off, and queue its parameters again."""
        # first the copy, then the mark: a kill between the two leaves a trial that knows it has its copy
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        repeated = {t.user_attrs.get(AGAIN) for t in self.trials()}
        if params and trial.number not in repeated:
            kept = {key: value for key, value in trial.system_attrs.items() if key in ("grid_id", "search_space")}
            self.study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    system_attrs={**kept, "fixed_params": params},
                    user_attrs={AGAIN: trial.number, **({ALONE: True} if alone else {})},
                )
            )
        self._mark(trial.number, INTERRUPTED, True)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _mark(self, number: int, key: str, value: Any) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        self._storage.set_trial_user_attr(trial_id, key, value)


def trial_name(number: int) -> str:
    """The name of a trial's job and folder."""
    return f"trial_{number:03d}"


def seed_of(seed: int, so_far: int) -> int:
    """The sampler's seed for the next trial: of the sweep's seed and the trials so far."""
    return int(np.random.SeedSequence((seed, so_far)).generate_state(1)[0])
