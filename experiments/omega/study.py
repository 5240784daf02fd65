"""R3's sharpness omega from 0 to 8: on one correlated chain, on independent sub-answers, and with distractors.

``python -m experiments.omega.study`` builds the three policies, measures before any training which rollouts each omega
prefers, runs what is missing, then writes ``results.md``, ``curves.png``, ``curves.csv`` and ``step0.json`` beside this
file.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from experiments.options import answer_help

    answer_help(__doc__)

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import short_policies
from experiments.grid import Found, Grid, Place, Setting, main
from experiments.knob_table import against
from experiments.omega import step0
from experiments.runs import reported
from experiments.summaries import table

OMEGAS = (0, 1, 2, 4, 8)
BASE = "omega 2"
LEVELS = (0.6, 0.7)
ARMS = {f"omega {omega}": [f"reward.omega={omega}"] for omega in OMEGAS}
SETTINGS = (
    Setting(name="chain", title="one correlated chain", bed=short_policies.PARAREV, arms=ARMS),
    Setting(name="independent", title="independent sub-answers", bed=short_policies.INDEPENDENT, arms=ARMS),
    Setting(name="distractors", title="one chain, two distractors", bed=short_policies.DISTRACTORS, arms=ARMS),
)
QUICK = (
    Setting(
        name="chain",
        title="one correlated chain",
        bed=short_policies.PARAREV,
        arms={arm: ARMS[arm] for arm in ("omega 0", BASE)},
    ),
)


def measure(place: Place) -> None:
    """What can be known before training, once for each setting."""
    for setting in place.settings:
        step0.load_or_measure(place.page / "step0.json", setting.name, setting.bed.overrides(place.policies))


def page(found: Found) -> list[str]:
    """Setting by setting: before training, then training."""
    measured = step0.load(found.place.page / "step0.json")
    lines = [
        "Before training: rank correlation (Spearman) of the reward with exact quality within a group, mean over "
        "groups in which quality varies; where the weight lies. Training: medians over seeds of what it took to a "
        f"level; in brackets what {BASE} took over that (above 1: this is cheaper; `> R`: {BASE} never got there; "
        "`never`: this one never did).",
        "",
    ]
    for setting in SETTINGS:
        arms, before = found.arms(setting.name), measured.get(setting.name)
        if not arms:
            continue
        lines += [f"## {setting.title}", ""]
        lines += before_training(before) if before else []
        lines += against(arms, base=BASE, levels=LEVELS)
    return lines


def before_training(measured: Mapping[str, Any]) -> list[str]:
    """The step-0 table: a row an omega."""
    rows = []
    for omega, figures in measured["omegas"].items():
        rank = figures["correlation"]
        rows.append(
            [
                f"omega {omega}",
                f"{rank['value']:.2f} [{rank['low']:.2f}, {rank['high']:.2f}]",
                f"{figures['weight_on_facts']:.0%}",
                f"{figures['weight_on_distractors']:.0%}",
                f"{figures['effective_tokens']:.1f}",
            ]
        )
    sigma = measured["sigma"]
    said = ", ".join(f"{kind} {value:.2f}" for kind, value in sigma.items() if value is not None)
    columns = ["before training", "rank correlation", "weight on facts", "on distractors", "effective tokens"]
    return [
        f"{measured['prompts']} prompts x {measured['rollouts']} rollouts; mean sigma of a reference token: {said}.",
        "",
        *table(columns, rows),
    ]


STUDY = Grid(
    experiment="omega",
    here=Path(__file__).parent,
    settings=SETTINGS,
    quick=QUICK,
    page=page,
    seeds=(0, 1, 2),
    before=measure,
)

if __name__ == "__main__":
    reported(lambda: main(STUDY, __doc__))
