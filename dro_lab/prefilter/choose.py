"""Which measured rows train: those that vary most, and a random part of the others."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def choose(
    sigma_bars: Sequence[float], *, keep_share: float = 0.1, rest_share: float = 0.1, seed: int = 0
) -> list[str | None]:
    """``"top"``, ``"rest"`` or None for each row.

        top  = the max(1, ceil(keep_share N)) rows with the largest sigma_bar (the earlier row where two are equal)
        rest = ceil(rest_share (N - top)) of the others, drawn by the seed: hard cases that do not vary yet

    arXiv 2506.13351 gives 10% and 10%; it names no way to draw.
    """
    order = sorted(range(len(sigma_bars)), key=lambda place: (-sigma_bars[place], place))
    top = max(1, _ceil(keep_share * len(order)))
    others = sorted(order[top:])
    drawn = random.Random(seed).sample(others, _ceil(rest_share * len(others)))
    why: list[str | None] = [None] * len(order)
    for place in order[:top]:
        why[place] = "top"
    for place in drawn:
        why[place] = "rest"
    return why


def _ceil(value: float) -> int:
    return math.ceil(round(value, 9))  # 0.07 * 100 is 7.000000000000001 in floats
