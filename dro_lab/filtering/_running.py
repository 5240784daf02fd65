"""A threshold that follows the run: a percentile of the last groups' values, taken anew now and then.

The memory is ``{"window": [...], "threshold": number or None, "refreshed": step or None}``, plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dro_lab import checks


def empty() -> dict[str, Any]:
    """Before the first group: no threshold yet."""
    return {"window": [], "threshold": None, "refreshed": None}


def remember(
    state: Mapping[str, Any], values: Iterable[float], *, step: int, percentile: float, window: int, refresh: int
) -> dict[str, Any]:
    """The memory after a step's values (nan is left out); judge the step itself by the memory before it.

        threshold = the ``percentile`` quantile (linear interpolation) of the last ``window`` values

    It is taken first when the window is full or ``refresh`` steps are done, whichever comes first, and then every
    ``refresh`` steps.
    """
    kept = [*state["window"], *(float(value) for value in values if not math.isnan(value))][-window:]
    last, threshold = state["refreshed"], state["threshold"]
    due = (len(kept) >= window or step + 1 >= refresh) if last is None else step - last >= refresh
    if due and kept:
        threshold, last = float(np.quantile(kept, percentile)), step
    return {"window": kept, "threshold": threshold, "refreshed": last}


def check(*, window: Any, refresh: Any) -> None:
    """Check the keys.

    Raises:
        UserError: a number below 1.
    """
    checks.whole("filtering.window", window, low=1, todo="groups that the percentile looks back on; 64 is the default")
    checks.whole("filtering.refresh", refresh, low=1, todo="steps between two thresholds; 16 is the default")
