"""What several judges share."""

from __future__ import annotations

from collections.abc import Iterable

from dro_lab.errors import UserError
from dro_lab.types import Need, Stat, Task


def refuse_unverifiable(task: Task, needs: Iterable[Need], *, judge: str) -> None:
    """Raises `UserError` where something needs answers verified and the data set has nothing to verify them by."""
    if Stat.VERIFIER in {need.stat for need in needs} and task.metric is None and not task.rubric_score:
        raise UserError(
            f"judge={judge} with dataset {task.name}: the data set has no metric, so its answers cannot be verified; "
            "choose a data set with one, or a reward that needs no verifier (reward=r3)"
        )


def say(text: str) -> None:
    """One warning to the user, beside what a command prints on its standard output."""
    from rich.console import Console

    from dro_lab.console import RunConsole

    RunConsole(Console(stderr=True, highlight=False, soft_wrap=True)).warn(text)
