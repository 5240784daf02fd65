"""No filter: every group is kept."""

from __future__ import annotations

from typing import Any

import torch

from dro_lab.types import FilterResult, Need, Rewards, RolloutGroups, TokenStats


def none(groups: RolloutGroups, stats: TokenStats, rewards: Rewards) -> FilterResult:
    """Keeps every rollout of every group."""
    prompts, rollouts = groups.shape
    return FilterResult(
        keep_PG=torch.ones(prompts, rollouts, dtype=torch.bool),
        reasons_P=[""] * prompts,
    )


def needs(**_: Any) -> frozenset[Need]:
    """Nothing."""
    return frozenset()


def check() -> None:
    """There is nothing to check."""
