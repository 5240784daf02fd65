"""What the findings come to, in plain language with their evidence. Pure: findings in, sentences out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dro_lab.probe.findings import Findings, RewardFinding
from dro_lab.probe.measures import Interval
from dro_lab.probe.words import interval, percent, two

AS_GOOD = 0.05
"""Rewards whose predicted steps are within this share of the fewest count as equally good: take the simplest."""
SIMPLE = ("avg_prob", "avg_logprob", "seq_prob", "rouge", "r3", "r3_v1", "mix")
"""From the simplest on; what is not here comes last."""
FEW = 16
"""Queries below which the intervals are all that counts."""
STARVES, STRICT = 0.9, 0.5
"""Shares of rejected groups from which on a gate starves training, and is worth a warning."""
WEAK = 0.3
"""rho below which even the best reward teaches little."""
HALF = 0.5
"""A filter chooses where quality varies at most half as often on what it drops as on what it keeps."""
BLIND = 0.1
"""Share of the reference's tokens that carry weight at the smallest omega, below which R3 is said to hardly see it."""
DULL, MANY = 0.05, 0.1
"""sigma_bar below which a query is said to hardly react, and the share of such queries (or of truncated completions)
that is worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One piece of advice."""

    topic: str  # reward, omega, filter, gate, warning
    text: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The recommendation."""

    reward: str | None  # the recommended reward's name; None: none
    omega: float | None  # where it is R3
    headline: str
    points: Sequence[Point]
    command: str | None  # what to run


def advise(findings: Findings) -> Advice:
    """The recommendation and its evidence."""
    chosen, headline, reward_points = _reward(findings)
    omega = None if chosen is None or chosen.omega is None else _omega(findings)
    filter_point, filters = _filter(findings)
    points = [
        *_few_queries(findings),
        *reward_points,
        *(_omega_points(findings) if chosen is not None else []),
        filter_point,
        *_gate_points(findings, chosen),
        *_warnings(findings),
    ]
    if chosen is not None and omega is not None:
        headline = headline.replace(chosen.title, f"{chosen.name} (omega {omega:g})")
    return Advice(
        reward=None if chosen is None else chosen.name,
        omega=omega,
        headline=headline,
        points=points,
        command=None if chosen is None else _command(findings, chosen, omega, filters=filters),
    )


# ------------------------------------------------------------------------------------------------ which reward


def _reward(findings: Findings) -> tuple[RewardFinding | None, str, list[Point]]:
    rivals = [reward for reward in findings.rewards if reward.computed and not reward.is_label]
    if findings.quality.name:
        return _by_label(findings, rivals)
    return _by_floor(findings, rivals)


def _by_label(findings: Findings, rivals: Sequence[RewardFinding]) -> tuple[RewardFinding | None, str, list[Point]]:
    quality = findings.quality
    if not quality.varied:
        judged = quality.name.startswith("judge=")
        text = (
            f"Nothing can be told here: {quality.name} finds all rollouts of a query equally good."
            if judged
            else "Nothing can be learnt here: quality does not vary within any group of rollouts."
        )
        todo = (
            "Audit the judge, or take another." if judged else "Take easier or harder queries, or a higher temperature."
        )
        evidence = f"mean quality {two(quality.mean)} by {quality.name}; each query's rollouts are all equally good"
        points = [_point("reward", todo, evidence)]
        return None, text, [*points, *([_floor_point(rivals)] if _held(rivals) else [])]
    points = _ceiling(findings)
    with_signal = [reward for reward in rivals if reward.rho is not None and _above(reward.rho, 0.0)]
    if not with_signal:
        shown = ", ".join(f"{reward.title} {interval(reward.rho)}" for reward in rivals) or "none was computable"
        return (
            None,
            "No reward has signal here.",
            [
                *points,
                _point(
                    "reward",
                    "None of them ranks the rollouts as their quality does; training on them is training on noise.",
                    f"correlation of group z-scores with {quality.name}: {shown}",
                ),
            ],
        )
    chosen, best, text = _choose(with_signal)
    unsure = [reward for reward in with_signal if reward is not best and not _clearly_behind(reward)]
    evidence = "; ".join(
        f"{reward.title} rho {interval(reward.rho)}, {_steps(reward.steps)}"
        for reward in rivals
        if reward.rho is not None
    )
    points.insert(0, _point("reward", text, evidence))
    if unsure:
        behind = "; ".join(f"{reward.title} {interval(reward.behind)}" for reward in unsure)
        points.insert(1, _unsure(best, unsure, f"behind {best.title} in rho, on the same queries: {behind}"))
    if best.rho is not None and best.rho.value < WEAK:
        points.append(
            _point(
                "warning",
                "Even the best reward ranks rollouts poorly: expect slow training, or drift.",
                f"{best.title} rho {interval(best.rho)}, the quality's own {two(quality.oracle)}",
            )
        )
    label = next((reward for reward in findings.rewards if reward.is_label), None)
    unless = "" if label is None else f", unless every training row can be checked: then with {label.title}"
    return chosen, f"Train with {chosen.title}{unless}.", points


def _clearly_behind(reward: RewardFinding) -> bool:
    """Whether the interval of its distance to the best leaves 0 out."""
    return reward.behind is not None and reward.behind.low > 0


def _unsure(best: RewardFinding, others: Sequence[RewardFinding], evidence: str) -> Point:
    named = " or ".join(reward.title for reward in others)
    return _point(
        "warning",
        f"These queries do not tell {best.title} apart from {named}: the order may be luck. More queries would tell "
        "(probe.rows=N), or seeds of a short run.",
        evidence,
    )


def _by_floor(findings: Findings, rivals: Sequence[RewardFinding]) -> tuple[RewardFinding | None, str, list[Point]]:
    held = _held(rivals)
    shown = _over_floor(held)
    if not held:
        text = "Nothing ranks the rewards: there is no quality label and no noise floor."
        return None, text, [_point("reward", "Give a label (a metric, or an LLM judge).", findings.quality.note)]
    clear = [reward for reward in held if reward.over_floor is not None and _above(reward.over_floor, 1.0)]
    if not clear:
        return (
            None,
            "No reward stands above its noise floor here.",
            [
                _point(
                    "reward",
                    "Against other queries' references the rewards vary as much as against their own: what they see "
                    "may be chance.",
                    shown,
                )
            ],
        )
    chosen, best, text = _choose(clear)
    unsure = [reward for reward in clear if reward is not best and _overlap(reward.over_floor, best.over_floor)]
    caution = (
        "Without a label this says that the reward reacts to what the reference says, not that it ranks rollouts by "
        "their quality; an LLM judge on these rows would tell."
    )
    return (
        chosen,
        f"Train with {chosen.title}, as far as can be told without a quality label.",
        [
            _point("reward", text, shown),
            *([_unsure(best, unsure, "their intervals over the noise floor overlap")] if unsure else []),
            _point("warning", caution, findings.quality.note),
        ],
    )


def _overlap(one: Interval | None, other: Interval | None) -> bool:
    """Whether two intervals overlap, or an end is not known."""
    return one is None or other is None or not (one.high < other.low or other.high < one.low)


def _held(rivals: Sequence[RewardFinding]) -> list[RewardFinding]:
    """The rewards of which the noise floor is known."""
    return [reward for reward in rivals if reward.over_floor is not None]


def _over_floor(held: Sequence[RewardFinding]) -> str:
    return "; ".join(
        f"{reward.title} {interval(reward.over_floor)} times its floor, reliability {two(reward.reliability)}"
        for reward in held
    )


def _floor_point(rivals: Sequence[RewardFinding]) -> Point:
    held = _held(rivals)
    clear = [reward.title for reward in held if reward.over_floor is not None and _above(reward.over_floor, 1.0)]
    text = f"What reacts to its own reference beyond chance: {', '.join(clear) or 'no reward'}."
    return _point("reward", text, _over_floor(held))


def _choose(rewards: Sequence[RewardFinding]) -> tuple[RewardFinding, RewardFinding, str]:
    """(the recommended, the best, why): the simplest of those that are predicted to be about as fast as the best."""
    best = min(rewards, key=lambda reward: _or_inf(reward.steps))
    as_good = [reward for reward in rewards if _or_inf(reward.steps) <= (1 + AS_GOOD) * _or_inf(best.steps)]
    chosen = min(as_good, key=lambda reward: (_simplicity(reward.name), _or_inf(reward.steps)))
    if chosen is best:
        later = [reward for reward in rewards if reward is not best]
        rest = " No simpler one comes within 5% of its predicted steps." if later else ""
        return chosen, best, f"{best.title} is predicted to need the fewest steps.{rest}"
    return (
        chosen,
        best,
        f"{chosen.title} is as good as {best.title}: take the simpler (its predicted steps are "
        f"{_or_inf(chosen.steps) / _or_inf(best.steps) - 1:.0%} more).",
    )


def _simplicity(name: str) -> int:
    return SIMPLE.index(name) if name in SIMPLE else len(SIMPLE)


def _ceiling(findings: Findings) -> list[Point]:
    label = next((reward for reward in findings.rewards if reward.is_label), None)
    if label is None:
        return []
    return [
        _point(
            "reward",
            f"{label.title} is the quality itself, the ceiling of this comparison: where it can be had for every "
            "training row, it needs no reference.",
            f"rho {interval(label.rho)}; zero signal in {percent(label.zero_signal)} of the groups",
        )
    ]


# ------------------------------------------------------------------------------------------------ omega, filter, gate


def _omega(findings: Findings) -> float | None:
    return findings.omega_formula if findings.omega_measured is None else findings.omega_measured


def _omega_points(findings: Findings) -> list[Point]:
    omega = _omega(findings)
    if omega is None or not findings.omegas:
        return []
    notes = [_point("omega", "Read the closed formula with care.", note) for note in findings.formula_notes]
    if findings.omega_measured is not None:
        curve = ", ".join(
            f"{found.omega:g}: {two(found.rho.value if found.rho else None)}" for found in findings.omegas
        )
        text = f"For R3 take omega {omega:g}, the smallest that is as good as the best."
        if omega == 0:
            text = "For R3 omega makes no difference: 0, equal weights, is as good as the best."
        also = f" The formula alone would say {_plain(findings.omega_formula)}."
        return [_point("omega", text + also, f"measured rho by omega {curve}"), *notes]
    curve = ", ".join(f"{found.omega:g}: {two(found.rho_formula)}" for found in findings.omegas)
    text = f"For R3 the closed formula says omega {omega:g}; nothing here measures it."
    return [_point("omega", text, f"predicted rho, over the oracle's, by omega {curve}"), *notes]


def _filter(findings: Findings) -> tuple[Point, bool]:
    """What the filter is worth, and whether to use it."""
    found = findings.filter
    tau = "" if found.tau is None else f" at tau {found.tau:.3f}"
    what = f"filtering={found.name}{tau} keeps {found.kept_share:.0%} of the queries"
    dull = sum(value < DULL for value in found.sigma_bars) / len(found.sigma_bars)
    evidence = f"{what}; sigma_bar is below {DULL:g} on {dull:.0%} of them"
    if findings.quality.varied and found.varied_kept is not None and found.varied_dropped is not None:
        evidence += (
            f"; quality varies on {found.varied_kept:.0%} of those it keeps and {found.varied_dropped:.0%} of those "
            "it drops"
        )
        if found.varied_dropped <= HALF * found.varied_kept:
            return _point("filter", f"A filter is worth it: {' '.join(_use(findings))}.", evidence), True
        text = "Leave the filter out: much of what it would drop teaches too."
        return _point("filter", text, evidence), False
    if found.kept_share == 1:
        return _point("filter", "The filter would drop nothing.", evidence), found.configured
    if dull > MANY:
        text = f"Some queries hardly react to the reasoning: {' '.join(_use(findings))}."
        return _point("filter", text, evidence), True
    return _point("filter", "Nearly every query reacts to the reasoning: no filter is needed.", evidence), False


def _use(findings: Findings) -> list[str]:
    found = findings.filter
    return [f"filtering={found.name}", *([] if found.tau is None else [f"filtering.tau={found.tau:.3f}"])]


def _gate_points(findings: Findings, chosen: RewardFinding | None) -> list[Point]:
    if not findings.gate:
        return []
    judged = [reward for reward in findings.rewards if reward.gate_rejected is not None]
    shown = ", ".join(f"{reward.title} {percent(reward.gate_rejected)}" for reward in judged)
    evidence = f"groups that gating={findings.gate} rejects: {shown}"
    held = chosen if chosen is not None and chosen.gate_rejected is not None else (judged[0] if judged else None)
    share = held.gate_rejected if held is not None else None
    if share is None:
        return []
    if share >= STARVES:
        text = "The gate would starve training; gating.on_reject=floor keeps the groups and lowers failing rollouts."
        return [_point("gate", text, evidence)]
    if share >= STRICT:
        return [_point("gate", "The gate rejects most groups: steps get slow; try gating.on_reject=floor.", evidence)]
    return [_point("gate", f"The gate admits {1 - share:.0%} of the groups.", evidence)]


def _few_queries(findings: Findings) -> list[Point]:
    queries = len(findings.queries)
    said = "Few queries: trust the intervals, not the order."
    return [_point("warning", said, f"{queries} queries")] if queries < FEW else []


def _warnings(findings: Findings) -> list[Point]:
    points = []
    if findings.omegas and not findings.omegas[0].effective_tokens > BLIND * findings.tokens.tokens:
        points.append(
            _point(
                "warning",
                "R3 hardly sees the reference here: it weighs only tokens whose probability moves inside its clip band "
                "(reward.clip_low to reward.clip_high). This policy may be far from such references; a lower "
                "reward.clip_low sees more.",
                f"{two(findings.omegas[0].effective_tokens)} of {findings.tokens.tokens:.1f} reference tokens carry "
                f"weight at omega {findings.omegas[0].omega:g}",
            )
        )
    if findings.cost.truncated > MANY:
        points.append(
            _point(
                "warning",
                "Many completions are cut off: raise rollout.max_completion_length before you compare rewards.",
                f"{findings.cost.truncated:.0%} of the completions are truncated",
            )
        )
    return points


# ------------------------------------------------------------------------------------------------ words


def _command(findings: Findings, chosen: RewardFinding, omega: float | None, *, filters: bool) -> str:
    keys = [f"dataset={findings.setting['dataset']}", f"reward={chosen.name}"]
    if omega is not None:
        keys.append(f"reward.omega={omega:g}")
    given = list(findings.setting.get("overrides", ()))
    if not (filters and findings.filter.configured):
        given = [text for text in given if not text.lstrip("+~").startswith("filtering")]
        given += _use(findings) if filters else []
    return shlex.join(["python", "-m", "dro_lab.run", *keys, *given])


def _point(topic: str, text: str, evidence: str) -> Point:
    return Point(topic=topic, text=text, evidence=evidence)


def _above(found: Interval, bound: float) -> bool:
    """Whether the interval lies above the bound; the value itself where there is no interval."""
    return (found.value if math.isnan(found.low) else found.low) > bound


def _or_inf(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _plain(value: float | None) -> str:
    return "nothing" if value is None else f"{value:g}"


def _steps(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "never arrives" if math.isinf(value) else f"{value:.2f} times the oracle's steps"
