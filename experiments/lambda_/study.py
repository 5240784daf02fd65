"""R3's clip band: nine bands of clip_low x clip_high on the ParaRev twin.

``python -m experiments.lambda_.study`` builds the policy, runs what is missing, then writes ``results.md``,
``curves.png`` and ``curves.csv`` beside this file.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from experiments.options import answer_help

    answer_help(__doc__)

from pathlib import Path

from experiments import short_policies
from experiments.grid import Found, Grid, Setting, main
from experiments.knob_table import against
from experiments.runs import reported
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
    arms = found.arms("pararev")
    rows = []
    for high in HIGHS:
        of_row = [arms.get(f"{low:g} to {high:g}") for low in LOWS]
        rows.append([f"up to {high:g}", *(over(arm.final_S.tolist()) if arm else "" for arm in of_row)])
    return [
        "Final quality by clip band (the mean of the last 3 evaluations):",
        "",
        *table(["", *(f"from {low:g}" for low in LOWS)], rows),
        "Medians over seeds of what it took to a level; in brackets what the default band, "
        f"{BASE}, took over that (above 1: this is cheaper; `> R`: the default never got there; `never`: this one "
        "never did).",
        "",
        *against(arms, base=BASE, levels=LEVELS),
    ]


STUDY = Grid(
    experiment="lambda", here=Path(__file__).parent, settings=SETTINGS, quick=QUICK, page=page, seeds=(0, 1, 2)
)

if __name__ == "__main__":
    reported(lambda: main(STUDY, __doc__))
