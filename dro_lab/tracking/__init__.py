"""Trackers mirror a run's record elsewhere. The record itself (`dro_lab.record`) never depends on one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from dro_lab.record import Estimate
from dro_lab.types import Task

EndStatus = Literal["finished", "stopped", "interrupted", "failed"]


class Tracker(Protocol):
    """What a run tells its tracker. No call waits for the tracker but `finish`.

    Something that went wrong behind a call is raised, once, as a `UserError` by the next one.
    """

    @property
    def ui_command(self) -> str:
        """The command that shows the runs; "" where there is none."""

    @property
    def sync_command(self) -> str:
        """After `finish`: the command that brings the tracker what it lacks of the run; "" where it lacks nothing."""

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
        """Begin a run; ``config`` is nested or flat, and becomes the run's parameters under dotted names.

        Args:
            task: named as the run's input.
            files: attached at once, so that a killed run has them too.
            folder: of the run's record, from which what a tracker missed can be brought to it later.
            after: the run of ``folder`` goes on behind this step, as the run that it was; None: it is a new one.
        """

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log the numbers of one step."""

    def evaluation(self, estimates: Sequence[Estimate], *, step: int, split: str, decoding: str = "sampled") -> None:
        """Log an evaluation: each metric with the two ends of its interval."""

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Attach files and folders as they are when the call is carried out."""

    def finish(self, status: EndStatus, *, error: str | None = None) -> None:
        """Carry out all that is still waiting and end the run; ``error`` says why it ended early.

        Without a run that was started, nothing happens.
        """
