"""How many times fewer steps, tokens and seconds does R3 need to a rival's best level? Four twins and a fifth of maths.

``python -m experiments.steps_to_target.study`` builds the two policies that answer within 48 tokens, runs what is
missing, then writes ``results.md``, ``curves.png`` and ``curves.csv`` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.steps_to_target import Ratio, Target, baseline_target
from dro_lab.record.read import Run
from experiments import short_policies
from experiments.grid import (
    WINDOW,
    Found,
    Grid,
    Setting,
    cost_to,
    final,
    main,
    median,
    quality,
    ratio,
    show_cost,
    show_ratio,
)
from experiments.summaries import over, table

BASELINE, OURS = "avg_prob", "r3"
MINIMUM_GAIN = 0.1
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

Arms = Mapping[str, Mapping[int, Run]]


def target_of(arms: Arms) -> Target | None:
    """The best level of the baseline's seed-averaged curve; None while the baseline has no run."""
    runs = arms.get(BASELINE, {})
    if not runs:
        return None
    return baseline_target({seed: quality(run) for seed, run in runs.items()}, window=WINDOW, minimum_gain=MINIMUM_GAIN)


def level(arms: Arms) -> float | None:
    target = target_of(arms)
    return target.level if target else None


def page(found: Found) -> list[str]:
    """Twin by twin: the target, what it cost each reward, the verdict, and fixed levels on the way up."""
    titles = {setting.name: setting.title for setting in SETTINGS}
    lines = [
        f"A target is reached at the first evaluation whose mean of the last {WINDOW} is at least the level. A dash is "
        "a censored run: it never got there in its steps; medians count it as later than all others. Ratios are the "
        f"median cost of {BASELINE} over that of the row (above 1: the row is cheaper). Tokens are sampled completion "
        "tokens; seconds are sampling, scoring and training of one of two runs side by side on a busy machine.",
        "",
        *_summary(found, titles),
    ]
    for name, arms in found.runs.items():
        if any(arms.values()):
            lines += [f"## {titles[name]}", "", *_twin(arms)]
    return lines


def _summary(found: Found, titles: Mapping[str, str]) -> list[str]:
    rows = []
    for name, arms in found.runs.items():
        target = target_of(arms)
        if target is None or not arms[OURS]:
            continue
        ratios = [_ratio(arms, target.level, OURS, axis) for axis in AXES]
        rows.append(
            [
                titles[name],
                len(arms[OURS]),
                f"{target.level:.2f}" if target.valid else f"none ({target.level:.2f})",
                *(show_ratio(one, theirs=BASELINE) for one in ratios),
                verdict(ratios[0], ratios[1], valid=target.valid),
            ]
        )
    columns = ["twin", "seeds", "target", *(f"{BASELINE} / {OURS}: {axis}" for axis in AXES), "2 to 3 times fewer?"]
    return ["## The claim", "", *table(columns, rows)]


def verdict(steps: Ratio, tokens: Ratio, *, valid: bool) -> str:
    """What the two ratios say of the claim; intervals decide how surely."""
    if not valid:
        return f"no target: {BASELINE} gains less than {MINIMUM_GAIN}"
    return f"{_held(steps)} (steps), {_held(tokens)} (tokens)"


def _held(found: Ratio) -> str:
    if found.value != found.value:
        return "nobody gets there"
    if found.value < CLAIM[0]:
        return "no" if found.high < CLAIM[0] else "no, within the noise"
    return "yes" if found.low >= CLAIM[0] else "yes, within the noise"


def _ratio(arms: Arms, wanted: float, arm: str, axis: str) -> Ratio:
    costs = [[cost_to(run, wanted, axis) for run in arms[name].values()] for name in (BASELINE, arm)]
    return ratio(*costs)


def _twin(arms: Arms) -> list[str]:
    target = target_of(arms)
    if target is None:
        return [f"No run of {BASELINE} yet, so there is no target.", ""]
    said = (
        f"Target {target.level:.3f}: the best {WINDOW}-evaluation mean of {BASELINE}'s seed-averaged curve (start "
        f"{target.start:.3f})."
        if target.valid
        else f"**No target**: {BASELINE} gains {target.level - target.start:.3f} over its start of "
        f"{target.start:.3f}, less than {MINIMUM_GAIN}. Costs below are to its best level all the same."
    )
    rows = []
    for arm, runs in arms.items():
        if not runs:
            continue
        steps, tokens, seconds = ([cost_to(run, target.level, axis) for run in runs.values()] for axis in AXES)
        each = " ".join(map(show_cost, steps))
        ratios = (
            ["1"] * 3
            if arm == BASELINE
            else [show_ratio(_ratio(arms, target.level, arm, axis), theirs=BASELINE) for axis in AXES]
        )
        rows.append(
            [
                f"`{arm}`",
                each,
                show_cost(median(steps)),
                ratios[0],
                show_cost(median(tokens), unit=1000),
                ratios[1],
                show_cost(median(seconds)),
                ratios[2],
                over([final(run) for run in runs.values()]),
            ]
        )
    columns = ["reward", "steps, each seed", "median", "ratio", "thousand tokens", "ratio", "seconds", "ratio"]
    return [said, "", *table([*columns, "final quality"], rows), *_levels(arms)]


def _levels(arms: Arms) -> list[str]:
    """Fixed levels: the target lies where curves flatten, these lie on the way up."""
    rows = []
    for arm, runs in arms.items():
        if not runs:
            continue
        cells = []
        for wanted in LEVELS:
            steps = [cost_to(run, wanted) for run in runs.values()]
            shown = "" if arm == BASELINE else f" ({show_ratio(_ratio(arms, wanted, arm, 'steps'), theirs=BASELINE)})"
            cells.append(show_cost(median(steps)) + shown)
        rows.append([f"`{arm}`", *cells])
    return [
        "Median steps to fixed levels (in brackets the ratio; not part of the claim):",
        "",
        *table(["reward", *(f"{wanted:.1f}" for wanted in LEVELS)], rows),
    ]


STUDY = Grid(
    experiment="steps_to_target", here=Path(__file__).parent, settings=SETTINGS, quick=QUICK, page=page, level=level
)

if __name__ == "__main__":
    main(STUDY, __doc__)
