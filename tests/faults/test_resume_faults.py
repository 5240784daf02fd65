"""What goes wrong around a run that is to go on: damaged checkpoints, Ctrl-C, a disk that takes no more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dro_lab.resume import checkpoint, lock
from dro_lab.training.observer import RunObserver
from tests import resume_fixture as stopping
from tests.cli_fixture import run_main, save_policy
from tests.resume_fixture import refused

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def policy(place: Path) -> Path:
    return save_policy(place / "tiny")


@pytest.fixture(autouse=True)
def _own_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def whole(place: Path, policy: Path) -> dict[str, Any]:
    """The facts of the run that nothing disturbed."""
    return stopping.undisturbed(policy, place)


@pytest.fixture(scope="module")
def cut(place: Path, policy: Path) -> Path:
    """A run that was killed in step 7, with the checkpoints of steps 4 and 6."""
    return stopping.killed_in_step_7(policy, place)


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def change(folder: Path) -> None:
    file = folder / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "scheduler.pt").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"version": 1, "st')


def plant(folder: Path) -> None:
    """A file in a form that can hold code."""
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


def shorter(folder: Path) -> None:
    (folder.parents[1] / "metrics.jsonl").write_text("")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "model.safetensors has 1000 bytes and had"),
        (change, "optimizer.pt was changed"),
        (lose, "scheduler.pt is missing"),
        (no_manifest, "manifest.json is missing or cannot be read"),
        (plant, "pytorch_model.bin is missing, or is not in its manifest"),
        (shorter, "metrics.jsonl is shorter than it was"),
    ],
)
@pytest.mark.tried("faults")
def test_damage_is_seen(cut: Path, damage: Any, said: str) -> None:
    folder = stopping.copied(cut, cut.with_name(f"seen_{damage.__name__}"))
    there = checkpoint.Checkpoints(folder)
    assert there.newest().step == 6
    damage(folder / "checkpoints/step-000006")
    found = there.newest()
    path, fault = there.passed_over[0]
    assert said in fault
    assert path == folder / "checkpoints/step-000006"
    assert found is None if damage is shorter else found.step == 4


def test_nothing_that_could_hold_code_is_in_a_checkpoint(cut: Path) -> None:
    names = {path.name for path in (cut / "checkpoints/step-000006").rglob("*") if path.is_file()}
    assert {"model.safetensors", "lagged.safetensors", "lab.json", "manifest.json", "optimizer.pt"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pkl", ".py"))}
    torch_files = {name for name in names if name.endswith((".pt", ".pth"))}
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for name in torch_files:
        with safe_globals():  # numpy's own numbers, which torch does not know
            torch.load(cut / "checkpoints/step-000006" / name, weights_only=True)


@pytest.mark.tried("faults")
def test_a_truncated_checkpoint_is_named_and_passed_over(policy: Path, whole: dict[str, Any], cut: Path) -> None:
    folder = stopping.copied(cut, cut.with_name("truncated"))
    truncate(folder / "checkpoints/step-000006")
    ended = stopping.go(policy, "truncated")
    warned, resumed = stopping.said(ended)
    assert warned.startswith("warning: checkpoint truncated/checkpoints/step-000006: model.safetensors has 1000 bytes")
    assert warned.endswith("the one before it is taken")
    assert resumed == "resume   truncated: goes on from step 4 of 7 (resume=never: a new run)"
    assert stopping.differing(whole, stopping.facts(folder)) == []


def test_other_rows_are_refused(policy: Path, cut: Path) -> None:
    folder = stopping.copied(cut, cut.with_name("other_rows"))
    for state in folder.glob("checkpoints/*/lab.json"):
        state.write_text(state.read_text().replace('"data": "', '"data": "0'))
        checkpoint.write_manifest(state.parent, 0)
    before = sorted(path.name for path in folder.iterdir())
    ended = run_main(stopping.arguments(policy, "other_rows"))
    assert ended.code == 2
    assert "the run stopped at step 6 and cannot go on: dataset=pararev has other rows now" in ended.err
    assert "resume=never" in ended.err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.fixture
def heeded() -> Iterator[None]:
    """A shell that starts its jobs in the background makes them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_finishes_saves_and_says_how_to_go_on(
    policy: Path, place: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pressed within step 1, whose batch serves step 2 too: both are done, and saved."""
    monkeypatch.setattr(sys, "argv", [])
    begins = RunObserver.on_step_end

    def press(self: RunObserver, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step == 1 and not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
        begins(self, args, state, control, **named)

    pressed: list[int] = []
    monkeypatch.setattr(RunObserver, "on_step_end", press)
    arguments = [*stopping.arguments(policy, "pressed"), "checkpoint.every=5"]
    arguments.remove("checkpoint.every=2")
    ended = run_main(arguments)
    assert ended.code == 130, ended.text
    assert ended.err == "interrupted\n"
    assert "warning: interrupted: finishing the step and saving it (again: stop at once)" in ended.out
    *_, record, command, where = ended.out.splitlines()
    assert record == "record   pressed"
    assert command.startswith("go on    python ")
    assert all(argument in command for argument in arguments if "{" not in argument)
    assert where == "         (from step 2)"
    assert json.loads((place / "pressed/summary.json").read_text())["status"] == "interrupted"
    assert (place / "pressed/rollouts.parquet").exists(), "the record is closed and readable"
    again = run_main(arguments)
    assert again.code == 0, again.text
    assert stopping.said(again) == ["resume   pressed: goes on from step 2 of 7 (resume=never: a new run)"]
    found = stopping.facts(place / "pressed")
    tables = set(stopping.TABLES)  # cut in other parts
    assert set(stopping.differing(whole, found)) <= tables
    from dro_lab.record.read import load_run

    first, second = load_run(place / "whole"), load_run(place / "pressed")
    for name in ("rollouts", "tokens", "answers"):
        assert getattr(first, name).equals(getattr(second, name))


@pytest.mark.usefixtures("heeded")
def test_a_second_ctrl_c_stops_at_once(policy: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(self: RunObserver, *_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunObserver, "on_step_end", press)
    ended = run_main(stopping.arguments(policy, "twice"))
    assert ended.code == 130
    assert "interrupted after 0 steps" in ended.out
    assert "(from its start: no checkpoint was due yet)" in ended.out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "as it was before the run"


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A real file system of 4 MiB; skipped where none may be mounted."""
    folder = place / "disk"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.tried("faults")
def test_a_full_disk_stops_with_one_message_and_spares_the_last_checkpoint(
    policy: Path, small_disk: Path, whole: dict[str, Any], cut: Path
) -> None:
    """There is room for one checkpoint, not for two."""
    folder = small_disk / "run"
    one = sum(path.stat().st_size for path in (cut / "checkpoints/step-000006").rglob("*") if path.is_file())
    (small_disk / "filler").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - int(1.6 * one)))
    message = refused(policy, str(folder))
    assert str(folder) in message
    assert "Make room" in message
    assert "the same command then goes on from step 2" in message
    assert checkpoint.damage(folder / "checkpoints/step-000002") is None
    assert not any((folder / "trainer").glob("*")), "what was half written is gone"
    (small_disk / "filler").unlink()
    ended = stopping.go(policy, str(folder))
    assert "goes on from step 2 of 7" in stopping.said(ended)[-1]
    assert stopping.differing(whole, stopping.facts(folder)) == []


def test_no_room_at_all(policy: Path, small_disk: Path) -> None:
    """Nothing can be written from the first line on."""
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"0" * 1024):
            pass
    message = refused(policy, str(small_disk / "run"))
    assert "hydra.run.dir: the run's folder cannot be made (No space left on device)" in message


def test_a_run_has_one_process(policy: Path, cut: Path) -> None:
    folder = stopping.copied(cut, cut.with_name("taken"))
    held = lock.take(folder)
    ended = run_main(stopping.arguments(policy, "taken"))
    assert ended.code == 2
    assert "hydra.run.dir=" in ended.err
    assert "another process is writing this run" in ended.err
    held.release(remove=False)
