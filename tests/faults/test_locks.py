"""File systems without locks, or with locks that other hosts do not see: nobody writes a run that a living process may
still be writing, and a run whose process is known to be gone goes on by itself."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dro_lab.errors import UserError
from dro_lab.resume import lock, owner
from dro_lab.resume.owner import Owner, locks_reach, read_owner, this_process
from tests.cli_fixture import run_main
from tests.invariants.test_resume_place import command, killed, resumed, runs

ELSEWHERE = Owner("another-host", 1, 1000.0)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre without ``flock``."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def locks_of_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "locks_reach", lambda folder: False)


@pytest.fixture
def living() -> Iterator[tuple[Owner, subprocess.Popen[bytes]]]:
    """Another process of this host."""
    process = subprocess.Popen(["sleep", "600"])
    yield Owner(socket.gethostname(), process.pid, psutil.Process(process.pid).create_time()), process
    process.kill()
    process.wait()


def make(folder: Path, name: str = lock.LOCK) -> None:
    """A lock that its process gave back."""
    held = lock.take(folder, name=name)
    held.write("abc")
    held.release(remove=False)


def left_by(folder: Path, who: Owner, name: str = lock.LOCK) -> None:
    """The lock as a process leaves it that was killed, or that lives where its lock is not seen."""
    (folder / name).write_text(f"{lock.written(folder, name)}\n{who.line()}\n")


# ------------------------------------------------------------------------------------------------ the lock's two lines


def test_the_first_line_is_the_runs_and_the_second_one_its_process_while_it_lives(tmp_path: Path) -> None:
    held = lock.take(tmp_path)
    held.write("abc")
    first, second = (tmp_path / "run.lock").read_text().splitlines()
    assert (first, read_owner(second)) == ("abc", this_process())
    assert this_process().pid == os.getpid()
    held.release(remove=False)
    assert (tmp_path / "run.lock").read_text() == "abc\n"
    lock.take(tmp_path)
    assert read_owner((tmp_path / "run.lock").read_text().splitlines()[1]) == this_process(), "whoever takes it"
    assert lock.written(tmp_path) == "abc"


@pytest.mark.parametrize("content", ["abc", "abc\n", "abc\n{half", "abc\n[1]\n", 'abc\n{"host": "x"}\n', "\n", ""])
@pytest.mark.usefixtures("no_locks")
def test_a_lock_that_names_nobody_is_nobodys(tmp_path: Path, content: str) -> None:
    """Those of earlier versions hold the fingerprint alone."""
    (tmp_path / "run.lock").write_text(content)
    assert lock.take(tmp_path, make=False) is not None
    assert lock.written(tmp_path) == (content.partition("\n")[0] or None)


def test_a_process_that_is_there(living: tuple[Owner, Any], tmp_path: Path) -> None:
    who, process = living
    how = {"locked": False, "folder": tmp_path}
    assert who.is_gone(**how) is False
    assert replace(who, start=who.start - 100).is_gone(**how) is True, "its number was given to another one"
    assert replace(who, host="another-host").is_gone(**how) is None
    process.kill()
    process.wait()
    assert who.is_gone(**how) is True


@pytest.mark.parametrize(
    ("job", "restarts", "expected"), [("7", 1, True), ("7", 0, None), ("8", 1, None), ("", 1, None)]
)
@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.usefixtures("locks_of_one_host")
def test_slurm_starts_a_job_anew_when_the_earlier_start_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, restarts: int, expected: bool | None, locked: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    assert replace(ELSEWHERE, job="7", restarts=0).is_gone(locked=locked, folder=tmp_path) is expected


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,local_lock=none 0 0
server:/old /old nfs rw,vers=3,nolock,local_lock=all 0 0
a@tcp:/scratch /scratch lustre rw,flock,lazystatfs 0 0
a@tcp:/local /local lustre rw,localflock 0 0
a@tcp:/none /none lustre rw,lazystatfs 0 0
beegfs_nodev /mnt/beegfs beegfs rw 0 0
me@host:/x /mnt/with\\040space fuse.sshfs rw 0 0
tmpfs /scratch/tmp tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/data", True),
        ("/home/me/outputs", True),
        ("/old/outputs", False),
        ("/scratch/outputs", True),
        ("/local/outputs", False),
        ("/none/outputs", False),
        ("/mnt/beegfs/outputs", False),
        ("/mnt/with space/outputs", False),
        ("/mnt/other", True),
        ("/scratch/tmp/outputs", True),
    ],
)
def test_which_locks_reach_other_hosts(tmp_path: Path, folder: str, expected: bool) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert locks_reach(Path(folder), table) is expected


def test_a_system_without_such_a_table(tmp_path: Path) -> None:
    assert locks_reach(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("locked", [True, False])
def test_only_the_user_can_say_that_a_process_of_another_host_is_dead(
    tmp_path: Path, locked: bool, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("locks_of_one_host" if locked else "no_locks")
    make(tmp_path)
    left_by(tmp_path, ELSEWHERE)
    with pytest.raises(UserError, match=r"process 1 of host another-host .* resume=.* goes on with it"):
        lock.take(tmp_path)
    assert read_owner((tmp_path / "run.lock").read_text().splitlines()[1]) == ELSEWHERE
    assert lock.take(tmp_path, sure=True) is not None


@pytest.mark.usefixtures("no_locks")
def test_no_user_can_say_that_a_living_process_is_dead(tmp_path: Path, living: tuple[Owner, Any]) -> None:
    make(tmp_path)
    left_by(tmp_path, living[0])
    assert lock.take(tmp_path) is None
    assert lock.take(tmp_path, sure=True) is None


# ------------------------------------------------------------------------------------------------ whole commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Path:
    """A folder of work with a run that was killed behind its first step."""
    folder = tmp_path_factory.mktemp("locks")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        killed(command(policy))
    return folder


@pytest.fixture
def cut(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, in a copy."""
    import shutil

    shutil.copytree(place / "outputs", tmp_path / "work/outputs")
    monkeypatch.chdir(tmp_path / "work")
    (found,) = runs()
    return found


ON = "resume   {}: goes on from step 1 of 3 (resume=never: a new run)"


@pytest.mark.slow
@pytest.mark.usefixtures("no_locks")
def test_the_same_command_while_the_first_still_runs(policy: Path, cut: Path, living: tuple[Owner, Any]) -> None:
    """Without locks: it begins a run of its own; when the first is dead, it goes on."""
    who, process = living
    left_by(cut, who)
    before = (cut / "metrics.jsonl").read_bytes()
    beside = run_main(command(policy))
    assert (beside.code, resumed(beside), len(runs())) == (0, [], 2)
    named = run_main(command(policy, f"resume={cut}"))
    assert named.code == 2
    assert "another process is writing this run" in named.err
    assert (cut / "metrics.jsonl").read_bytes() == before
    process.kill()
    process.wait()
    ended = run_main(command(policy))
    assert (ended.code, resumed(ended), runs()[cut]) == (0, [ON.format(cut)], "finished")


@pytest.mark.slow
@pytest.mark.usefixtures("locks_of_one_host")
def test_a_run_of_another_host_waits_for_its_user(policy: Path, cut: Path) -> None:
    left_by(cut, ELSEWHERE)
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    ended = run_main(command(policy))
    assert ended.code == 2
    (message,) = ended.err.splitlines()
    assert message.startswith(f"error: {cut}: did not end, and this host ")
    assert f"If it was killed, say so: resume={cut} goes on with it. resume=never begins anew." in message
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before
    assert list(runs()) == [cut]
    ended = run_main(command(policy, f"resume={cut}"))
    assert (ended.code, resumed(ended), runs()[cut]) == (0, [ON.format(cut)], "finished")


@pytest.mark.slow
def test_a_job_that_slurm_queued_anew_goes_on_by_itself(policy: Path, cut: Path) -> None:
    """On another node, where locks reach all hosts."""
    left_by(cut, ELSEWHERE)
    ended = run_main(command(policy))
    assert (ended.code, resumed(ended), runs()[cut]) == (0, [ON.format(cut)], "finished")


@pytest.mark.usefixtures("locks_of_one_host")
def test_of_a_grid_the_message_says_how_to_free_it(tmp_path: Path) -> None:
    job = tmp_path / "grid/0_job"
    job.mkdir(parents=True)
    for folder, name in ((tmp_path / "grid", lock.GRID_LOCK), (job, lock.LOCK)):
        make(folder, name)
        left_by(folder, ELSEWHERE, name)
        with pytest.raises(UserError) as caught:
            lock.take(folder, name=name)
        said = str(caught.value).split("`")[1]
    subprocess.run(said, shell=True, check=True)
    assert lock.take(tmp_path / "grid", name=lock.GRID_LOCK) is not None
    assert lock.take(job) is not None
    assert lock.written(job) == "abc"
