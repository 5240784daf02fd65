"""Peak memory of scoring, in a fresh process for each value.

``python -m experiments.scoring_cost.memory ARM`` is such a process: it loads the model, makes one tiny forward,
calls the arm once and prints by how many bytes the resident memory rose at most. ARM is ``cached`` or a k.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from experiments.scoring_cost.arms import TOKENS_PER_BATCH, Arms
from experiments.scoring_cost.model import Shape, random_model

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LIMIT = 1.25


def scoring_rows(shape: Shape) -> int:
    """Rollouts in one forward of the scorer at its default size: its micro-batch."""
    return max(1, min(shape.rollouts, TOKENS_PER_BATCH // (shape.reasoning + shape.reference)))


def measure(shape: Shape, ks: Sequence[int], repeats: int) -> dict[str, list[int]]:
    """Bytes by arm and repeat; the arms take turns."""
    names = ("cached", *map(str, ks))
    found: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            found[name].append(_fresh(name, shape))
    return found


def _fresh(name: str, shape: Shape) -> int:
    command = [sys.executable, "-m", __spec__.name, name, *(f"{key}={n}" for key, n in asdict(shape).items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def rise(name: str, shape: Shape) -> int:
    """Bytes by which one call raises this process's resident memory at most."""
    torch.set_num_threads(1)
    model = random_model(shape.vocabulary, "cpu")
    arms = Arms.of(model, shape)
    call = arms.cached(scoring_rows(shape)) if name == "cached" else arms.shared(int(name))
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2]]))
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed must not be there to be taken again unseen
    CLEAR.write_text("5")  # the peak counts from here on, not from loading
    before = _status("VmHWM")
    call()
    return _status("VmHWM") - before


def main(arguments: Sequence[str]) -> None:
    name, *lengths = arguments
    sizes: Mapping[str, int] = {key: int(n) for key, n in (pair.split("=") for pair in lengths)}
    print(rise(name, Shape(**sizes)))


if __name__ == "__main__":
    main(sys.argv[1:])
