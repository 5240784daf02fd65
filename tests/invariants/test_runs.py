"""Laws of whole runs: what repeats, what does not change, what an interrupted run leaves, what a run returns."""

import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra.experimental.callback import Callback
from mlflow import MlflowClient
from omegaconf import OmegaConf

from dro_lab.errors import UserError
from dro_lab.record.read import load_run
from tests.cli_fixture import run_main, save_policy, small_run

VARIED = (
    "steps=3",
    "rollout.max_completion_length=12",
    "algorithm.num_generations=4",
    "algorithm.per_device_train_batch_size=8",
    "algorithm.learning_rate=3e-3",
    "evaluation.every=2",
)
"""A run whose numbers move: three steps at a large learning rate."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(policy: Path, *overrides: str) -> str:
    """One run in this process, in the folder `run` unless an override names another; returns what it printed."""
    ended = run_main(small_run(policy, overrides))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    return ended.out


def run_process(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dro_lab.run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def numbers(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a file of numbers, without those that tell the time."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(("seconds", "time"))} for row in rows]


def both(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return numbers(folder), numbers(folder, "evals.jsonl")


def assert_moves(folder: Path) -> None:
    """The run's numbers could differ: rewards differ within groups, and training changes something."""
    rows = numbers(folder)
    assert any(row["reward/group_std"] > 0 and row["grad_norm"] > 0 for row in rows)
    first, last = (
        [row["value"] for row in numbers(folder, "evals.jsonl") if row["metric"] == "reward" and row["step"] == step]
        for step in (0, len(rows))
    )
    assert first != last


@pytest.mark.long
def test_jobs_of_a_sweep_give_the_numbers_of_processes_of_their_own(policy: Path, tmp_path: Path) -> None:
    sweep = [argument for argument in small_run(policy, VARIED) if not argument.startswith("hydra.run.dir")]
    ended = run_main(["--multirun", *sweep, "reward=r3,avg_prob", "seed=1,2", "hydra.sweep.dir=sweep"])
    assert ended.code == 0, ended.err
    folders = {path.name: path for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    names = ["0_r3_pararev_s1", "1_r3_pararev_s2", "2_avg_prob_pararev_s1", "3_avg_prob_pararev_s2"]
    assert sorted(folders) == names
    swept = {name: both(folder) for name, folder in folders.items()}
    assert len({json.dumps(found) for found in swept.values()}) == 4, "reward and seed make no difference"
    # the first job, and the last, which follows three others
    for name, overrides in ((names[0], ["reward=r3", "seed=1"]), (names[3], ["reward=avg_prob", "seed=2"])):
        assert_moves(folders[name])
        alone = run_process(small_run(policy, [*VARIED, *overrides, f"hydra.run.dir=alone/{name}"]), tmp_path)
        assert alone.returncode == 0, alone.stderr
        assert alone.stderr == ""
        assert both(tmp_path / "alone" / name) == swept[name]


@pytest.mark.long
def test_jobs_side_by_side_give_the_numbers_of_jobs_one_after_another(policy: Path, tmp_path: Path) -> None:
    """The joblib launcher's jobs: processes that start at once, and share one new MLflow database."""
    small = [argument for argument in small_run(policy, VARIED) if not argument.startswith("hydra.run.dir")]
    grid = [*small, "reward=r3,avg_prob", "report=false"]
    ended = run_main(["--multirun", *grid, "hydra.sweep.dir=in_turn"])
    assert ended.code == 0, ended.err
    grid = [argument for argument in grid if argument != "tracking=none"]
    beside = run_process(["--multirun", *grid, "hydra/launcher=joblib", "hydra.sweep.dir=beside"], tmp_path)
    assert beside.returncode == 0, beside.stderr
    assert beside.stderr == ""
    names = ["0_r3_pararev_s0", "1_avg_prob_pararev_s0"]
    assert_moves(tmp_path / "beside" / names[0])
    for name in names:
        assert both(tmp_path / "beside" / name) == both(tmp_path / "in_turn" / name)
        command = load_run(tmp_path / "beside" / name).environment["command"]
        assert command.startswith("python -m dro_lab.run --multirun "), "a worker's own command repeats nothing"
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "pararev"]
    tracked = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])
    assert [run.info.run_name for run in tracked] == names
    for run in tracked:
        assert run.info.status == "FINISHED"
        (last,) = [row for row in numbers(tmp_path / "beside" / run.info.run_name) if row["step"] == 3]
        assert run.data.metrics["reward/sampled"] == last["reward/sampled"]
        assert "rollouts.parquet" in [item.path for item in client.list_artifacts(run.info.run_id)]


class Odd(Exception):
    """An error that cannot be sent to another process: made anew there, it lacks an argument."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(f"{what} at {where}")


@pytest.mark.parametrize(
    ("ends", "kind", "said"),
    [
        (UserError("seed=x: no"), UserError, "seed=x: no"),
        (SystemExit(3), RuntimeError, "the run left with exit status 3"),
        (Odd("broken", where="step 1"), RuntimeError, "a job failed with Odd: broken at step 1"),
    ],
)
def test_a_worker_never_exits(
    monkeypatch: pytest.MonkeyPatch, ends: BaseException, kind: type[Exception], said: str
) -> None:
    """The process that waits for a worker of the joblib launcher would wait for ever."""
    from dro_lab import run as command

    def fails(_: object) -> float:
        raise ends

    monkeypatch.setattr(command, "_job", fails)
    monkeypatch.setattr(command, "job_mark", lambda: None)  # no trial of a sweep
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-1")
    with pytest.raises(kind, match=said) as caught:
        command.job.__wrapped__(OmegaConf.create())
    assert str(pickle.loads(pickle.dumps(caught.value))) == said


def test_the_same_seed_gives_the_same_run_and_another_gives_another(policy: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run(policy, *VARIED, f"seed={seed}", f"hydra.run.dir={name}")
    assert both(tmp_path / "a") == both(tmp_path / "b")
    assert numbers(tmp_path / "a") != numbers(tmp_path / "c")
    runs = [load_run(tmp_path / name) for name in ("a", "b")]
    assert runs[0].rollouts.equals(runs[1].rollouts)


def test_evaluating_more_often_changes_no_training_step(policy: Path, tmp_path: Path) -> None:
    for every in (1, 50):
        run(policy, *VARIED, f"evaluation.every={every}", f"hydra.run.dir=every{every}")
    assert_moves(tmp_path / "every1")
    assert numbers(tmp_path / "every1") == numbers(tmp_path / "every50")
    often, seldom = (numbers(tmp_path / f"every{every}", "evals.jsonl") for every in (1, 50))
    assert sorted({row["step"] for row in often}) == [0, 1, 2, 3]
    assert [row for row in often if row["step"] in (0, 3)] == seldom


class KeepReturn(Callback):
    """A Hydra callback that keeps what the jobs returned."""

    kept: ClassVar[list[Any]] = []

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        self.kept.append(job_return.return_value)


def kept_return(policy: Path, *overrides: str) -> Any:
    KeepReturn.kept.clear()
    run(policy, *overrides, "+hydra.callbacks.keep._target_=tests.invariants.test_runs.KeepReturn")
    (value,) = KeepReturn.kept
    return value


@pytest.mark.filterwarnings("ignore:hydra.utils.instantiate")
def test_a_run_returns_the_objective_to_hydra(policy: Path, tmp_path: Path) -> None:
    for objective in ("reward", "completion_tokens"):
        value = kept_return(policy, *VARIED, f"objective={objective}", f"hydra.run.dir={objective}")
        last = [row for row in numbers(tmp_path / objective, "evals.jsonl") if row["step"] == 3]
        assert value == next(row["value"] for row in last if row["metric"] == objective)
        assert load_run(tmp_path / objective).summary["objective"] == value


@pytest.mark.filterwarnings("ignore:hydra.utils.instantiate")
def test_no_steps_evaluates_only(policy: Path, tmp_path: Path) -> None:
    value = kept_return(policy, "steps=0", "objective=reward")
    found = load_run(tmp_path / "run", require_finished=True)
    assert (found.summary["steps"], found.summary["planned_steps"]) == (0, 0)
    assert len(found.metrics) == len(found.rollouts) == 0
    assert not (tmp_path / "run/policy").exists()
    (reward,) = found.evals[found.evals["metric"] == "reward"]["value"]
    assert value == found.summary["objective"] == reward
    assert math.isfinite(reward)


def test_the_saved_policy_loads_and_repeats_the_last_evaluation(policy: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(policy, *VARIED)
    saved = tmp_path / "run/policy"
    assert AutoModelForCausalLM.from_pretrained(saved).config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(saved).chat_template
    assert_moves(tmp_path / "run")
    run(saved, *VARIED, "steps=0", "hydra.run.dir=again")
    last = [row for row in numbers(tmp_path / "run", "evals.jsonl") if row["step"] == 3]
    again = [{**row, "step": 3} for row in numbers(tmp_path / "again", "evals.jsonl")]
    to_start = ("win_rate", "win_unknown_share", "kl")  # the two runs have another start
    assert [row for row in again if row["metric"] != "kl"] == [row for row in last if row["metric"] not in to_start]
    before, after = (load_run(tmp_path / name).summary[key] for name, key in (("again", "before"), ("run", "after")))
    assert before == after


def _heed_ctrl_c() -> None:
    """A shell that starts its jobs in the background makes them ignore SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.long
def test_ctrl_c_leaves_a_readable_record(policy: Path, tmp_path: Path) -> None:
    arguments = small_run(policy, [*VARIED, "steps=5000", "evaluation.every=4"])
    process = subprocess.Popen(
        [sys.executable, "-m", "dro_lab.run", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_heed_ctrl_c,
    )
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
        assert time.monotonic() < deadline, "no training step within two minutes"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert err == "interrupted\n"
    assert "interrupted after" in out
    assert "\nrecord   run\ngo on    python -m dro_lab.run " in out
    found = load_run(tmp_path / "run")
    assert found.summary["status"] == "interrupted"
    assert found.summary["planned_steps"] == 5000
    steps = found.summary["steps"]
    assert 5 <= steps < 5000
    assert abs(len(found.metrics) - steps) <= 1
    assert set(found.rollouts["step"]) >= set(range(steps - 1))
    page = (tmp_path / "run/report.html").read_text()
    assert "interrupted at step" in page
    assert found.environment["end"] is not None
    assert_after_is_measured(tmp_path / "run", page)


def assert_after_is_measured(folder: Path, page: str) -> None:
    """The record and the page claim an *after* only where the last evaluation was made at the last step."""
    found = load_run(folder)
    summary, last = found.summary, int(found.evals["step"].max())
    quality = found.evals[found.evals["metric"] == "quality"].set_index("step")["value"]
    assert summary["before"]["value"] == quality[0]
    assert (f"after {summary['steps']} training steps with" in page) == (summary["steps"] == last > 0)
    if summary["steps"] == last > 0:
        assert summary["after"]["value"] == summary["objective"] == quality[last]
        assert summary["win_rate"] is not None
    else:
        assert summary["after"] is summary["objective"] is summary["win_rate"] is None
        assert all(line["after"] is None for line in summary["comparison"])
        assert (f"last measured at step {last}" if last else "was not measured again") in page


@pytest.mark.parametrize(("calls", "steps", "last"), [(2, 0, 0), (5, 2, 2), (6, 3, 2)])
def test_a_run_cut_short_claims_an_after_only_where_it_was_measured(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, steps: int, last: int
) -> None:
    """The reward ends the run at its ``calls``-th call: it is called once an evaluation, and once a step."""
    (tmp_path / f"ends_at_call_{calls}.py").write_text(
        "from dro_lab.rewards.avg_prob import avg_prob\n\nseen = []\n\n\n"
        "def stops(groups, stats):\n    seen.append(groups.step)\n"
        f"    if len(seen) == {calls}:\n        raise KeyboardInterrupt\n    return avg_prob(groups, stats)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")
    arguments = [f"reward._target_=ends_at_call_{calls}.stops", *(f"~reward.{key}" for key in keys)]
    ended = run_main(small_run(policy, [*arguments, "steps=4", "evaluation.every=2"]))
    assert ended.code == 130, ended.err
    found = load_run(tmp_path / "run")
    assert (found.summary["steps"], found.evals["step"].max()) == (steps, last)
    assert_after_is_measured(tmp_path / "run", (tmp_path / "run/report.html").read_text())


@pytest.mark.parametrize("call", ["artifacts", "finish"])
def test_a_tracker_that_fails_at_the_end_takes_no_result_away(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / f"refuses_{call}.py").write_text(
        "from pathlib import Path\n\nfrom dro_lab.errors import UserError\n"
        "from dro_lab.tracking.none import NoTracker\n\n\n"
        "class Refuses(NoTracker):\n"
        "    def finish(self, status, *, error=None):\n        Path('ended').write_text(status)\n\n\n"
        "class Fails(Refuses):\n"
        f"    def {call}(self, *values, **named):\n        super().{call}(*values, **named)\n"
        "        raise UserError('tracking.uri=x: the server went away')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = run(policy, f"tracking._target_=refuses_{call}.Fails")
    warning = "warning: the tracker did not take the end of the run, the record is whole: tracking.uri=x: the server"
    assert out.count(warning) == 1
    after = out[out.index(warning) :]
    for text in ("before", "after", "quality", "report   run/report.html", "record   run"):
        assert text in after
    assert (tmp_path / "ended").read_text() == "finished", "what cannot be attached to is still ended"
    assert load_run(tmp_path / "run", require_finished=True).summary["after"] is not None


@pytest.mark.parametrize(
    ("raised", "code", "status", "said"),
    [("KeyboardInterrupt", 130, "interrupted", "interrupted"), ("RuntimeError", 1, "failed", "RuntimeError: broken")],
)
def test_what_fails_while_a_run_is_closed_does_not_hide_why_it_ended(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str, code: int, status: str, said: str
) -> None:
    (tmp_path / f"ends_in_{status}.py").write_text(
        "from dro_lab.tracking.none import NoTracker\n\n\n"
        f"def stops(groups, stats):\n    raise {raised}('broken')\n\n\n"
        "class Fails(NoTracker):\n    def finish(self, status, *, error=None):\n        raise OSError('disk full')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")
    targets = [f"reward._target_=ends_in_{status}.stops", f"tracking._target_=ends_in_{status}.Fails"]
    ended = run_main(small_run(policy, [*targets, *(f"~reward.{key}" for key in keys)]))
    assert ended.code == code
    assert said in ended.err.splitlines()[-1]
    assert "could not be closed: OSError: disk full" in ended.out
    assert load_run(tmp_path / "run").summary["status"] == status
