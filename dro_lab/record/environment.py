"""``env.json``: what a run ran on, so that it can be repeated and its numbers placed."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dro_lab.launch.world import world

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "vllm", "tokenizers", "safetensors", "datasets"),
    *("hydra-core", "omegaconf", "mlflow", "numpy", "dro-lab"),
)
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"),
    *("NVIDIA_TF32_OVERRIDE", "VLLM_ATTENTION_BACKEND", "HF_HUB_OFFLINE", "WORLD_SIZE"),
)
"""Variables of the environment that decide numbers; none holds a secret."""


def versions() -> dict[str, str | None]:
    """Versions of python and of the packages that decide numbers, from their metadata (nothing is imported)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def devices() -> dict[str, Any]:
    """The accelerators that torch sees and what it was built for; torch is asked only where it is loaded."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {"accelerators": [], "cuda": None, "cudnn": None, "deterministic": _deterministic(torch)}
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "accelerators": names,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "deterministic": _deterministic(torch),
    }


def _deterministic(torch: Any) -> bool | None:
    """Whether torch refuses algorithms whose result varies; None where it is not loaded."""
    return None if torch is None else bool(torch.are_deterministic_algorithms_enabled())


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
    """The command as one would type it again; a ``__main__`` of a package is shown as ``python -m``.

    A process of several was started by `dro_lab.launch`, with the arguments that this process has.
    """
    if arguments is not None:
        return shlex.join(arguments)
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = None if spec is None else spec.name.removesuffix(".__main__")
    if name is not None and name.startswith("joblib."):  # a worker: its arguments are those of the process that asked
        name = _module(Path(sys.argv[0]))
    if name == "dro_lab.run" and world().size > 1:
        name = "dro_lab.launch"
    if name is not None and name.startswith(
        "submitit."
    ):  # its own arguments are a pickle: the job's overrides repeat it
        from hydra.core.hydra_config import HydraConfig

        return shlex.join(["python", "-m", "dro_lab.run", *HydraConfig.get().overrides.task])
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
        "devices": devices(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "command": command_line(command),
    }
