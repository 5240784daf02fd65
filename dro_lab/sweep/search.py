"""The search: trials are given out, run by Hydra's launcher and settled, until there are enough; then the test.

Deviations from Hydra's Optuna sweeper, whose setup and reading of overrides are kept: only trials that are missing
are run; the sampler's seed depends on the trials so far; the trial is known to the job; failures are counted over the
whole sweep; nothing is chosen or reported on the test split but the winner's runs with fresh seeds.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import BaseSampler
from optuna.study import Study

from dro_lab.build import Built, build
from dro_lab.config import check, chosen_names
from dro_lab.console import RunConsole
from dro_lab.errors import UserError
from dro_lab.explain import explain
from dro_lab.sweep import checks
from dro_lab.sweep.config import JOB_MARK
from dro_lab.sweep.final import DEFAULT, WINNER, Final
from dro_lab.sweep.ledger import (
    ERROR,
    Ending,
    Ledger,
    TrialState,
    describe,
    ending_of_job,
    ending_of_record,
    seed_of,
    trial_name,
)
from dro_lab.sweep.parent import open_parent
from dro_lab.sweep.result import Result, write_result, write_trials
from dro_lab.sweep.space import check_same, fingerprint, parse_space
from dro_lab.sweep.storage import absolute, check_free, find_study, is_new, make_pruner, make_sampler, open_storage

FINGERPRINT = "fingerprint"
"""Attribute of the study: all that its trials' values depend on."""


SUBDIR = "hydra.sweep.subdir"


class Job(NamedTuple):
    """One run of the sweep."""

    overrides: Sequence[str]
    name: str
    place: str  # below the sweep's folder


class Search(OptunaSweeperImpl):
    """One start of a sweep; the options are those of `dro_lab.sweep.config.LabSweeperConf`."""

    config: DictConfig  # these are set before `sweep`, and refused by `checks.options` where they are not
    hydra_context: HydraContext
    launcher: Launcher
    study_name: str
    storage: str

    def __init__(
        self, *, pruner: Any, max_failures: int, final_seeds: int, final_default: bool, **options: Any
    ) -> None:
        super().__init__(max_failure_rate=1.0, custom_search_space=None, **options)
        self.pruner, self.max_failures = pruner, max_failures
        self.final_seeds, self.final_default = final_seeds, final_default
        self.console = RunConsole()

    # ------------------------------------------------------------------------------------- before any trial

    def sweep(self, arguments: list[str]) -> None:
        """Run what is missing of the sweep.

        Raises:
            UserError: bad input, before any trial; or the sweep came to no result.
            KeyboardInterrupt: after the trials that run were handed back.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        checks.options(self)
        self.space = parse_space(self.params or {}, arguments)
        self._limit_to_grid()
        jobs = [self._compose(self.space.overrides(self.space.corner(high))) for high in (False, True)]
        for cfg, _ in jobs:
            check(cfg)
        self.cfg = jobs[0][0]
        checks.evaluation(self.cfg, pruned=self._prunes, direction=self.direction)
        cwd = self.config.hydra.runtime.cwd
        self.folder, url = Path(cwd) / self.config.hydra.sweep.dir, absolute(self.storage, cwd)
        check_free(url)
        study = self._known(url)
        built = [self._build(*job) for job in (jobs if study is None else jobs[:1])]
        checks.test_rows(built[0], final_seeds=self.final_seeds)
        study = study or self._begin(url)
        ledger = Ledger(study, folder=self.folder, objective=self.cfg.objective)
        try:
            self._run(ledger, built[0])
        finally:
            ledger.close()

    @property
    def _prunes(self) -> bool:
        return self.pruner is not None and not str(self.pruner._target_).endswith("NopPruner")

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """A job's configuration and the names of its options."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        choices = composed.hydra.runtime.choices
        with read_write(composed), open_dict(composed):
            names = chosen_names(composed, choices)
            del composed["hydra"]
        return composed, names

    def _build(self, cfg: DictConfig, names: Mapping[str, str]) -> Built:
        """Everything of a job but its weights: what is wrong with all trials is said before the first."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of its own old names
            return build(cfg, names, self.folder)

    @property
    def _fingerprint(self) -> dict[str, str]:
        settings = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(settings, dict)
        return fingerprint(self.space, direction=self.direction, config={str(k): v for k, v in settings.items()})

    def _known(self, url: str) -> Study | None:
        """The study of an earlier start, if it is the same search; None before the first."""
        study = find_study(url, self.study_name)
        if study is not None and FINGERPRINT in study.user_attrs:
            check_same(study.user_attrs[FINGERPRINT], self._fingerprint, study=self.study_name, storage=url)
        elif (study is None or not study.trials) and any((self.folder / "trials").glob("*")):
            raise UserError(
                f"hydra.sweep.dir={self.folder}: holds trials, but there is no study {self.study_name} in {url}. "
                "Remove the folder, or begin another sweep with hydra.sweeper.study_name=NAME"
            )
        return study

    def _begin(self, url: str) -> Study:
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_new(url):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return optuna.create_study(
            study_name=self.study_name, storage=open_storage(url), direction=self.direction, load_if_exists=True
        )

    # --------------------------------------------------------------------------------------------- the trials

    def _run(self, ledger: Ledger, built: Built) -> None:
        study = ledger.study
        if FINGERPRINT not in study.user_attrs:
            study.set_user_attr(FINGERPRINT, self._fingerprint)
        study.pruner = make_pruner(self.pruner)
        self.parent = open_parent(built, self.cfg, study, folder=self.folder)
        status, error = "failed", None
        try:
            with ledger.alone():
                ledger.recover()
            self._announce(ledger)
            finished = self._search(ledger) and self._final(ledger)
            status = "finished" if finished else "running"
        except KeyboardInterrupt:
            status = "interrupted"
            ledger.give_back()
            self.console.say(f"sweep    {_counts(ledger)}; the same command continues it")
            raise
        except Exception as failure:
            ledger.give_back()
            error = describe(failure)
            raise
        finally:
            try:
                write_trials(ledger)
            finally:
                self.parent.close(status, error)

    def _search(self, ledger: Ledger) -> bool:
        """Run trials until there are enough; False where the last ones still run in another process."""
        self._check_failures(ledger)
        while trials := ledger.take(
            self._at_once, n_trials=self.n_trials, space=self.space.search, sampler=self._sampler
        ):
            endings = self._run_jobs(
                Job(self.space.overrides(t.params), trial_name(t.number), ledger.place(t.number)) for t in trials
            )
            for trial, ending in zip(trials, endings, strict=True):
                ledger.settle(trial.number, ending)
                self._say(trial.number, trial.params, ending)
            write_trials(ledger)
            self._check_failures(ledger)
        orphans = ledger.orphans()
        self._say_left_over({f"trial {number}": pid for number, pid in orphans.items()})
        running = ledger.progress().running
        if others := running - len(orphans):
            self.console.say(f"sweep    {others} trials still run in another process, which will finish the sweep")
        return not running

    def _run_jobs(self, jobs: Iterable[Job]) -> list[Ending]:
        """Run the jobs; how each ended. What the launcher itself raises (a worker died) is the failure of the one that
        left no closed record; of several it is not known which."""
        jobs = list(jobs)
        overrides = [
            [
                *job.overrides,
                *self.parent.overrides,
                f"+hydra.job.env_set.{JOB_MARK}={job.name}",
                f"{SUBDIR}={job.place}",
            ]
            for job in jobs
        ]
        try:
            returned: Sequence[JobReturn] = self.launcher.launch(overrides, initial_job_idx=self.job_idx)
        except Exception as error:
            if type(error.__cause__).__name__ == "_RemoteTraceback":  # of a worker process, as text
                error.__cause__ = None
            known = [ending_of_record(self.folder / job.place, self.cfg.objective) for job in jobs]
            failed = Ending(
                state=TrialState.FAIL, error=explain(error) or describe(error), shared=known.count(None) > 1
            )
            return [ending or failed for ending in known]
        self.job_idx += len(jobs)
        return [ending_of_job(job, self.cfg.objective) for job in returned]

    def _final(self, ledger: Ledger) -> bool:
        """The winner on the test split; False where another process is about it."""
        best, default = ledger.progress().complete and ledger.study.best_trial.params, self._default()
        wanted = self.final_default and default is not None and default != best  # else it is the winner
        final = Final(ledger, seeds=self.final_seeds, used=[self.cfg.seed], default=wanted)
        with final.alone() as free:
            if not free:
                self.console.say("sweep    the winner runs on the test split in another process")
                return False
            if busy := final.busy():
                self._say_left_over(busy)
                return False
            for group in final.groups(self._at_once):
                settings = {WINNER: self.space.overrides(final.winner.params), DEFAULT: list(self.space.fixed)}
                endings = self._run_jobs(Job([*settings[run.of], *run.overrides], run.name, run.place) for run in group)
                for run, ending in zip(group, endings, strict=True):
                    final.settle(run, ending)
            result = Result.of(ledger, final, self.cfg, default=default if wanted else None)
            files = write_result(ledger, result)
            self.parent.result(result, files)
        for line in result.lines():
            self.console.say(line)
        self.console.say(f"sweep    {ledger.folder / 'sweep.md'}")
        return True

    # ------------------------------------------------------------------------------------------------- details

    def _default(self) -> dict[str, Any] | None:
        """The configuration's own values of what is searched; None where it is none that could run."""
        try:
            cfg, _ = self._compose(self.space.fixed)
            check(cfg)
        except (UserError, OmegaConfBaseException):
            return None
        return {name: OmegaConf.select(cfg, name.lstrip("+~")) for name in self.space.search}

    def _check_failures(self, ledger: Ledger) -> None:
        progress = ledger.progress()
        if progress.failed > self.max_failures:
            errors = [t.user_attrs[ERROR] for t in ledger.trials() if ERROR in t.user_attrs]
            raise UserError(
                f"hydra.sweeper.max_failures={self.max_failures}: {progress.failed} trials of the sweep have failed, "
                f"the last one with: {str(errors[-1]).rstrip('.')}. Mend that and give a higher limit to go on, or "
                "begin anew with hydra.sweeper.study_name=NAME"
            )

    def _sampler(self, so_far: int) -> BaseSampler:
        options = self.sampler.copy()
        OmegaConf.set_readonly(options, False)
        if options.get("seed") is not None and not self._is_grid:  # a grid numbers its points in an order of its seed
            options.seed = seed_of(options.seed, so_far)
        made = make_sampler(options)
        if isinstance(made, functools.partial):  # a grid
            made = made({name: self._to_grid_sampler_choices(item) for name, item in self.space.search.items()})
        assert isinstance(made, BaseSampler)
        return made

    @property
    def _is_grid(self) -> bool:
        return str(self.sampler._target_).endswith("GridSampler")

    def _limit_to_grid(self) -> None:
        """A grid has so many points; more trials would only repeat some."""
        if self._is_grid:
            size = 1
            for name, item in self.space.search.items():
                try:
                    size *= len(self._to_grid_sampler_choices(item))
                except ValueError as error:
                    raise UserError(f"hydra/sweeper/sampler=grid with {name}: {error} Give range or choice") from None
            self.n_trials = min(self.n_trials, size)

    @property
    def _at_once(self) -> int:
        """Trials given out together: as many as run side by side."""
        jobs = self.n_jobs if self.n_jobs is not None else self.config.hydra.launcher.get("n_jobs", 1)
        return jobs if jobs > 0 else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def _announce(self, ledger: Ledger) -> None:
        self.console.say(
            f"sweep    {self.study_name}: {self.direction} {self.cfg.objective} on {self.cfg.evaluation.split}, "
            f"{self.n_trials} trials over {', '.join(self.space.search)}; {ledger.folder}"
        )
        progress = ledger.progress()
        if progress.done >= self.n_trials:
            self.console.say(f"sweep    the search is complete: {_counts(ledger)}")
        elif ledger.trials():
            self.console.say(f"sweep    continued: {_counts(ledger)}")

    def _say_left_over(self, jobs: Mapping[str, str]) -> None:
        """That workers of a killed start still run: their jobs are not run a second time."""
        if jobs:
            named = ", ".join(f"{job} (process {pid})" for job, pid in jobs.items())
            self.console.say(
                f"sweep    {named}: still running, left over from a start that was killed. Let it end, or end it "
                f"(kill {' '.join(dict.fromkeys(jobs.values()))}); then type the same command again"
            )

    def _say(self, number: int, params: Mapping[str, Any], ending: Ending) -> None:
        what = " ".join(f"{name}={value}" for name, value in params.items())
        how = {
            TrialState.COMPLETE: f"{self.cfg.objective} {ending.value}",
            TrialState.PRUNED: "pruned: behind the other trials",
        }.get(ending.state, f"{'cut off, to be run again by itself' if ending.shared else 'failed'}: {ending.error}")
        self.console.say(f"trial    {number}: {what}: {how}")


def _counts(ledger: Ledger) -> str:
    progress = ledger.progress()
    counts = {
        "finished": progress.complete,
        "pruned": progress.pruned,
        "failed": progress.failed,
        "to be run again": progress.waiting,
        "running": progress.running,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no trial yet"
