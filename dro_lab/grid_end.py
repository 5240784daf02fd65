"""What a plain grid says when all its jobs are done: where they lie, and how to compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SayWhatNext(Callback):
    """Hydra calls it at the end of a ``--multirun``; a search has its own last words."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not str(config.hydra.sweeper._target_).startswith("hydra._internal."):
            return
        folder = Path(config.hydra.sweep.dir)
        runs = list(folder.glob("*/summary.json"))
        if len(runs) > 1:
            print(f"grid     {len(runs)} runs in {folder}\ncompare  python -m dro_lab.report {folder}")
