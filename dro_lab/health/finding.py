"""The types of monitors, and the few operations on streams that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fault that is there now: the number that shows it, and a sentence that says what it means and what to try."""

    value: float
    message: str


State = Mapping[str, Any]
Metrics = Mapping[str, float | None]
Judged = tuple[Finding | None, State]
Monitor = Callable[..., Judged]


def number(metrics: Metrics, key: str) -> float:
    """The metric, nan where it is not there."""
    found = metrics.get(key)
    return math.nan if found is None else float(found)


def recent(state: State, key: str, value: float, *, length: int) -> list[float]:
    """The last ``length`` values under ``key``, this one included."""
    return [*state.get(key, []), value][-length:]


def in_a_row(state: State, key: str, holds: bool) -> int:
    """For how many steps in a row it holds, this one included."""
    return int(state.get(key, 0)) + 1 if holds else 0


def mean(values: list[float]) -> float:
    """Their mean; nan of none."""
    return sum(values) / len(values) if values else math.nan


def over(metrics: Metrics, key: str, limit: float) -> float | None:
    """The metric where it lies above ``limit``, else None."""
    value = number(metrics, key)
    return value if value > limit else None


def nothing_kept(metrics: Metrics) -> bool:
    """Whether gate, filter and masks took every rollout of the step out: what TRL means over the kept is then 0."""
    return number(metrics, "rollouts/kept_share") == 0
