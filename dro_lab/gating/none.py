"""No gate: every group may teach."""

from __future__ import annotations

from typing import Any

import torch

from dro_lab.types import GateResult, Need, Rewards, RolloutGroups, TokenStats


def none(groups: RolloutGroups, stats: TokenStats, rewards: Rewards) -> GateResult:
    """Admits every group, fails no rollout, and leaves the rewards as they are."""
    prompts, rollouts = groups.shape
    return GateResult(
        admit_P=torch.ones(prompts, dtype=torch.bool),
        failed_PG=torch.zeros(prompts, rollouts, dtype=torch.bool),
        rewards=rewards,
        reasons_P=[""] * prompts,
    )


def needs(**_: Any) -> frozenset[Need]:
    """Nothing."""
    return frozenset()


def check() -> None:
    """There is nothing to check."""
