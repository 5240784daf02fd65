"""Which policy a run saves: the last, or the one with the highest objective at an evaluation on held-out rows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.evaluation.evaluate import Evaluation

Save = Callable[[Path], None]
"""Writes the policy as it is, and its tokenizer, into a folder."""


@dataclass
class PolicyKeeper:
    """Saves the policy into ``folder`` whenever it should be kept.

    Args:
        keep: ``last`` or ``best``.
        objective: the metric by which it is best: the higher the better; of equals the earlier one stays.
        folder: always holds one whole policy, or is not there.
    """

    keep: str
    objective: str
    folder: Path
    save: Save
    best: tuple[int, float] | None = None  # step and objective of what is kept under `best`

    def evaluated(self, evaluation: Evaluation) -> None:
        """Keep the policy if it is the best so far."""
        if self.keep != "best" or self.objective not in evaluation.estimates:
            return
        value = evaluation.estimates[self.objective].value
        if math.isnan(value) or (self.best is not None and value <= self.best[1]):
            return
        self.best = (evaluation.step, value)
        self._write()

    def trained(self) -> None:
        """Keep the policy as training left it, unless a better one is kept."""
        if self.best is None:
            self._write()

    @property
    def note(self) -> str | None:
        """What a reader of the record must know of the policy beside it."""
        if self.best is None:
            return None
        step, value = self.best
        return (
            f"policy/ is that of step {step}, where {self.objective} was highest ({value:.3f}); the figures after "
            "training are the last policy's"
        )

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on; the policy itself is carried beside it."""
        return {"best": self.best}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.best = None if carried["best"] is None else (carried["best"][0], carried["best"][1])

    def _write(self) -> None:
        aside = self.folder.with_name(f".{self.folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        self.save(aside)
        shutil.rmtree(self.folder, ignore_errors=True)
        aside.rename(self.folder)
