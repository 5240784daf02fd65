"""What is said, and written down, of something that is not finite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

DUMP = "nonfinite.safetensors"
NAN_REWARDS = "nan-rewards.safetensors"
"""Beside it: nan is what a reward gives where it cannot score, so this is no error yet."""
SHOWN = 4
LOWER = (
    "No weight was changed by it. Lower algorithm.learning_rate, look at these rows, or leave such updates out with "
    "on_nonfinite=skip"
)
LEFT_OUT = "the update is left out"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rank has to say.

    Args:
        text: step, place, rows and dump.
        todo: added where it ends the run.
        done: added where the run goes on.
        ends: whether the run ends.
        hopeless: whether nothing of this rank's step is left; the run ends where that is so on all ranks.
        dump: where it is dumped; "" where it is not the rank's first.
    """

    text: str
    todo: str = LOWER
    done: str = LEFT_OUT
    ends: bool = False
    hopeless: bool = False
    dump: str = ""


def dump(
    path: Path, source: str, step: int, rows: Sequence[int], names: Sequence[str], tensors: Mapping[str, Tensor]
) -> str:
    """Write a dump; why it could not be written, or ""."""
    about = {"source": source, "step": step, "rows": list(rows), "prompts": list(names)}
    try:
        # copies: safetensors refuses tensors that share memory
        kept = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        save_file(kept, str(path), metadata={"found": json.dumps(about)})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # what was found counts, not its dump
        return f"{type(error).__name__}: {error}"
    return ""


def of_rank(file: str, rank: int) -> str:
    """The file's name for a rank: the first one's is the plain one."""
    stem, _, ending = file.rpartition(".")
    return f"{stem}-rank{rank}.{ending}" if rank else file


def bad_rows(values: Tensor, *, axes: int = 1) -> list[int]:
    """The rows that hold something not finite; the first ``axes`` axes, flattened, are the rows."""
    return marked((~torch.isfinite(values)).reshape(*values.shape[:axes], -1).any(-1))


def marked(rows: Tensor) -> list[int]:
    """The numbers of the rows that are True; all axes, flattened, are the rows."""
    found: list[int] = rows.flatten().nonzero().flatten().tolist()
    return found


def listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
