"""A table that the studies of one reward's knobs share: each value against the default one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dro_lab.record.read import Run
from experiments.grid import cost_to, final, median, ratio, show_cost, show_ratio
from experiments.summaries import difference, over, table


def against(
    arms: Mapping[str, Mapping[int, Run]], *, base: str, levels: Sequence[float], extra: Mapping[str, Sequence[object]]
) -> list[str]:
    """Final quality, its difference from ``base`` seed by seed, and steps and tokens to ``levels`` with ratios.

    ``extra``: further columns by title, a value an arm.
    """
    rows = []
    for number, (arm, runs) in enumerate(arms.items()):
        if not runs:
            continue
        shared = sorted(set(runs) & set(arms[base]))
        ends = over([final(run) for run in runs.values()])
        apart = difference([final(runs[seed]) for seed in shared], [final(arms[base][seed]) for seed in shared])
        cells: list[object] = []
        for level in levels:
            for axis, unit in (("steps", 1.0), ("tokens", 1000.0)):
                mine, theirs = ([cost_to(run, level, axis) for run in arms[name].values()] for name in (arm, base))
                shown = show_cost(median(mine), unit=unit)
                compare = arm != base and theirs
                cells.append(f"{shown} ({show_ratio(ratio(theirs, mine), theirs=base)})" if compare else shown)
        others = [values[number] for values in extra.values()]
        rows.append([arm, len(runs), ends, "" if arm == base or not shared else apart, *cells, *others])
    costs = [f"{axis} to {level}" for level in levels for axis in ("steps", "thousand tokens")]
    return table(["", "seeds", "final quality", f"against {base}", *costs, *extra], rows)
