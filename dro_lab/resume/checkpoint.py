"""Checkpoints of a run: written aside and renamed, so that each one there is whole, and looked at before it is used.

``checkpoints/step-000020/`` holds the trainer's own (weights as safetensors, optimizer, scheduler, random numbers), the
lab's (``lab.json``, ``lagged.safetensors``, ``best/``) and, written last, ``manifest.json`` with every file's size and
digest. What is loaded is safetensors, JSON, or read by torch with ``weights_only``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dro_lab.errors import UserError
from dro_lab.record.files import write_atomic
from dro_lab.record.writer import Mark, lacks
from dro_lab.secrets import beginning

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "lab.json"
VERSION = 1
PICKLED = "training_args.bin"
"""What the trainer writes beside its state for people: a pickle, and nobody needs it."""


class CheckpointError(UserError):
    """A checkpoint could not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int
    state: Mapping[str, Any]  # the lab's own

    @property
    def mark(self) -> Mark:
        """Where the record stood."""
        found: Mark = self.state["record"]
        return found


@dataclass
class Checkpoints:
    """A run's checkpoints.

    Args:
        folder: of the run.
        keep: how many stay.
    """

    folder: Path
    keep: int = 2
    last: int | None = None  # step of the newest whole one
    passed_over: list[tuple[Path, str]] = field(default_factory=list)  # by `newest`: which are not whole, and why

    @property
    def place(self) -> Path:
        """Where they lie."""
        return self.folder / FOLDER

    @property
    def aside(self) -> Path:
        """Where one is written: the trainer's own output folder."""
        return self.folder / "trainer"

    def clear_aside(self) -> None:
        """Remove what was half written."""
        shutil.rmtree(self.aside, ignore_errors=True)
        for left in self.place.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def write(self, step: int, fill: Callable[[], Path]) -> Path:
        """Write one: ``fill`` writes all of it aside and says where; then it appears at once and older ones go.

        Raises:
            CheckpointError: it cannot be written; what was written of it is removed, older ones stay.
        """
        target = self.place / f"step-{step:06d}"
        try:
            shutil.rmtree(self.aside, ignore_errors=True)
            made = fill()
            (made / PICKLED).unlink(missing_ok=True)
            write_manifest(made, step)
            self.place.mkdir(exist_ok=True)
            self._remove(target)
            os.replace(made, target)
            sync_folder(self.place)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch says RuntimeError of a full disk
            shutil.rmtree(self.aside, ignore_errors=True)
            raise CheckpointError(self._refusal(step, target, error)) from error
        self.last = step
        for old in self._there()[self.keep :]:
            self._remove(old)
        return target

    def newest(self) -> Checkpoint | None:
        """The newest whole one whose record is still there; `passed_over` says what is wrong with newer ones."""
        self.passed_over.clear()
        for path in self._there():
            fault = damage(path)
            state = {} if fault else read_state(path)
            fault = fault or lacks(self.folder, state["record"])
            if fault is None:
                self.last = int(state["step"])
                return Checkpoint(path=path, step=self.last, state=state)
            self.passed_over.append((path, fault))
        return None

    def forget_after(self, step: int) -> None:
        """Remove what lies behind ``step``: the record is cut there."""
        for path in self._there():
            if path.name > f"step-{step:06d}":
                self._remove(path)

    def remove_all(self) -> None:
        """A finished run needs none."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.rmtree(self.aside, ignore_errors=True)

    def _there(self) -> list[Path]:
        return sorted(self.place.glob("step-*"), reverse=True)

    def _remove(self, path: Path) -> None:
        """At once, from where somebody looks for checkpoints."""
        if path.exists():
            gone = path.with_name(f".{path.name}")
            os.replace(path, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _refusal(self, step: int, target: Path, error: Exception) -> str:
        free = _free(self.folder)
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        why = getattr(error, "strerror", None) or beginning(said, 180)
        goes_on = f"from step {self.last}" if self.last else "from its start"
        return (
            f"{target}: the checkpoint of step {step} cannot be written ({why}{free}). Make room, or make the folder "
            f"writable; the same command then goes on {goes_on}. checkpoint.every=0 writes none"
        )


def _free(folder: Path) -> str:
    try:
        return f"; {shutil.disk_usage(folder).free / 2**20:.0f} MiB free"
    except OSError:
        return ""


def state_file(folder: Path, rank: int) -> Path:
    """The lab's own state of a rank."""
    return folder / (STATE if rank == 0 else f"lab-{rank}.json")


def write_state(folder: Path, state: Mapping[str, Any], *, rank: int = 0) -> None:
    """Write the lab's own state."""
    write_atomic(state_file(folder, rank), json.dumps(state, ensure_ascii=False))


def read_state(folder: Path, *, rank: int = 0) -> dict[str, Any]:
    """Read it; a rank that was not there goes on from the first one's."""
    own = state_file(folder, rank)
    found: dict[str, Any] = json.loads((own if own.exists() else folder / STATE).read_text(encoding="utf-8"))
    return found


def write_manifest(folder: Path, step: int) -> None:
    """Name every file with its size and digest, each on the disk before the manifest is."""
    files = {}
    for path in sorted(found for found in folder.rglob("*") if found.is_file() and found.name != MANIFEST):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    write_atomic(folder / MANIFEST, json.dumps({"version": VERSION, "step": step, "files": files}, indent=1))
    sync_file(folder / MANIFEST)
    sync_folder(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["version"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or cannot be read"
    if version != VERSION:
        return f"{MANIFEST} is of version {version}, this dro_lab reads {VERSION}"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if there != set(files):
        return f"{min(there ^ set(files))} is missing, or is not in its manifest"
    for name, about in files.items():
        size = (folder / name).stat().st_size
        if size != about["bytes"]:
            return f"{name} has {size} bytes and had {about['bytes']}"
        if _digest(folder / name) != about["sha256"]:
            return f"{name} was changed"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """On the disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """The names in it too."""
    sync_file(path)


def link_folder(source: Path, target: Path) -> None:
    """The files of a folder once more, without their bytes where the file system can do that."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
