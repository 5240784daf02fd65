"""``--multirun +sweep=NAME`` as a user sees it, with runs that cost nothing: continuing, failing, pruning, refusing."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from dro_lab.build import build_pipeline
from dro_lab.config import check
from dro_lab.data.__main__ import CONF, compose
from dro_lab.errors import UserError
from dro_lab.sweep.space import parse_space
from tests.cli_fixture import run_main
from tests.sweep_fixture import OMEGA, cheap_runs, errors, multirun, near_two, states, study, sweep

SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result(name: str = "r3_omega") -> Any:
    return json.loads(Path(f"outputs/sweeps/{name}/sweep.json").read_text())


# ------------------------------------------------------------------------------------------- what a sweep does


def test_a_sweep_runs_its_trials_and_reports_its_winner_on_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch, figures=True)
    ended = sweep()
    assert ended.code == 0, ended.err
    assert len(runs.omegas) == len(set(runs.omegas)) == 4
    assert {cfg.seed for cfg in runs.seen[:4]} == {0}
    best = min(runs.omegas, key=lambda omega: abs(omega - 2))
    assert [(cfg.seed, cfg.reward.omega) for cfg in runs.tested] == [(1000, best), (1001, best)]
    found = result()
    assert found["winner"] == {"trial": runs.omegas.index(best), "params": {OMEGA: best}}
    assert found["test"]["values"] == [near_two(cfg) for cfg in runs.tested]
    assert found["test"]["mean"] == pytest.approx(near_two(runs.tested[0]) + 0.0005)
    assert found["test"]["low"] < found["test"]["mean"] < found["test"]["high"]
    assert f"{found['test']['mean']:.4f}" in Path("outputs/sweeps/r3_omega/sweep.md").read_text()
    assert "over 2 fresh seeds on the test split" in ended.out
    table = pd.read_csv("outputs/sweeps/r3_omega/trials.csv")
    assert list(table[OMEGA]) == runs.omegas
    for name in ("history", "slice"):
        assert Path(f"outputs/sweeps/r3_omega/figures/{name}.png").stat().st_size > 0
        assert len(pd.read_csv(f"outputs/sweeps/r3_omega/figures/{name}.csv")) == 4

    again = sweep()  # the same command: nothing is left to do
    assert (again.code, len(runs.seen)) == (0, 6)
    assert "the search is complete" in again.out
    assert again.out.splitlines()[-3:] == ended.out.splitlines()[-3:]

    more = sweep(trials=5)
    assert (more.code, len(runs.omegas)) == (0, 5)


def test_the_default_runs_beside_the_winner_on_the_same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    ended = sweep("reward.omega=choice(3.0,5.0)", "reward.clip_low=0.1", trials=2, seeds=2, default=True)
    assert ended.code == 0, ended.err
    tested = [(cfg.reward.omega, cfg.reward.clip_low, cfg.seed) for cfg in runs.tested]
    assert sorted(tested) == [(2.0, 0.1, 1000), (2.0, 0.1, 1001), (3.0, 0.1, 1000), (3.0, 0.1, 1001)]
    # at the default omega 2 the objective is 1 and a little for the seed, at 3 an eighth less
    assert "default  reward.omega=2: 1.0005 [" in ended.out
    assert "gain     -0.1250 [-0.1250, -0.1250] (90% interval), winner less default seed by seed" in ended.out
    page = Path("outputs/sweeps/r3_omega/sweep.md").read_text()
    assert "| setting | value | default |" in page
    assert "| reward.omega | 3.0 | 2.0 |" in page
    assert "| 1000 | 0.8750 | 1.0000 |" in page
    assert "Gain: -0.1250" in page
    found = result()
    assert found["default"]["params"] == {OMEGA: 2.0}
    assert found["default"]["differences"] == pytest.approx([-0.125, -0.125])
    again = sweep("reward.omega=choice(3.0,5.0)", "reward.clip_low=0.1", trials=2, seeds=2, default=True)
    assert (again.code, len(runs.tested)) == (0, 4), "what was done was run again"


def test_a_winner_that_is_the_default_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    ended = sweep("reward.omega=choice(2.0,7.0)", "hydra/sweeper/sampler=grid", trials=2, seeds=2, default=True)
    assert ended.code == 0, ended.err
    assert [cfg.reward.omega for cfg in runs.tested] == [2.0, 2.0]
    assert "default  " not in ended.out


def test_a_search_that_decided_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_runs(monkeypatch, lambda cfg, trial: 0.5, figures=True)
    ended = sweep(trials=3)
    assert ended.code == 0, ended.err
    said = "3 of 3 finished trials have the winner's value: between them nothing was decided"
    assert said in ended.out
    assert said in Path("outputs/sweeps/r3_omega/sweep.md").read_text()
    drawn = {path.name for path in Path("outputs/sweeps/r3_omega/figures").iterdir()}
    assert drawn == {"history.png", "history.csv", "slice.png", "slice.csv"}, "nothing has importance"


def test_ctrl_c_leaves_a_state_from_which_the_same_command_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = [2, 5]  # calls: the third trial, and the first run on test

    def answer(cfg: Any, trial: Any) -> float:
        if len(runs.seen) - 1 == interrupted[0]:
            interrupted.pop(0)
            raise KeyboardInterrupt
        return near_two(cfg)

    runs = cheap_runs(monkeypatch, answer)
    ended = sweep()
    assert ended.code == 130
    assert states(study()) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    assert "the same command continues it" in ended.out
    interrupted[0] = 5
    assert sweep().code == 130  # on test
    assert states(study()) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert not Path("outputs/sweeps/r3_omega/sweep.json").exists()
    interrupted.append(99)
    assert sweep().code == 0
    assert runs.omegas[2] == runs.omegas[3], "the trial that was cut off was not run again with its parameters"
    assert len(runs.omegas) == 5
    assert len(set(runs.omegas)) == 4, "a finished trial was run twice"
    assert [cfg.seed for cfg in runs.tested] == [1000, 1000, 1001]
    counts = result()["trials"]
    assert (counts["complete"], counts["interrupted"], counts["failed"]) == (4, 1, 0)


def test_a_grid_has_each_of_its_points_once_also_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        if len(runs.seen) == 2:
            raise KeyboardInterrupt
        return near_two(cfg)

    runs = cheap_runs(monkeypatch, answer)
    grid = ("hydra/sweeper/sampler=grid", "reward.omega=choice(1,2,3,4)")
    assert sweep(*grid, trials=9, seeds=0).code == 130
    ended = sweep(*grid, trials=9, seeds=0)
    assert ended.code == 0, ended.text
    first, cut_off, again, *rest = runs.omegas
    assert cut_off == again
    assert sorted([first, again, *rest]) == [1, 2, 3, 4]
    assert result()["winner"]["params"] == {OMEGA: 2}


FAILURES = {
    "nan": (None, "came out as nan"),
    "user": (UserError("judge: no key"), "judge: no key"),
    "bug": (ValueError("shape (3,)"), "ValueError: shape (3,)"),
    "exit": (SystemExit(3), "exit status 3"),
}


def test_a_failed_trial_is_recorded_and_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        if len(runs.seen) > len(FAILURES):
            return near_two(cfg)
        error, _ = list(FAILURES.values())[len(runs.seen) - 1]
        if error is None:
            return float("nan")
        raise error

    runs = cheap_runs(monkeypatch, answer)
    ended = sweep(trials=6, seeds=0)
    assert ended.code == 0, ended.err
    assert states(study()) == ["FAIL"] * 4 + ["COMPLETE"] * 2
    for row, (_, text) in zip(
        pd.read_csv("outputs/sweeps/r3_omega/trials.csv").itertuples(), FAILURES.values(), strict=False
    ):
        assert text in row.error
        assert text in study().trials[row.number].user_attrs["error"]
    assert (result()["trials"]["failed"], result()["trials"]["complete"]) == (4, 2)
    assert sweep(trials=6, seeds=0).code == 0
    assert len(runs.seen) == 6, "a failed trial was run again"


def test_failures_are_counted_over_the_whole_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        if len(runs.seen) == 2:
            raise KeyboardInterrupt
        raise UserError("judge: no key")

    runs = cheap_runs(monkeypatch, answer)
    assert sweep("hydra.sweeper.max_failures=1").code == 130
    ended = sweep("hydra.sweeper.max_failures=1")  # one failure of the first start, one of this
    assert (ended.code, len(runs.seen)) == (2, 3)
    assert len(errors(ended)) == 1
    for word in ("hydra.sweeper.max_failures=1", "2 trials", "judge: no key"):
        assert word in errors(ended)[0]
    assert sweep("hydra.sweeper.max_failures=1").code == 2
    assert len(runs.seen) == 3


def test_a_sweep_without_a_winner_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        raise UserError("judge: no key")

    cheap_runs(monkeypatch, answer)
    ended = sweep(trials=1)
    assert ended.code == 2
    assert "no winner" in errors(ended)[0]
    assert not Path("outputs/sweeps/r3_omega/sweep.json").exists()


def test_a_trial_that_is_behind_is_stopped_at_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cfg: Any, trial: Any) -> float:
        value = [0.5, 0.6, 0.7, 0.1, 0.9][len(runs.seen) - 1]
        for step in (10, 20):
            evaluation = SimpleNamespace(estimates={"quality": SimpleNamespace(value=value)})
            reasons.append(trial.report(step, evaluation))
            if reasons[-1]:
                return value
        return value

    reasons: list[str | None] = []
    runs = cheap_runs(monkeypatch, answer)
    pruner = ["hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.pruner.n_min_trials=2"]
    ended = sweep(*pruner, trials=5, seeds=0)
    assert ended.code == 0, ended.err
    assert states(study()) == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert study().trials[3].intermediate_values == {10: 0.1}
    assert [reason for reason in reasons if reason] == ["pruned at step 10: quality 0.1000 is behind the other trials"]
    assert result()["winner"]["trial"] == 4

    runs.seen.clear()
    reasons.clear()
    free = sweep("hydra/sweeper/pruner=none", "hydra.sweeper.study_name=free", trials=5, seeds=0)
    assert free.code == 0, free.err
    assert reasons == [None] * 10


# --------------------------------------------------------------------------------------------- what is refused

BAD = {
    "key unknown": (["reward.omgea=interval(0,1)"], ["reward.omgea", "omgea"]),
    "sweep unknown": (["+sweep=r3_omgea"], ["sweep=r3_omgea", "no such option", "r3_omega"]),
    "objective unknown": (["objective=pass@3"], ["objective=pass@3", "must be one of"]),
    "test split": (["evaluation.split=test"], ["evaluation.split=test", "validation", "fresh seeds"]),
    "test beside": (["evaluation.also=[test]"], ["evaluation.also", "test split"]),
    "no trials": (["hydra.sweeper.n_trials=0"], ["hydra.sweeper.n_trials=0", "at least 1"]),
    "trials no number": (["hydra.sweeper.n_trials=many"], ["n_trials", "many"]),
    "no name": (["hydra.sweeper.study_name=null"], ["hydra.sweeper.study_name", "r3_omega"]),
    "no storage": (["hydra.sweeper.storage=null"], ["hydra.sweeper.storage", "sqlite:///"]),
    "storage of nothing": (["hydra.sweeper.storage=nonsense"], ["hydra.sweeper.storage=nonsense", "sqlite:///PATH"]),
    "direction": (["hydra.sweeper.direction=up"], ["hydra.sweeper.direction=up", "maximize, minimize"]),
    "the worst kept": (["hydra.sweeper.direction=minimize", "keep=best"], ["keep=best", "minimize", "keep=last"]),
    "default no flag": (["hydra.sweeper.final_default=both"], ["final_default"]),
    "seed searched": (["seed=range(0,5)"], ["seed", "must not search it", "fresh seeds"]),
    "nothing searched": (["reward.omega=2"], ["hydra.sweeper.params", "nothing is left to search"]),
    "grid of a continuum": (["hydra/sweeper/sampler=grid"], ["grid", "reward.omega", "choice"]),
    "nothing to prune by": (["objective=quality/greedy"], ["quality/greedy", "extras=every", "pruner=none"]),
    "an end of the space": (["evaluation.prompts=range(-1,4)"], ["evaluation"]),
    "unknown option": (["hydra.sweeper.trials=3"], ["trials"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_trial(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides, expected = BAD[name]
    runs = cheap_runs(monkeypatch)
    real = overrides[0].startswith("+sweep=")  # the rest is the same with a flat configuration
    ended = run_main(["--multirun", *overrides]) if real else multirun(*overrides)
    assert ended.code == 2, ended.text
    assert ended.err.strip() == errors(ended)[0], "more than one message"
    assert "Traceback" not in ended.text
    for text in expected:
        assert text in errors(ended)[0]
    assert runs.seen == []
    assert list(Path().iterdir()) == [], "something was written"


def test_a_sweep_without_multirun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    ended = run_main(["+sweep=r3_omega", "tracking=none"])
    assert ended.code == 2
    assert "--multirun" in errors(ended)[0]
    assert "sweep=r3_omega" in errors(ended)[0]
    assert runs.seen == []


def test_a_locked_storage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    monkeypatch.setattr("dro_lab.sweep.storage.FIRST_WAIT", 0.1)
    assert sweep(trials=1, seeds=0).code == 0
    file = Path("outputs/sweeps/r3_omega/study.db")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ended = sweep(trials=2, seeds=0)
    assert (ended.code, len(errors(ended)), len(runs.seen)) == (2, 1, 1)
    assert "locked by another process" in errors(ended)[0]
    assert "hydra.sweeper.storage=" in errors(ended)[0]
    assert sweep(trials=2, seeds=0).code == 0


CHANGED = {
    "reward.omega=interval(0.0,4.0)": "search reward.omega",
    "objective=reward": "objective",
    "hydra.sweeper.direction=minimize": "direction",
    "steps=7": "steps",
}


def test_another_search_under_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    assert sweep(trials=1, seeds=0).code == 0
    before = Path("outputs/sweeps/r3_omega/study.db").read_bytes()
    for changed, key in CHANGED.items():
        ended = sweep(changed, trials=2, seeds=0)
        assert (ended.code, len(errors(ended)), len(runs.seen)) == (2, 1, 1)
        assert key in errors(ended)[0]
        assert "hydra.sweeper.study_name=NAME" in errors(ended)[0]
    assert Path("outputs/sweeps/r3_omega/study.db").read_bytes() == before
    assert sweep("steps=7", "hydra.sweeper.study_name=other", trials=1, seeds=0).code == 0


def test_trials_without_their_study_are_not_mixed_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    assert sweep(trials=1, seeds=0).code == 0
    Path("outputs/sweeps/r3_omega/study.db").unlink()
    ended = sweep(trials=1, seeds=0)
    assert (ended.code, len(runs.seen)) == (2, 1)
    assert "holds trials, but there is no study" in errors(ended)[0]


# --------------------------------------------------------------------------------------------- conf/sweep


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_of_conf_states_what_it_is_and_can_start_at_both_ends(name: str) -> None:
    sweeper = OmegaConf.load(CONF / "sweep" / f"{name}.yaml").hydra.sweeper
    assert (sweeper.study_name, sweeper.direction, sweeper.sampler.seed) == (name, "maximize", 0)
    assert sweeper.n_trials >= 10
    space = parse_space(sweeper.params, [f"+sweep={name}"])
    for high in (False, True):
        params = space.corner(high)
        cfg = compose(space.overrides(params))
        check(cfg)
        build_pipeline(cfg, {})
        assert (cfg.objective, cfg.evaluation.split) == ("quality", "validation")
        assert {key: OmegaConf.select(cfg, key) for key in sweeper.params} == params


def test_a_sweep_of_conf_runs_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cheap_runs(monkeypatch)
    few = [
        "hydra.sweeper.n_trials=1",
        "hydra.sweeper.final_seeds=1",
        "hydra.sweeper.final_default=false",
        "tracking=none",
    ]
    ended = run_main(["--multirun", "+sweep=dro", *few])
    assert ended.code == 0, ended.err
    for key, value in study("dro").trials[0].params.items():
        assert [OmegaConf.select(cfg, key) for cfg in runs.seen] == [value, value]
    assert [cfg.names.gating for cfg in runs.seen] == ["rubric", "rubric"]
