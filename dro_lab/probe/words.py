"""Numbers of a probe as a reader sees them, in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dro_lab.probe.findings import Findings, RewardFinding
from dro_lab.probe.measures import Interval

NONE = "-"
COLUMNS = {
    "rho": "correlation of group z-scores with quality; the policy gradient is proportional to it",
    "rank corr.": "Spearman's with quality within a group",
    "formula": "rho by the closed formula (avg_prob and R3 alone)",
    "steps": "predicted steps to a target, over those of a reward that is the quality itself; read the order",
    "over floor": "spread within a group over that against other queries' references",
    "reliability": "rho over the oracle's, if all that moves a reward on the floor were noise",
    "no signal": "groups whose rewards are all alike",
    "spread": "standard deviation within a group",
    "gate rejects": "groups that the gate rejects",
    "s / 1,000": "the scorer's seconds for a thousand rollouts",
}
"""What the columns of the table of rewards mean, in a line each."""


def two(value: float | None) -> str:
    """Two decimals; ``-`` where unknown, ``never`` for steps that never end."""
    if value is None or math.isnan(value):
        return NONE
    return "never" if math.isinf(value) else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in whole percents."""
    return NONE if value is None or math.isnan(value) else f"{value:.0%}"


def seconds(value: float | None) -> str:
    """Seconds, with a decimal below ten."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.1f} s" if value < 10 else f"{value:,.0f} s"


def significant(value: float | None) -> str:
    """Three significant digits."""
    return NONE if value is None or math.isnan(value) else f"{value:.3g}"


def interval(found: Interval | None) -> str:
    """``0.92 [0.90, 0.94]``."""
    if found is None or math.isnan(found.value):
        return NONE
    if math.isnan(found.low):
        return two(found.value)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def reward_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of rewards; columns that say nothing here are left out."""
    columns = {
        "reward": lambda reward: reward.title + (" (the label)" if reward.is_label else ""),
        "rho": lambda reward: interval(reward.rho),
        "rank corr.": lambda reward: interval(reward.rank),
        "formula": lambda reward: two(reward.rho_formula),
        "steps": lambda reward: two(reward.steps),
        "over floor": lambda reward: interval(reward.over_floor),
        "reliability": lambda reward: two(reward.reliability),
        "no signal": lambda reward: percent(reward.zero_signal),
        "spread": lambda reward: significant(reward.spread),
        "gate rejects": lambda reward: percent(reward.gate_rejected),
        "s / 1,000": lambda reward: significant(reward.scoring_seconds),
    }
    done = [reward for reward in findings.rewards if reward.computed]
    shown = {
        name: value
        for name, value in columns.items()
        if name == "reward" or any(value(reward) != NONE for reward in done)
    }
    return list(shown), [[value(reward) for value in shown.values()] for reward in done]


def legend(columns: Sequence[str], *, confidence: float) -> list[str]:
    """What the shown columns mean, a line each."""
    width = max(map(len, COLUMNS))
    lines = [f"{name:<{width}}  {COLUMNS[name]}" for name in columns if name in COLUMNS]
    return [*lines, f"{'[low, high]':<{width}}  {confidence:.0%} bootstrap interval over queries"]


def omega_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of omegas."""
    rows = [
        [
            f"{found.omega:g}",
            interval(found.rho),
            two(found.rho_formula),
            two(found.steps),
            two(found.steps_formula),
            f"{found.effective_tokens:.1f}",
            two(found.over_floor),
        ]
        for found in findings.omegas
    ]
    names = ["omega", "rho", "formula", "steps", "steps by formula", "weighted tokens", "over floor"]
    kept = [place for place in range(len(names)) if place == 0 or any(row[place] != NONE for row in rows)]
    return [names[place] for place in kept], [[row[place] for place in kept] for row in rows]


def token_lines(findings: Findings) -> list[tuple[str, str]]:
    """What is known of the reference's tokens, in words and numbers."""
    tokens = findings.tokens
    lines = [
        (
            "reflective tokens",
            f"{tokens.reflective:.1f} of {tokens.tokens:.1f} ({percent(tokens.share)}); {tokens.source}",
        ),
        ("sigma of a reflective token", f"{tokens.sigma_r:.3f}"),
        ("sigma of another token", f"{tokens.sigma_n:.4f}"),
        ("s, what the clip leaves of their ratio", f"{tokens.shrink:.2f}"),
        ("S_R, spread of the reflective sum", f"{tokens.s_r:.2f}"),
        ("S_N, spread of the rest's sum", f"{tokens.s_n:.2f}"),
        ("coherence of the rest", f"{tokens.coherence:.1f} times what independent tokens would give"),
        ("how reflective tokens move together", f"mean correlation {two(tokens.together)}"),
    ]
    if tokens.threshold_precision is not None:
        found = f"precision {two(tokens.threshold_precision)}, recall {two(tokens.threshold_recall)}"
        lines.append(("a threshold on sigma would find them with", found))
    return lines


def cost_lines(findings: Findings) -> list[tuple[str, str]]:
    """Cost of a thousand rollouts."""
    cost = findings.cost
    return [
        ("sampling", seconds(cost.sampling_seconds)),
        ("scoring all of this at once", seconds(cost.scoring_seconds)),
        ("metric, judge and rubrics", seconds(cost.judging_seconds)),
        ("completion tokens", f"{cost.completion_tokens:,.0f}"),
        ("reasoning tokens of a rollout", f"{cost.reasoning_tokens:.1f}"),
        ("truncated, malformed", f"{percent(cost.truncated)}, {percent(cost.malformed)}"),
    ]


def left_out(findings: Findings) -> Sequence[RewardFinding]:
    """The rewards that could not be computed."""
    return [reward for reward in findings.rewards if not reward.computed]
