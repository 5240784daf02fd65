"""The last words of a plain grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from dro_lab import run as run_module
from dro_lab.grid_end import say_what_next
from tests.cli_fixture import run_main, save_policy, small_run


@pytest.mark.parametrize("runs", [0, 1, 2, 3])
def test_a_grid_of_several_runs_says_where_they_lie_and_how_to_compare_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: int
) -> None:
    for number in range(runs):
        (tmp_path / f"{number}_r3").mkdir()
        (tmp_path / f"{number}_r3" / "summary.json").write_text('{"status": "finished"}')
    (tmp_path / "9_failed").mkdir()
    say_what_next(tmp_path)
    expected = f"grid     {runs} runs in {tmp_path}\ncompare  python -m dro_lab.report {tmp_path}\n" if runs > 1 else ""
    assert capsys.readouterr().out == expected


def test_a_run_that_failed_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in {"0_r3": "finished", "1_r3": "failed", "1_r3_2": "stopped"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(f'{{"status": "{status}"}}')
    say_what_next(tmp_path)
    assert capsys.readouterr().out == (
        f"grid     2 runs in {tmp_path}, and 1 that did not come to an end\n"
        f"compare  python -m dro_lab.report {tmp_path} --skip-unfinished\n"
    )


@pytest.mark.long
def test_the_command_ends_with_it_and_prints_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = save_policy(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    arguments = [argument for argument in small_run(policy, ["steps=0"]) if not argument.startswith("hydra.run.dir")]
    ended = run_main(["--multirun", *arguments, "seed=1,2"])
    assert ended.code == 0, ended.text
    assert "grid     2 runs in outputs/" in ended.out
    assert ended.out.rstrip().splitlines()[-1].startswith("compare  python -m dro_lab.report outputs/")
    assert "Warning" not in ended.err


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (["--multirun", "hydra.sweep.dir=a", "seed=1,2", "hydra.sweep.dir=mine"], Path("mine")),
        (["-m", "hydra.sweep.dir=mine"], Path("mine")),
        (["hydra.sweep.dir=mine"], None),
        (["--multirun", "seed=1,2"], None),
        (["--multirun", "hydra.sweep.dir=${outputs}/mine"], None),
    ],
)
def test_a_folder_of_the_users_own_is_known_whatever_the_launcher(given: list[str], folder: Path | None) -> None:
    """Its jobs may run in other processes, which leave no word here."""
    assert run_module._own_grid(given) == folder
