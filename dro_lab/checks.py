"""Checks of configuration values, in one wording: the key, the value got, what is allowed, what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dro_lab.errors import UserError


def number(key: str, value: Any, *, low: float, high: float = math.inf, todo: str) -> None:
    """Check that ``value`` is a finite number in ``[low, high]``.

    Raises:
        UserError: if it is not.
    """
    ok = (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )
    if not ok:
        allowed = f"a number in [{low:g}, {high:g}]" if math.isfinite(high) else f"a number of at least {low:g}"
        raise UserError(f"{key}={value}: must be {allowed}; {todo}")


def share(key: str, value: Any, *, todo: str) -> None:
    """Check that ``value`` is a number above 0 and at most 1.

    Raises:
        UserError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError(f"{key}={value}: must be a share above 0 and at most 1; {todo}")


def whole(key: str, value: Any, *, low: int, high: int | None = None, todo: str) -> None:
    """Check that ``value`` is a whole number in ``[low, high]`` (None: no upper limit).

    Raises:
        UserError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise UserError(f"{key}={value}: must be a whole number {allowed}; {todo}")


def choice(key: str, value: Any, allowed: Sequence[str], *, todo: str) -> None:
    """Check that ``value`` is one of ``allowed``.

    Raises:
        UserError: if it is not.
    """
    if value not in allowed:
        raise UserError(f"{key}={value}: must be one of {', '.join(allowed)}; {todo}")


def flag(key: str, value: Any, *, todo: str) -> None:
    """Check that ``value`` is true or false.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(value, bool):
        raise UserError(f"{key}={value}: must be true or false; {todo}")
