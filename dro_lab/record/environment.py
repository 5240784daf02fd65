"""``env.json``: what a run ran on, so that it can be repeated and its numbers placed."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "datasets", "hydra-core", "mlflow", "numpy", "dro-lab")


def versions() -> dict[str, str | None]:
    """Versions of python and of the packages that decide numbers, from their metadata (nothing is imported)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit and dirty flag of the repository that ``folder`` lies in (default: this code); None outside of one."""
    folder = folder or Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # a code folder that an enclosing repository ignores (a venv inside a checkout) is not that repository's code
    if git("ls-files", "--error-unmatch", ".") is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command as one would type it again; a ``__main__`` of a package is shown as ``python -m``."""
    if arguments is not None:
        return shlex.join(arguments)
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = None if spec is None else spec.name.removesuffix(".__main__")
    if name is not None and name.startswith("joblib."):  # a worker: its arguments are those of the process that asked
        name = _module(Path(sys.argv[0]))
    head = ["python", "-m", name] if name is not None else ["python", sys.argv[0]]
    return shlex.join([*head, *sys.argv[1:]])


def _module(file: Path) -> str | None:
    """The name by which ``python -m`` runs a file of this code; None for any other file."""
    root = Path(__file__).resolve().parents[2]
    if not file.resolve().is_relative_to(root):
        return None
    return ".".join(file.resolve().relative_to(root).with_suffix("").parts).removesuffix(".__main__")


def environment(*, seeds: Mapping[str, int], threads: int, command: Sequence[str] | None = None) -> dict[str, Any]:
    """The content of ``env.json`` but for the wall times, which `dro_lab.record.RunRecord` adds.

    Args:
        seeds: every seed of the run by name; 0 is a seed.
        threads: threads a process computes with (torch's).
        command: the arguments of the command, default: those of this process.
    """
    return {
        "versions": versions(),
        "git": git_state(),
        "seeds": dict(seeds),
        "threads": threads,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "command": command_line(command),
    }
