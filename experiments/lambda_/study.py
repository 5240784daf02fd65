"""R3's clip band: nine bands of clip_low x clip_high on the ParaRev twin.

``python -m experiments.lambda_.study`` builds the policy, runs what is missing, then writes ``results.md``,
``curves.png`` and ``curves.csv`` beside this file.
"""

from __future__ import annotations

from pathlib import Path

from experiments import short_policies
from experiments.grid import Found, Grid, Setting, final, main
from experiments.knob_table import against
from experiments.summaries import over, table

LOWS, HIGHS = (0.0, 0.05, 0.2), (0.7, 0.85, 1.0)
BASE = "0.05 to 0.85"
LEVELS = (0.6, 0.7)
ARMS = {
    f"{low:g} to {high:g}": [f"reward.clip_low={low:g}", f"reward.clip_high={high:g}"] for high in HIGHS for low in LOWS
}
SETTINGS = (Setting(name="pararev", title="ParaRev twin", bed=short_policies.PARAREV, arms=ARMS),)
QUICK = (
    Setting(
        name="pararev",
        title="ParaRev twin",
        bed=short_policies.PARAREV,
        arms={arm: ARMS[arm] for arm in ("0 to 1", BASE)},
    ),
)


def page(found: Found) -> list[str]:
    """The grid of final quality, then each band against the default one."""
    arms = found.runs["pararev"]
    rows = []
    for high in HIGHS:
        of_row = [arms.get(f"{low:g} to {high:g}", {}) for low in LOWS]
        rows.append(
            [f"up to {high:g}", *(over([final(run) for run in runs.values()]) if runs else "" for runs in of_row)]
        )
    return [
        "Final quality by clip band (the mean of the last 3 evaluations):",
        "",
        *table(["", *(f"from {low:g}" for low in LOWS)], rows),
        "A level is reached at the first evaluation whose mean of the last 3 is at least it; in brackets the cost of "
        f"the default band, {BASE}, over this one (above 1: this is cheaper); a dash is never.",
        "",
        *against(arms, base=BASE, levels=LEVELS, extra={}),
    ]


STUDY = Grid(
    experiment="lambda", here=Path(__file__).parent, settings=SETTINGS, quick=QUICK, page=page, seeds=(0, 1, 2)
)

if __name__ == "__main__":
    main(STUDY, __doc__)
