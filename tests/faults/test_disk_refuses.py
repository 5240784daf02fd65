"""Which errors say that a run's folder takes no more: of any file those of a full disk, of its own files also those of
permissions and of devices that went away."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dro_lab.errors import UserError
from dro_lab.record.files import write_atomic
from dro_lab.resume.disk import refuses_writes

RUN = Path("outputs/run")
ELSEWHERE = "/somewhere/else/rows.jsonl"
OF_THE_RUN = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def caught(error: BaseException) -> BaseException:
    """As it is raised by a file of this test, which writes nothing of a run's."""
    with pytest.raises(type(error)) as found:
        raise error
    return found.value


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_that_is_full_is_one_whoever_writes(number: int) -> None:
    assert refuses_writes(OSError(number, "x"), RUN)
    assert refuses_writes(OSError(number, "x", ELSEWHERE), RUN)


@pytest.mark.parametrize("number", OF_THE_RUN)
def test_a_file_of_the_run_that_cannot_be_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/run/rollouts/part-00003.parquet", str(tmp_path / "outputs/run"), b"outputs/run/x"):
        assert refuses_writes(caught(OSError(number, "x", name)), RUN), name
    assert refuses_writes(caught(OSError(number, "x", "/tmp/aside", None, "outputs/run/config.yaml")), RUN), "a rename"
    for name in (ELSEWHERE, "outputs/run_2/x", "outputs", 7):
        assert not refuses_writes(caught(OSError(number, "x", name)), RUN), name


@pytest.mark.parametrize(
    "said",
    [
        "Failed to open local file '{}/.part-00000.parquet.tmp'. Detail: [errno 13] Permission denied",  # pyarrow
        'Error while serializing: I/O error: Permission denied (os error 13) at path "{}/.tmpabc"',  # safetensors
        "[enforce fail at inline_container.cc:747] . open file '{}/optimizer.pt' failed: Permission denied",  # torch
        'I/O error: Stale file handle (os error 116) at path "{}/model.safetensors"',
        "Error writing bytes to file '{}/x'. Detail: [errno 5] Input/output error",
    ],
)
def test_libraries_whose_errors_have_no_file_name_it_in_their_words(said: str, tmp_path: Path) -> None:
    for error in (PermissionError(13, said), SafetensorError(said), RuntimeError(said)):
        for folder, expected in ((tmp_path, True), (tmp_path / "rollouts", True), (tmp_path.parent, False)):
            text = type(error)(*(part.format(folder) if isinstance(part, str) else part for part in error.args))
            assert refuses_writes(caught(text), tmp_path) is expected, text


def test_an_error_without_a_name_is_the_runs_where_the_record_raised_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to an open file names none: EIO of a network disk."""
    error = OSError(errno.EIO, "Input/output error")
    assert not refuses_writes(caught(error), RUN)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="Input/output") as found:
        write_atomic(Path("x"), "text")
    assert refuses_writes(found.value, RUN)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", str(RUN / "x")),
        RuntimeError("shape mismatch in 'outputs/run'"),
        UserError("No space left on device"),
        ValueError("Permission denied"),
    ],
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert not refuses_writes(caught(error), RUN)
