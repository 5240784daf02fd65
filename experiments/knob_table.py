"""A table that the studies of one reward's knobs share: each value against the default one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.crossings import Arm
from experiments.grid import compare, middle, number, reached, show_cost, show_ratio
from experiments.summaries import difference, over, table

UNITS = {"steps": ("steps", 1.0), "tokens": ("thousand tokens", 1000.0)}
"""Axes of a verdict, how they are called and what they are counted in."""


def against(arms: Mapping[str, Arm], *, base: str, levels: Sequence[float]) -> list[str]:
    """Final quality, its difference from ``base`` seed by seed, and what ``levels`` took, with ratios."""
    rows = []
    for name, arm in arms.items():
        cells: list[object] = [name, len(arm.seeds), over(arm.final_S.tolist()), _apart(arm, arms.get(base))]
        for level in levels:
            for axis, (_, unit) in UNITS.items():
                if axis not in arm.x_SE:
                    cells.append("")
                    continue
                shown = show_cost(middle(reached(arm, number(level), axis)), unit=unit)
                if name != base and base in arms:
                    shown += f" ({show_ratio(compare(arms[base], arm, number(level), axis))})"
                cells.append(shown)
        rows.append(cells)
    costs = [f"{words} to {level}" for level in levels for words, _ in UNITS.values()]
    return table(["", "seeds", "final quality", f"against {base}", *costs], rows)


def _apart(arm: Arm, base: Arm | None) -> object:
    """The difference of the final qualities over the seeds that both have."""
    if base is None or base is arm:
        return ""
    ours, theirs = (dict(zip(one.seeds, one.final_S.tolist(), strict=True)) for one in (arm, base))
    shared = sorted(set(ours) & set(theirs))
    return difference([ours[seed] for seed in shared], [theirs[seed] for seed in shared]) if shared else ""
