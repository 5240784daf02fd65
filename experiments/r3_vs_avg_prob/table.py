"""The study's table: steps to target with censoring, ratios with intervals, and the verdict in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.steps_to_target import Ratio, Target, baseline_target, ratio_of_medians, steps_to_target
from dro_lab.record.read import load_run

WINDOW = 3
MINIMUM_GAIN = 0.1
CONFIDENCE = 0.9
CLAIM = 2.0
LEVELS = (0.5, 0.6, 0.7, 0.8)
BASELINE = "avg_prob"

Curves = Mapping[str, Mapping[str, Mapping[int, list[tuple[int, float]]]]]
"""preset -> reward -> seed -> ``[(step, held-out quality), ...]``"""


def load_curves(root: Path, seeds: Sequence[int], presets: Mapping[str, Sequence[str]]) -> Curves:
    """The held-out quality curves of every finished run; a run that is missing is an error, not a gap."""
    curves: dict[str, dict[str, dict[int, list[tuple[int, float]]]]] = {}
    for preset, rewards in presets.items():
        for reward in rewards:
            for seed in seeds:
                run = load_run(root / preset / f"{reward}_s{seed}", require_finished=True)
                quality = run.evals[run.evals["metric"] == "quality"]
                points = [
                    (int(step), float(value)) for step, value in zip(quality["step"], quality["value"], strict=True)
                ]
                curves.setdefault(preset, {}).setdefault(reward, {})[seed] = points
    return curves


def markdown(
    curves: Curves, step0: Mapping[str, Any], *, seeds: Sequence[int], seconds: float, commits: Sequence[str]
) -> str:
    """The whole results page."""
    lines = [
        "# Results",
        "",
        f"Seeds {', '.join(map(str, seeds))}; {CONFIDENCE:.0%} bootstrap intervals over seeds; the runs' commit "
        f"{', '.join(commits)}; command "
        f"`python -m experiments.r3_vs_avg_prob.study`; {seconds / 60:.0f} minutes of run time on one core each.",
        "",
        *_step0(step0),
    ]
    for preset, rewards in curves.items():
        lines += _preset(preset, rewards)
    return "\n".join(lines) + "\n"


def _step0(measured: Mapping[str, Any]) -> list[str]:
    lines = ["## Before any training", ""]
    for preset, result in measured.items():
        rewards = list(result["correlation"])
        lines += [
            f"### {preset}",
            "",
            f"{result['prompts']} prompts x {result['rollouts']} rollouts of the shipped policy; rank correlation of "
            "each reward with exact quality within a group (mean over groups in which quality varies).",
            "",
            "| " + " | ".join(["", *rewards]) + " |",
            "|---" * (len(rewards) + 1) + "|",
            "| Spearman | " + " | ".join(_interval(result["correlation"][r]) for r in rewards) + " |",
            "",
            f"Reflective tokens: R3 (omega 2) puts {result['truth']['weight_share']:.0%} of its weight on them; of its "
            f"top tokens (as many as there are reflective ones) {result['truth']['precision']:.0%} are reflective "
            f"(precision = recall at that number); its top-weighted 10% of tokens recall "
            f"{result['truth']['recall_top_tenth']:.0%} of them at a precision of "
            f"{result['truth']['precision_top_tenth']:.0%}. Mean std of reflective tokens "
            f"{result['sigma']['reflective']:.3f}, of the others {result['sigma']['other']:.3f}.",
            "",
        ]
    return lines


def _preset(preset: str, rewards: Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]) -> list[str]:
    target = baseline_target(rewards[BASELINE], window=WINDOW, minimum_gain=MINIMUM_GAIN)
    reached = {
        name: [steps_to_target(curve, target.level, window=WINDOW) for curve in curves.values()]
        for name, curves in rewards.items()
    }
    verdict = (
        f"Target {target.level:.3f}: the best {WINDOW}-evaluation mean of {BASELINE}'s seed-averaged curve "
        f"(start {target.start:.3f})."
        if target.valid
        else f"**No target**: {BASELINE} gains {target.level - target.start:.3f} over its start of {target.start:.3f}, "
        f"less than {MINIMUM_GAIN}. Steps below are to its best level all the same."
    )
    lines = [
        f"## Training: {preset}",
        "",
        verdict,
        "",
        f"| reward | steps run | steps to target, each seed | median | {BASELINE} / this | final quality, each seed "
        "| mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, curves in rewards.items():
        final = [statistics.fmean(value for _, value in sorted(curve)[-WINDOW:]) for curve in curves.values()]
        ratio = ratio_of_medians(reached[BASELINE], reached[name], confidence=CONFIDENCE, resamples=10_000, seed=0)
        shown = "1" if name == BASELINE else _ratio(ratio)
        steps = max(step for curve in curves.values() for step, _ in curve)
        times, median = " ".join(map(_steps, reached[name])), _steps(statistics.median_high(reached[name]))
        ends = " ".join(f"{value:.2f}" for value in final)
        lines.append(f"| {name} | {steps} | {times} | {median} | {shown} | {ends} | {statistics.fmean(final):.2f} |")
    return [
        *lines,
        "",
        "A dash is a censored run: it did not reach the target within its steps.",
        "",
        *_verdict(preset, target, reached),
        *_levels(rewards),
    ]


def _levels(rewards: Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]) -> list[str]:
    """Steps to fixed levels: the target above lies where curves flatten, these lie on the way up."""
    lines = [
        "Median steps to fixed levels of held-out quality, and in brackets how many times fewer than "
        f"{BASELINE} with its interval (not part of the claim):",
        "",
        "| reward | " + " | ".join(f"{level:.1f}" for level in LEVELS) + " |",
        "|---" * (len(LEVELS) + 1) + "|",
    ]
    for name in rewards:
        cells = []
        for level in LEVELS:
            mine, base = (
                [steps_to_target(curve, level, window=WINDOW) for curve in rewards[key].values()]
                for key in (name, BASELINE)
            )
            ratio = ratio_of_medians(base, mine, confidence=CONFIDENCE, resamples=10_000, seed=0)
            cells.append(_steps(statistics.median_high(mine)) + ("" if name == BASELINE else f" ({_ratio(ratio)})"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _verdict(preset: str, target: Target, reached: Mapping[str, Sequence[float]]) -> list[str]:
    ratio = ratio_of_medians(reached[BASELINE], reached["r3_w2"], confidence=CONFIDENCE, resamples=10_000, seed=0)
    if not target.valid:
        text = "no target, so no ratio is claimed"
    elif preset == "default":
        held = ratio.value >= CLAIM
        sure = "the whole interval lies above" if ratio.low >= CLAIM else "the interval does not exclude less"
        text = (
            f"the claim that R3 (omega 2) needs at most half the steps {'holds' if held else 'does not hold'}: "
            f"ratio {_ratio(ratio)}" + (f"; {sure}" if held else "")
        )
    else:
        nothing = not ratio.low > 1.0
        text = (
            f"R3 {'gains nothing that these seeds can show' if nothing else 'gains here too, against the prediction'}: "
            f"ratio {_ratio(ratio)} (1 would be no difference; one evaluation is 4 steps; see the levels below too)"
        )
    return [f"Verdict: {text}.", ""]


def _steps(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.0f}"


def _ratio(ratio: Ratio) -> str:
    def number(value: float) -> str:
        if math.isinf(value):
            return f"{BASELINE} censored"
        return "-" if math.isnan(value) else "this censored" if value == 0 else f"{value:.2f}"

    return f"{number(ratio.value)} [{number(ratio.low)}, {number(ratio.high)}]"


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
