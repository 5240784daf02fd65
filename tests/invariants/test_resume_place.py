"""Which folder a run gets: one of its own, or that of the stopped run of the same configuration, and never another."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dro_lab.resume import lock, place
from dro_lab.resume.settings import fingerprint
from dro_lab.training.observer import RunObserver
from tests import resume_fixture as stopping
from tests.cli_fixture import Ended, run_main, save_policy, small_run
from tests.resume_fixture import stopped_at

SHORT = ("steps=3", "checkpoint.every=1", "report=false", "evaluation.greedy=false", "evaluation.also=[]")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(policy: Path, *more: str) -> list[str]:
    """Without a folder: under ``outputs``, by date and time."""
    return [a for a in small_run(policy, [*SHORT, *more]) if a != "hydra.run.dir=run"]


def runs(folder: Path = Path("outputs")) -> dict[Path, str]:
    """The runs below a folder and their statuses."""
    return {path.parent: json.loads(path.read_text())["status"] for path in sorted(folder.glob("20*/**/summary.json"))}


def at_step_2(self: Any, args: Any, state: Any, *_: Any, **__: Any) -> bool:
    return state.global_step == 2


def killed(arguments: Sequence[str]) -> None:
    """The command, killed in its second step, behind the checkpoint of the first."""
    at_2 = stopped_at(RunObserver, "on_step_end", when=at_step_2)
    with stopping.nothing_is_closed(), at_2, pytest.raises(stopping.Killed):
        run_main(arguments)


def resumed(ended: Ended) -> list[str]:
    return [line for line in ended.out.splitlines() if line.startswith("resume")]


@pytest.mark.slow
def test_the_same_command_goes_on_with_the_killed_run_alone(policy: Path) -> None:
    """Not with one of another configuration, a finished one, or one that is being written; never says never."""
    killed(command(policy))
    (first,) = runs()
    other = run_main(command(policy, "seed=7", "steps=1"))
    assert other.code == 0
    assert resumed(other) == []
    assert len(runs()) == 2
    never = run_main(command(policy, "resume=never"))
    assert (never.code, resumed(never), len(runs())) == (0, [], 3)
    held = lock.take(first)
    beside = run_main(command(policy, "report=false", "tracking=none"))
    assert (beside.code, resumed(beside), len(runs())) == (0, [], 4)
    held.release(remove=False)
    same = run_main(command(policy, "checkpoint.keep=5"))  # a key that changes no number
    assert same.code == 0
    assert resumed(same) == [f"resume   {first}: goes on from step 1 of 3 (resume=never: a new run)"]
    assert set(runs().values()) == {"finished"}
    assert len(runs()) == 4
    assert not list(Path("outputs").glob("20*/*/run.lock"))
    again = run_main(command(policy))
    assert (again.code, resumed(again), len(runs())) == (0, [], 5)
    numbers = [stopping.numbers(folder, "metrics.jsonl") for folder in runs() if folder.name.endswith("s0")]
    assert all(found == numbers[0] for found in numbers)


@pytest.mark.slow
def test_a_folder_of_its_own_goes_on_with_its_own_run_alone(policy: Path) -> None:
    """hydra.run.dir says which: no other folder is looked at, and nothing finished or different is written over."""
    killed(command(policy))
    (elsewhere,) = runs()
    killed(command(policy, "hydra.run.dir=mine"))
    for more, says in (("seed=1", "already holds a run"), ("resume=never", "already holds a run")):
        ended = run_main(command(policy, "hydra.run.dir=mine", more))
        assert ended.code == 2
        assert says in ended.err
    ended = run_main(command(policy, "hydra.run.dir=mine"))
    assert resumed(ended) == ["resume   mine: goes on from step 1 of 3 (resume=never: a new run)"]
    assert runs() == {elsewhere: "running"}
    assert run_main(command(policy, "hydra.run.dir=mine")).code == 2, "a finished run is never written over"


@pytest.mark.slow
def test_a_folder_can_be_named(policy: Path) -> None:
    killed(command(policy))
    (first,) = runs()
    for named, says in (
        (f"resume={first.parent}", "holds no run"),
        ("resume=nowhere", "resume=nowhere: holds no run. Give the folder of a run that stopped"),
    ):
        ended = run_main(command(policy, named))
        assert ended.code == 2
        assert says in ended.err
    ended = run_main(command(policy, f"resume={first}", "seed=5"))
    assert ended.code == 2
    assert "it is a run of another configuration" in ended.err
    ended = run_main(command(policy, f"resume={first}"))
    assert len(resumed(ended)) == 1
    ended = run_main(command(policy, f"resume={first}"))
    assert ended.code == 2
    assert "its status is finished" in ended.err
    assert list(runs()) == [first]
    again = run_main(["--config-path", str(first.absolute()), "--config-name", "config"])
    assert again.code == 0, "its record repeats it, as a new run"
    assert resumed(again) == []
    _, second = runs()
    assert stopping.numbers(second, "metrics.jsonl") == stopping.numbers(first, "metrics.jsonl")


def test_new_folders_never_collide(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: place._new(tmp_path / "a/b", hold=False), range(64)))
    assert len(set(made)) == 64
    assert tmp_path / "a/b" in made


@pytest.mark.parametrize("more", [["outputs=taken"], ["outputs=/proc/outputs"]])
def test_outputs_that_cannot_be_written_are_one_message(policy: Path, more: list[str]) -> None:
    Path("taken").write_text("a file")
    ended = run_main([a for a in command(policy, *more) if a != "outputs=outputs"])
    assert ended.code == 2
    (message,) = ended.err.splitlines()
    assert message.startswith("error: hydra.run.dir: the run's folder cannot be made")
    assert more[0].removeprefix("outputs=") in message


def test_looking_makes_no_folder(policy: Path) -> None:
    for flags in (["--cfg", "job"], ["--cfg", "all", "--resolve"], ["--info", "config"]):
        run_main([*command(policy), *flags])
    assert not Path("outputs").exists()


def test_only_keys_that_change_numbers_make_another_run() -> None:
    base = {"seed": 1, "reward": {"omega": 1.0}, "outputs": "a", "report": True, "tracking": {"uri": None}}
    same = {**base, "outputs": "b", "report": False, "tracking": {"uri": "x"}, "checkpoint": {"every": 3}, "names": {}}
    first = fingerprint(OmegaConf.create(base))
    assert fingerprint(OmegaConf.create(same)) == first
    for other in ({**base, "seed": 2}, {**base, "reward": {"omega": 1.5}}, {**base, "extra": None}):
        assert fingerprint(OmegaConf.create(other)) != first


def test_a_lock_is_one_processs_and_goes_with_it(tmp_path: Path) -> None:
    held = lock.take(tmp_path)
    held.write("abc")
    assert lock.take(tmp_path) is None
    assert lock.written(tmp_path) == "abc"
    held.release(remove=False)
    again = lock.take(tmp_path, make=False)
    assert lock.written(tmp_path) == "abc"
    again.release(remove=True)
    assert lock.take(tmp_path, make=False) is None
    assert lock.written(tmp_path) is None
    child = subprocess.Popen(
        [
            sys.executable, "-c",
            "import pathlib, sys, time; from dro_lab.resume.lock import take; "
            "take(pathlib.Path(sys.argv[1])).write('x'); print(1, flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline()
    assert lock.take(tmp_path) is None
    child.kill()
    child.wait()
    assert lock.take(tmp_path) is not None


def test_a_mistyped_sweep_makes_no_folder() -> None:
    """Merging the sweep's folder looks at the grid's, which is not to be made by that."""
    ended = run_main(["--multirun", "+sweep=r3_omega", "tracking=none", "evaluation.rows=4"])
    assert ended.code == 2
    assert "evaluation.rows" in ended.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "given", [["steps=-1"], ["hydra.run.dir=mine", "reward.omega=high"], ["--multirun", "steps=-1,2"]]
)
def test_a_refused_run_leaves_no_folder(given: list[str]) -> None:
    ended = run_main(["tracking=none", *given])
    assert ended.code == 2
    logging.getLogger("somebody").error("behind the refusal")  # Hydra's handler would open its file now
    assert list(Path().iterdir()) == []


def test_what_else_lies_in_a_refused_runs_folder_stays() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    ended = run_main(["tracking=none", "hydra.run.dir=mine", "steps=-1"])
    assert ended.code == 2
    assert Path("mine/notes.txt").read_text() == "mine"


def test_a_refused_job_leaves_the_finished_ones_of_its_grid(policy: Path) -> None:
    ended = run_main(["--multirun", *command(policy, "steps=0,-1")])
    assert ended.code == 2
    (finished,) = runs()
    assert sorted(path.name for path in finished.parent.iterdir()) == [
        finished.name,
        "grid.lock",
        "multirun.yaml",
    ]
