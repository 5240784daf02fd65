"""Laws of the ledger: what ended is never run again, what was cut off is run again once, who lives keeps its trials."""

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from filelock import FileLock
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from dro_lab.errors import UserError
from dro_lab.record.files import write_json
from dro_lab.sweep import ledger as module
from dro_lab.sweep.claim import FILE, claimed, worker_of
from dro_lab.sweep.final import fresh_seeds
from dro_lab.sweep.ledger import Ending, Ledger, ending_of_value, seed_of
from dro_lab.sweep.result import mean_interval
from dro_lab.sweep.trial import SweepTrial
from dro_lab.tracking.killed import BEGAN, process_tags
from tests.record_fixture import summary

SPACE = {"reward.omega": FloatDistribution(0.0, 8.0)}


def random_sampler(so_far: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed_of(0, so_far))


def tpe(so_far: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed_of(0, so_far), n_startup_trials=2)


@cache
def empty_study() -> bytes:
    """A database with an empty study: making one takes as long as all that a test does with it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        optuna.create_study(study_name="s", storage=f"sqlite:///{file}", direction="maximize")
        return file.read_bytes()


def open_ledger(folder: Path) -> Ledger:
    folder.mkdir(exist_ok=True)
    file = folder / "study.db"
    if not file.exists():
        file.write_bytes(empty_study())
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{file}")
    return Ledger(study, folder=folder, objective="quality")


def take(
    ledger: Ledger,
    count: int = 1,
    *,
    n_trials: int = 10,
    sampler: Callable[[int], Any] = random_sampler,
    space: Mapping[str, FloatDistribution] = SPACE,
) -> Any:
    return ledger.take(count, n_trials=n_trials, space=space, sampler=sampler)


def complete(ledger: Ledger, trial: Any) -> None:
    ledger.settle(trial.number, Ending(state=TrialState.COMPLETE, value=1 - trial.params["reward.omega"] / 8))


def write_record(ledger: Ledger, number: int, **fields: Any) -> None:
    from dro_lab.record.summary import write_summary

    folder = ledger.folder / ledger.place(number)
    folder.mkdir(parents=True)
    write_summary(folder / "summary.json", summary(**fields))


def test_a_cut_off_trial_is_run_again_once_with_its_parameters(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    (done,) = take(first)
    complete(first, done)
    (cut,) = take(first)
    first.close()  # as the system does after kill -9: the lock is free, the trial still RUNNING
    for _ in range(2):  # a second recovery finds nothing to do
        second = open_ledger(tmp_path)
        second.recover()
        second.close()
    third = open_ledger(tmp_path)
    again, fresh = take(third, 2)
    assert again.params == cut.params
    assert fresh.params not in (cut.params, done.params)
    trials = third.trials()
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert trials[0].value == 1 - done.params["reward.omega"] / 8
    assert (trials[1].user_attrs["interrupted"], trials[2].user_attrs["again"]) == (True, 1)
    assert third.progress().failed == 0
    third.close()


def test_a_kill_in_the_middle_of_a_recovery_makes_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_ledger(tmp_path)
    take(first)
    first.close()
    second = open_ledger(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_mark", lambda *_: (_ for _ in ()).throw(SystemExit))  # killed behind the copy
        with pytest.raises(SystemExit):
            second.recover()
    second.close()
    third = open_ledger(tmp_path)
    third.recover()
    assert third.progress() == module.Progress(interrupted=1, waiting=1)
    third.close()


def test_a_trial_without_an_owner_or_parameters_is_dropped_and_not_counted(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.study.ask()  # killed right behind
    taken = take(ledger, 2, n_trials=2)
    assert [t.number for t in taken] == [1, 2]
    assert ledger.progress() == module.Progress(interrupted=1, running=2)
    ledger.close()


@pytest.mark.parametrize(
    ("fields", "state", "value", "error"),
    [
        ({"status": "finished", "objective": 0.75}, "COMPLETE", 0.75, None),
        ({"status": "finished", "objective": None}, "FAIL", None, "objective=quality"),
        ({"status": "stopped", "stopped": "pruned at step 4: behind"}, "PRUNED", None, None),
        ({"status": "stopped", "stopped": "health.collapse at step 4", "objective": 0.5}, "COMPLETE", 0.5, None),
        ({"status": "failed", "error": "RuntimeError: boom"}, "FAIL", None, "boom"),
    ],
)
def test_a_run_whose_record_is_closed_is_settled_by_it_and_not_run_again(
    tmp_path: Path, fields: dict[str, Any], state: str, value: float | None, error: str | None
) -> None:
    first = open_ledger(tmp_path)
    take(first)
    write_record(first, 0, **fields)
    first.close()
    second = open_ledger(tmp_path)
    second.recover()
    (trial,) = second.trials()
    assert (trial.state.name, trial.value) == (state, value)
    assert (error or "") in trial.user_attrs.get("error", "")
    assert second.progress().waiting == 0
    second.close()


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_whose_record_is_open_is_run_again(tmp_path: Path, status: str) -> None:
    first = open_ledger(tmp_path)
    take(first)
    write_record(first, 0, status=status)
    first.close()
    second = open_ledger(tmp_path)
    second.recover()
    assert second.progress() == module.Progress(interrupted=1, waiting=1)
    second.close()


def test_a_second_live_sweep_shares_the_study(tmp_path: Path) -> None:
    one, two = open_ledger(tmp_path), open_ledger(tmp_path)
    (mine,) = take(one, n_trials=3)
    theirs = take(two, 5, n_trials=3)
    assert [t.number for t in theirs] == [1, 2], "more than n_trials were given out, or another's trial was taken"
    two.recover()
    assert [t.state.name for t in two.trials()] == ["RUNNING"] * 3
    two.give_back()
    assert one.trials()[mine.number].state.name == "RUNNING"
    assert [t.user_attrs.get("interrupted") for t in one.trials()[:3]] == [None, True, True]
    one.close()
    two.close()


def test_the_owner_on_another_host_counts_as_alive(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    assert ledger.owner.alive({"lock": "elsewhere", "host": "another"})
    assert not ledger.owner.alive({"lock": "elsewhere", "host": ledger.owner.tag["host"]})
    held = FileLock(tmp_path / ".locks" / "held")
    held.acquire()
    assert ledger.owner.alive({"lock": "held", "host": "another"})
    held.release()
    (tmp_path / ".locks" / "held").touch()
    assert not ledger.owner.alive({"lock": "held", "host": "another"}), "the lock is free, so nobody lives"
    ledger.close()


def test_a_trial_whose_worker_outlived_its_sweep_is_left_to_it(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    take(first, 2)
    for number in (0, 1):
        (tmp_path / first.place(number)).mkdir(parents=True)
    first.close()
    write_json(tmp_path / first.place(0) / FILE, process_tags())
    write_json(tmp_path / first.place(1) / FILE, {**process_tags(), BEGAN: "1.0"})  # the number is used again
    second = open_ledger(tmp_path)
    second.recover()
    assert second.progress() == module.Progress(running=1, interrupted=1, waiting=1)
    assert second.orphans() == {0: str(os.getpid())}
    (tmp_path / first.place(0) / FILE).unlink()
    second.recover()
    assert second.progress() == module.Progress(interrupted=2, waiting=2)
    assert second.orphans() == {}
    second.close()


def test_a_job_names_its_process_while_it_runs_and_refuses_a_trial_that_was_given_up(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    taken = take(ledger)[0]
    folder = tmp_path / ledger.place(0)
    folder.mkdir(parents=True)
    with claimed(folder, SweepTrial(trial=taken, objective="quality")):
        assert worker_of(folder) == str(os.getpid())
    assert worker_of(folder) is None
    ledger.give_back()
    with (
        pytest.raises(UserError, match="another start of the sweep"),
        claimed(folder, SweepTrial(trial=taken, objective="quality")),
    ):
        raise AssertionError("the job began")
    ledger.close()


def test_trials_that_fell_together_are_run_again_one_at_a_time(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    fell = take(ledger, 2)
    for trial in fell:
        ledger.settle(trial.number, Ending(state=TrialState.FAIL, error="a worker died", shared=True))
    assert ledger.progress() == module.Progress(interrupted=2, waiting=2)
    again = [take(ledger, 2) for _ in range(2)]
    assert [[t.params for t in batch] for batch in again] == [[t.params] for t in fell]
    assert [t.number for t in take(ledger, 2)] == [4, 5]
    ledger.close()


def searched(folder: Path, sampler: Callable[[int], Any], *, cut: int | None) -> list[float]:
    """The parameters of six finished trials, with a kill during trial ``cut``."""
    ledger = open_ledger(folder)
    while taken := take(ledger, n_trials=6, sampler=sampler):
        if taken[0].number == cut:
            ledger.close()
            ledger = open_ledger(folder)
        else:
            complete(ledger, taken[0])
    ledger.close()
    return [t.params["reward.omega"] for t in ledger.trials() if t.state is TrialState.COMPLETE]


@pytest.mark.parametrize("cut", [0, 3, 5])
def test_an_interrupted_search_draws_what_it_would_have_drawn(tmp_path: Path, cut: int) -> None:
    whole = searched(tmp_path / "whole", tpe, cut=None)
    assert len(set(whole)) == 6
    assert searched(tmp_path / "cut", tpe, cut=cut) == whole


# --------------------------------------------------------------------------------------- what the plugin does alone


def stock(folder: Path, n_trials: int) -> optuna.Study:
    """One start of Hydra's own sweeper on a study in ``folder``."""
    sampler = optuna.samplers.TPESampler(seed=0)
    storage = f"sqlite:///{folder / 'study.db'}"
    sweeper = OptunaSweeperImpl(sampler, "maximize", storage, "s", n_trials, 1, 1.0, None, None)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.hydra_context = object()  # type: ignore[assignment]
    sweeper.launcher = SimpleNamespace(  # type: ignore[assignment]
        launch=lambda jobs, initial_job_idx: [SimpleNamespace(return_value=1.0) for _ in jobs]
    )
    sweeper.sweep(["reward.omega=interval(0.0,8.0)"])
    return optuna.load_study(study_name="s", storage=storage)


def test_hydras_sweeper_runs_as_many_trials_again_and_draws_the_same(tmp_path: Path) -> None:
    """Why there is a ledger. Should this fail, the plugin has learned it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stock(tmp_path, 3)
    study = stock(tmp_path, 3)
    assert len(study.trials) == 6
    drawn = [t.params["reward.omega"] for t in study.trials]
    assert drawn[:3] == drawn[3:]


# ----------------------------------------------------------------------------------------------------- small parts


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5"])
def test_an_objective_that_is_no_finite_number_is_a_failure(value: Any) -> None:
    ending = ending_of_value(value, "quality")
    assert ending.state is TrialState.FAIL
    assert ending.error is not None
    assert str(value) in ending.error


def test_fresh_seeds_are_none_of_the_search() -> None:
    assert fresh_seeds(3, [0]) == [1000, 1001, 1002]
    assert fresh_seeds(3, [1001, 1003]) == [1000, 1002, 1004]


def test_the_interval_over_seeds_is_students() -> None:
    # t(0.95, 2) = 2.919986; s = 0.1, s / sqrt(3) = 0.057735
    mean, low, high = mean_interval([0.4, 0.5, 0.6], confidence=0.9)
    assert mean == pytest.approx(0.5)
    assert (low, high) == (pytest.approx(0.331415, abs=1e-6), pytest.approx(0.668585, abs=1e-6))
    assert mean_interval([0.5, 0.5], confidence=0.9) == (0.5, 0.5, 0.5)
    one = mean_interval([0.5], confidence=0.9)
    assert one[0] == 0.5
    assert math.isnan(one[1])
    assert math.isnan(one[2])


def test_the_seed_of_the_next_trial_depends_on_both() -> None:
    assert len({seed_of(seed, so_far) for seed in range(3) for so_far in range(20)}) == 60
