"""Coverage and consistency over a verdict tensor, and what becomes of a group that fails: shared by all gates.

DRO (arXiv 2506.13351), rubric-gating: a group of rollouts whose answers do not meet the query's checks is rejected
whole; verdicts never enter the reward. With ``met`` = verdict 1 (0 = not met, -1 = unknown):

coverage      every check of the query is met by at least ``mu`` rollouts (a count; not the same ones for each check);
consistency   each of the top ``max(1, ceil(rho * G))`` rollouts by reward meets at least ``nu`` of the query's checks.

Ties at the border of the top all belong to it; a rollout without a reward (nan) never does. A query without checks is
not gated. ``ceil`` is exact in the decimals the user wrote: 0.07 * 100 rollouts are 7, not the 8 of floating point.

What becomes of a failing group (``on_reject``): ``drop`` takes it out of the loss (the paper's), ``zero`` keeps its
tokens in the loss's denominator with advantage 0, ``floor`` (ours) rejects no group: in every gated group a *rollout*
that meets less than ``nu`` of its *known* checks gets the group's lowest reward (taken before flooring) and loses its
process credit. Rollouts are floored on evidence only: one of which nothing is known is not. Where every rollout
fails, the group carries no signal: it counts as rejected and teaches nothing.

What an unknown verdict means for a group is `on_unknown`: ``reject`` (ours, in doubt against the group) never counts it
as met; ``pass`` (in doubt for it) lets it cover a check and leaves it out of consistency. A group whose judge answered
nothing at all (it is *unjudged*: the judge is down) is therefore rejected, or passes, and is counted in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from dro_lab.checks import choice, share, whole
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.types import GateResult, Rewards

OnReject = Literal["drop", "zero", "floor"]
ON_REJECT = ("drop", "zero", "floor")
OnUnknown = Literal["reject", "pass"]
ON_UNKNOWN = ("reject", "pass")


UNJUDGED = "unjudged: the judge answered none of the group's checks (gating.on_unknown=reject)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The gates' thresholds."""

    mu: int = 1
    rho: float = 0.25
    nu: float = 0.60
    on_reject: OnReject = "drop"
    on_unknown: OnUnknown = "reject"


def check_rules(*, mu: int, rho: float, nu: float, on_reject: str, patience: int, on_unknown: str = "reject") -> None:
    """Refuse thresholds that make no sense.

    Raises:
        UserError: naming the key, the value got and what is allowed.
    """
    whole("gating.mu", mu, low=1, todo="a count of rollouts, not a share; 1 is the paper's")
    share("gating.rho", rho, todo="0.25 checks the best quarter of each group")
    share("gating.nu", nu, todo="0.6 asks the best rollouts for 60% of the checks, 1 for all of them")
    choice("gating.on_reject", on_reject, ON_REJECT, todo="drop is the paper's, floor avoids starvation")
    choice("gating.on_unknown", on_unknown, ON_UNKNOWN, todo="reject: what the judge does not answer is not met")
    whole("gating.patience", patience, low=1, todo="steps in a row without any admitted group before the alarm; try 5")


def portion(part: float, count: int) -> int:
    """``ceil(part * count)``, exact in the decimals of ``part``."""
    return math.ceil(Fraction(str(part)) * count)


def top_by_reward(outcome_PG: Tensor, rho: float) -> Tensor:
    """(P, G) bool: the best ``max(1, ceil(rho * G))`` rollouts of each group, ties at the border too, nan never."""
    size = max(1, portion(rho, outcome_PG.shape[1]))
    scored_PG = outcome_PG.nan_to_num(nan=-torch.inf)
    border_P1 = scored_PG.topk(size, dim=1).values[:, -1:]
    return (scored_PG >= border_P1) & ~outcome_PG.isnan()


def enough(met_PG: Tensor, asked_PG: Tensor, nu: float) -> Tensor:
    """(P, G) bool: ``met >= ceil(nu * asked)``; true where nothing is asked."""
    needed = torch.tensor([portion(nu, count) for count in range(int(asked_PG.max()) + 1)])
    return met_PG >= needed[asked_PG]


def decide(
    verdicts_PGV: Tensor,
    mask_PV: Tensor,
    rewards: Rewards,
    *,
    rules: Rules,
    names_PV: Sequence[Sequence[str]] | None = None,
) -> GateResult:
    """Apply both gates and ``on_reject``.

    Args:
        verdicts_PGV: int8; 1 met, 0 not met, -1 unknown.
        mask_PV: bool; the query's own checks.
        rewards: as the reward gave them; returned as they are, or floored.
        names_PV: of the checks, for the reasons.
    """
    asked_PGV = mask_PV[:, None].expand_as(verdicts_PGV)
    met_PGV = (verdicts_PGV == YES) & asked_PGV
    known_PGV = (verdicts_PGV != UNKNOWN) & asked_PGV
    gated_P = mask_PV.any(-1)
    met_PG, asked_PG = met_PGV.sum(-1), asked_PGV.sum(-1)

    passes = rules.on_unknown == "pass"
    unjudged_P = gated_P & ~known_PGV.any(-1).any(-1)
    covers_PGV = met_PGV | (asked_PGV & ~known_PGV) if passes else met_PGV
    uncovered_PV = (covers_PGV.sum(1) < rules.mu) & mask_PV
    top_PG = top_by_reward(rewards.outcome_PG, rules.rho)
    weak_PG = top_PG & ~enough(met_PG, known_PGV.sum(-1) if passes else asked_PG, rules.nu)
    coverage_P, consistency_P = uncovered_PV.any(-1), weak_PG.any(-1)
    failed_PG = ~enough(met_PG, known_PGV.sum(-1), rules.nu)

    refused_P = unjudged_P & (not passes)
    failing_P = coverage_P | consistency_P | refused_P
    hopeless_P = failed_PG.any(-1) & (failed_PG | rewards.outcome_PG.isnan()).all(-1)
    floors = rules.on_reject == "floor"
    rejected_P = hopeless_P | refused_P if floors else failing_P
    reasons = [
        ""
        if not rejected_P[p]
        else UNJUDGED
        if unjudged_P[p]
        else _reason(p, uncovered_PV, weak_PG, top_PG, met_PGV, rules, names_PV, floors=floors)
        for p in range(len(mask_PV))
    ]
    return GateResult(
        admit_P=~failing_P if rules.on_reject == "drop" else torch.ones_like(gated_P),
        failed_PG=failed_PG,
        rewards=floored(rewards, failed_PG) if floors else rewards,
        reasons_P=reasons,
        rejected_P=rejected_P,
        zero_P=None if rules.on_reject == "drop" else rejected_P,
        verdicts_PG=_named(verdicts_PGV, mask_PV, names_PV),
        metrics={
            "coverage_rejected_share": _share(coverage_P),
            "consistency_rejected_share": _share(consistency_P),
            "rejected_share": _share(rejected_P),
            "floored_share": _share(failed_PG & rewards.outcome_PG.isfinite()) if floors else 0.0,
            "ungated_share": _share(~gated_P),
            "unjudged_share": _share(unjudged_P),
            **verdict_shares(verdicts_PGV, asked_PGV),
        },
    )


def _named(
    verdicts_PGV: Tensor, mask_PV: Tensor, names_PV: Sequence[Sequence[str]] | None
) -> list[list[dict[str, int]]]:
    """By group and rollout: the verdict of each of the query's own checks, for the record."""
    return [
        [
            {_name(names_PV, p, place): verdict for place, verdict in enumerate(verdicts_V) if asked_V[place]}
            for verdicts_V in verdicts_GV
        ]
        for p, (verdicts_GV, asked_V) in enumerate(zip(verdicts_PGV.tolist(), mask_PV.tolist(), strict=True))
    ]


def _name(names_PV: Sequence[Sequence[str]] | None, p: int, place: int) -> str:
    return names_PV[p][place] if names_PV and place < len(names_PV[p]) else f"check-{place + 1}"


def floored(rewards: Rewards, failed_PG: Tensor) -> Rewards:
    """Failing rollouts get their group's lowest reward and no process credit; a nan stays nan.

    The part ``before_floor`` keeps what each reward was, so that the record shows who was floored.
    """
    outcome_PG = rewards.outcome_PG
    lowest_P1 = outcome_PG.nan_to_num(nan=torch.inf).amin(1, keepdim=True)
    changed = replace(
        rewards,
        outcome_PG=torch.where(failed_PG & ~outcome_PG.isnan(), lowest_P1, outcome_PG),
        parts={**rewards.parts, "before_floor": outcome_PG},
    )
    if rewards.process_PGC is not None:
        changed = replace(changed, process_PGC=rewards.process_PGC.masked_fill(failed_PG[..., None], 0.0))
    if rewards.process_mask_PGC is not None:
        changed = replace(changed, process_mask_PGC=rewards.process_mask_PGC & ~failed_PG[..., None])
    return changed


def verdict_shares(verdicts_PGV: Tensor, asked_PGV: Tensor) -> Mapping[str, float]:
    """Shares of met, not met and unknown among the verdicts asked for; nan where none was."""
    asked = verdicts_PGV[asked_PGV]
    return {f"{name}_share": _share(asked == value) for name, value in (("yes", YES), ("no", NO), ("unknown", UNKNOWN))}


def _share(flags: Tensor) -> float:
    return flags.float().mean().item() if flags.numel() else math.nan


def _reason(
    p: int,
    uncovered_PV: Tensor,
    weak_PG: Tensor,
    top_PG: Tensor,
    met_PGV: Tensor,
    rules: Rules,
    names_PV: Sequence[Sequence[str]] | None,
    *,
    floors: bool,
) -> str:
    """Why group ``p`` is rejected, in words that depend on no rollout's place."""
    if floors:
        return f"floor: every rollout meets less than nu={rules.nu:g} of its known checks"
    parts = []
    places = uncovered_PV[p].nonzero().flatten().tolist()
    if places:
        first = places[0]
        name = _name(names_PV, p, first)
        met = int(met_PGV[p, :, first].sum())
        by = "none" if not met else f"{met} of at least mu={rules.mu} rollouts"
        more = f" (and {len(places) - 1} more checks)" if len(places) > 1 else ""
        parts.append(f"coverage: check {name} met by {by}{more}")
    if weak_PG[p].any():
        parts.append(
            f"consistency: {int(weak_PG[p].sum())} of the top {int(top_PG[p].sum())} rollouts meet less than "
            f"nu={rules.nu:g} of the checks"
        )
    return "; ".join(parts)
