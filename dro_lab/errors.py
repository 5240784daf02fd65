"""The errors that a user is meant to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class UserError(Exception):
    """Bad input, said in one message: the key or file and row, the value got, what is allowed, what to do next.

    The command line prints the message without a traceback and exits with status 2.
    """


class NonFiniteError(UserError):
    """NaN or infinity where a number must stand.

    Args:
        message: for the user.
        source: what is not finite.
        rows: of the rollouts, prompt-major.
        tensors: to be looked at, by name.
        together: whether every process of the run raises it.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        rows: Sequence[int] = (),
        tensors: Mapping[str, Any] | None = None,
        together: bool = False,
    ) -> None:
        super().__init__(message)
        self.source, self.rows, self.tensors, self.together = source, rows, dict(tensors or {}), together
