"""How many times fewer steps, tokens and seconds does R3 need to the level that a rival ends at? Five twins.

``python -m experiments.steps_to_target.study`` builds the two policies that answer within 48 tokens, runs what is
missing, then writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is slow to import
    from experiments.options import answer_help

    answer_help(__doc__)

from collections.abc import Mapping
from pathlib import Path

from analysis.crossings import Aim, Arm, Verdict
from experiments import short_policies
from experiments.grid import (
    WINDOW,
    Found,
    Grid,
    Setting,
    compare,
    main,
    middle,
    number,
    reached,
    show_cost,
    show_ratio,
)
from experiments.runs import reported
from experiments.summaries import LOADED, over, table

BASELINE, OURS = "avg_prob", "r3"
MINIMUM_GAIN = 0.1
MOST = 0.9
CLAIM = (2.0, 3.0)
"""The paper's: 2 to 3 times fewer steps."""
AXES = ("steps", "tokens", "seconds")
"""Sampled rollouts are 32 times the steps in all of these runs (nothing is refilled), so they are no axis of their
own."""
LEVELS = (0.5, 0.6, 0.7, 0.8)
THREE = {"r3": ["reward=r3"], "avg_prob": ["reward=avg_prob"], "avg_logprob": ["reward=avg_logprob"]}
ALL = {**THREE, "rouge": ["reward=rouge"], "verifier": ["reward=verifier"]}
SETTINGS = (
    Setting(name="pararev", title="ParaRev twin", bed=short_policies.PARAREV, arms=ALL),
    Setting(name="rar_medicine", title="RaR-Medicine twin", bed=short_policies.RAR_MEDICINE, arms=THREE),
    Setting(name="contract_nli", title="ContractNLI twin", bed=short_policies.CONTRACT_NLI, arms=THREE),
    Setting(name="finqa", title="FinQA twin", bed=short_policies.FINQA, arms=THREE),
    Setting(name="gsm8k", title="maths twin", bed=short_policies.MATHS, arms=THREE),
)
QUICK = (Setting(name="pararev", title="ParaRev twin", bed=short_policies.PARAREV, arms=dict(list(ALL.items())[:2])),)

UNITS = {"steps": ("steps", 1.0), "tokens": ("thousand tokens", 1000.0), "seconds": ("seconds", 1.0)}


def aim_of(arms: Mapping[str, Arm]) -> Aim | None:
    """The final level of the baseline, the mean over its seeds; None while it has no run."""
    return Aim(kind="final", baseline=arms[BASELINE]) if BASELINE in arms else None


def most_of(aim: Aim) -> Aim:
    """The level at `MOST` of the baseline's gain. Half of its own seeds end below their mean, and where curves flatten
    luck decides who meets that; this lies on the way up."""
    return number(aim.level - (1 - MOST) * gain(aim))


def gain(aim: Aim) -> float:
    """By how much the target lies above the baseline's start."""
    assert aim.baseline is not None
    return aim.level - float(aim.baseline.start_S.mean())


def page(found: Found) -> list[str]:
    """The claim twin by twin, then each twin: the target, what it cost each reward, and levels on the way up."""
    lines = [
        f"Curves are smoothed by means over {WINDOW} evaluations; a run reaches a level where the line between two "
        "of these meets it. A dash is a censored run: it never got there in its steps; medians count it as later "
        f"than all others. Ratios are the median cost of {BASELINE} over that of the row (above 1: the row is cheaper; "
        f"`> R`: {BASELINE}'s median run never got there; `never`: the row's did not); {BASELINE}'s end moves "
        "with its seeds in the resamples. Tokens are sampled completion tokens; seconds are sampling, scoring and "
        "training of one of two runs side by side on a busy machine.",
        "",
        *([LOADED, ""] if any(_loaded(found.arms(setting.name)) for setting in SETTINGS) else []),
        *_summary(found),
    ]
    for setting in SETTINGS:
        if arms := found.arms(setting.name):
            lines += [f"## {setting.title}", "", *_twin(arms)]
    return lines


def _summary(found: Found) -> list[str]:
    rows = []
    for setting in SETTINGS:
        arms = found.arms(setting.name)
        aim = aim_of(arms)
        if aim is None or OURS not in arms:
            continue
        valid = gain(aim) >= MINIMUM_GAIN
        for called, chosen in ((f"{BASELINE}'s end", aim), (f"{MOST:g} of its gain", most_of(aim))):
            ratios = {axis: compare(arms[BASELINE], arms[OURS], chosen, axis) for axis in _axes(arms)}
            rows.append(
                [
                    setting.title,
                    len(arms[OURS].seeds),
                    f"{chosen.level:.2f}, {called}" if valid else f"none ({chosen.level:.2f})",
                    *(show_ratio(ratios[axis]) if axis in ratios else "left out" * _loaded(arms) for axis in AXES),
                    verdict_of(ratios, valid=valid),
                ]
            )
    columns = ["twin", "seeds", "target", *(f"{BASELINE} / {OURS}: {axis}" for axis in AXES), "2 to 3 times fewer?"]
    return ["## The claim", "", *table(columns, rows)]


def _axes(arms: Mapping[str, Arm]) -> list[str]:
    """The axes that every arm has; without seconds where these tell the machine's load."""
    shown = [axis for axis in AXES if axis != "seconds" or not _loaded(arms)]
    return [axis for axis in shown if all(axis in arm.x_SE for arm in arms.values())]


def _loaded(arms: Mapping[str, Arm]) -> bool:
    return any(arm.loaded for arm in arms.values())


def verdict_of(ratios: Mapping[str, Verdict], *, valid: bool) -> str:
    """What steps and tokens say of the claim; intervals decide how surely."""
    if not valid:
        return f"no target: {BASELINE} gains less than {MINIMUM_GAIN}"
    return ", ".join(f"{_held(ratios[axis])} ({axis})" for axis in ("steps", "tokens") if axis in ratios)


def _held(found: Verdict) -> str:
    """Of a ratio beyond the runs only its lower bound is known."""
    value, low = (
        min(a, b) for a, b in ((found.ratio.value, found.at_least.value), (found.ratio.low, found.at_least.low))
    )
    if found.ratio.value != found.ratio.value:
        return "nobody gets there"
    if value < CLAIM[0]:
        return "no" if found.ratio.high < CLAIM[0] else "no, but the interval reaches 2"
    return "yes" if low >= CLAIM[0] else "yes, but the interval reaches below 2"


def _twin(arms: Mapping[str, Arm]) -> list[str]:
    aim = aim_of(arms)
    if aim is None:
        return [f"No run of {BASELINE} yet, so there is no target.", ""]
    level, rise = f"{aim.level:.3f}", f"{gain(aim):.3f}"
    said = (
        f"Target {level}: the final level of {BASELINE}, the mean over its seeds ({rise} above its start)."
        if gain(aim) >= MINIMUM_GAIN
        else f"**No target**: {BASELINE} ends {rise} above its start, less than {MINIMUM_GAIN}. Costs below are to its "
        f"final level, {level}, all the same."
    )
    rows = []
    for name, arm in arms.items():
        cells: list[object] = [f"`{name}`", " ".join(map(show_cost, reached(arm, aim, "steps")))]
        for axis in _axes(arms):
            cells.append(show_cost(middle(reached(arm, aim, axis)), unit=UNITS[axis][1]))
            cells.append("1" if name == BASELINE else show_ratio(compare(arms[BASELINE], arm, aim, axis)))
        rows.append([*cells, over(arm.final_S.tolist())])
    columns = [column for axis in _axes(arms) for column in (f"{UNITS[axis][0]}, median", "ratio")]
    return [
        said,
        "",
        *table(["reward", "steps, each seed", *columns, "final quality"], rows),
        "Median steps to fixed levels (in brackets the ratio; not part of the claim):",
        "",
        *table(["reward", *map(str, LEVELS)], [[f"`{name}`", *_levels(arms, name)] for name in arms]),
    ]


def _levels(arms: Mapping[str, Arm], name: str) -> list[str]:
    """Fixed levels: the target may lie where curves flatten, these lie on the way up."""
    cells = []
    for level in LEVELS:
        shown = show_cost(middle(reached(arms[name], number(level), "steps")))
        if name != BASELINE:
            shown += f" ({show_ratio(compare(arms[BASELINE], arms[name], number(level), 'steps'))})"
        cells.append(shown)
    return cells


STUDY = Grid(
    experiment="steps_to_target", here=Path(__file__).parent, settings=SETTINGS, quick=QUICK, page=page, aim=aim_of
)

if __name__ == "__main__":
    reported(lambda: main(STUDY, __doc__))
