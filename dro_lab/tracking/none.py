"""``tracking=none``: a tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dro_lab.record import Estimate
from dro_lab.tracking import EndStatus
from dro_lab.types import Task


class NoTracker:
    """Takes every call of `dro_lab.tracking.Tracker` and keeps nothing."""

    ui_command = sync_command = ""

    def start(
        self,
        run_name: str,
        *,
        experiment: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        task: Task,
        files: Sequence[Path] = (),
        folder: Path | None = None,
        after: int | None = None,
    ) -> None:
        """Nothing to begin."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Nothing to log."""

    def evaluation(self, estimates: Sequence[Estimate], *, step: int, split: str, decoding: str = "sampled") -> None:
        """Nothing to log."""

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Nothing to attach."""

    def finish(self, status: EndStatus, *, error: str | None = None) -> None:
        """Nothing to end."""
