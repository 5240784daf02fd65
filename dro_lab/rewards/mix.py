"""A weighted sum of rewards, with each part's share of it logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dro_lab import checks
from dro_lab.components import REFERENCE_NEED, Component, component
from dro_lab.errors import UserError
from dro_lab.types import Need, Rewards, RolloutGroups, Task, TokenStats

EPS = 1e-4

Part = Mapping[str, Any]
"""``{"weight": number, "reward": a reward's yaml}``."""


def mix(
    groups: RolloutGroups,
    stats: TokenStats,
    *,
    parts: Mapping[str, Part],
    normalise: Literal["none", "group"] = "none",
) -> Rewards:
    """Adds the parts' outcomes.

        r_i = sum_k weight_k r_ki
        r_i = sum_k weight_k (r_ki - mean_G r_k) / (std_G r_k + 1e-4)        (normalise=group, unbiased std)

    ``normalise=group`` makes weights comparable where rewards have different scales; a part that does not vary within
    a group then adds 0. A rollout that one part cannot score (nan) is not scored: half a sum would be compared with
    whole ones. The parts' metrics and parts appear under ``NAME/``, NAME being the part's, with ``NAME`` its reward and
    ``NAME_weighted`` what it adds. Token weights for the report are those of the part with the largest weight that has
    any. The sum depends on the completion if any part does.

    Raises:
        UserError: a part gives process rewards, which have no sum here.
    """
    total_PG = torch.zeros(groups.shape)
    breakdown: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    results = {name: (float(part["weight"]), _component(name, part)(groups, stats)) for name, part in parts.items()}
    for name, (weight, result) in results.items():
        if result.process_PGC is not None:
            raise _gives_process(name)
        weighted_PG = weight * (_normalised(result.outcome_PG) if normalise == "group" else result.outcome_PG)
        total_PG = total_PG + weighted_PG
        breakdown |= {name: result.outcome_PG, f"{name}_weighted": weighted_PG}
        breakdown |= {f"{name}/{key}": value for key, value in result.parts.items()}
        metrics |= {f"{name}/{key}": value for key, value in result.metrics.items()}
    weighing = [(abs(weight), result) for weight, result in results.values() if result.token_weights_PR is not None]
    return Rewards(
        outcome_PG=total_PG,
        depends_on="completion" if any(r.depends_on == "completion" for _, r in results.values()) else "reasoning",
        token_weights_PR=max(weighing, key=lambda pair: pair[0])[1].token_weights_PR if weighing else None,
        parts=breakdown,
        metrics=metrics,
    )


def _gives_process(name: str) -> UserError:
    return UserError(
        f"reward.parts.{name}: gives process rewards (credit on tokens), and reward=mix adds outcomes only; leave it "
        "out, or put the mix into it: reward=repro reward@reward.outcome=mix"
    )


def _normalised(outcome_PG: Tensor) -> Tensor:
    """The group's z-score, nan left out of mean and std and kept; 0 for a single scorable rollout."""
    centred_PG = outcome_PG - outcome_PG.nanmean(1, keepdim=True)
    count_P1 = (~outcome_PG.isnan()).sum(1, keepdim=True)
    std_P1 = (centred_PG.nan_to_num(0.0).square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    return centred_PG / (std_P1 + EPS)


def _component(name: str, part: Part) -> Component:
    """The part's reward; what its check refuses is said with the key as it stands in the mix."""
    key = f"reward.parts.{name}.reward"
    try:
        return component(key, OmegaConf.create(part["reward"]), name=name, default_needs=REFERENCE_NEED)
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w.])reward\.(?!parts\.)", f"{key}.", str(error))) from error


def prepare(task: Task, *, parts: Mapping[str, Part], **_: Any) -> Task:
    """The data set as every part wants it."""
    for name, part in parts.items():
        task = _component(name, part).prepare(task)
    return task


def needs(*, parts: Mapping[str, Part], **_: Any) -> frozenset[Need]:
    """What any part reads."""
    return frozenset().union(*(_component(name, part).needs for name, part in parts.items()))


def check(*, parts: Any, normalise: Any = "none") -> None:
    """Check the arguments, and each part as a reward of its own.

    Raises:
        UserError: no parts, a part without weight or reward, that its own check refuses, or that gives process rewards.
    """
    checks.choice("reward.normalise", normalise, ("none", "group"), todo="none is the default")
    add = "add one with `+reward@reward.parts.NAME.reward=OPTION +reward.parts.NAME.weight=0.5`"
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(f"reward.parts={parts}: must hold at least one part by name; {add}")
    for name, part in parts.items():
        if not isinstance(part, Mapping) or not isinstance(part.get("reward"), Mapping):
            raise UserError(f"reward.parts.{name}: has no reward; {add}")
        if unknown := sorted(set(part) - {"weight", "reward"}):
            raise UserError(f"reward.parts.{name}.{unknown[0]}: unknown key; a part takes weight and reward")
        if "weight" not in part:
            raise UserError(f"reward.parts.{name}: has no weight; add `+reward.parts.{name}.weight=0.5`")
        checks.number(
            f"reward.parts.{name}.weight", part["weight"], low=-1e6, high=1e6, todo="a negative weight is a penalty"
        )
        if _component(name, part).gives_process:
            raise _gives_process(name)
