"""Where a run has several ranks, its pipeline still sees the whole batch.

Groups never straddle ranks, but thresholds that run along (``tau=auto``), moving averages, quotas and whitening are
about all groups of a step. So each rank measures its own rollouts, all exchange them, and each computes rewards, gate,
filter and advantages of the whole batch: pure functions of tensors on the CPU. Every rank comes to the same decisions
and the same memory as one process would, and takes its own prompts' part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from dro_lab.launch.group import Ranks
from dro_lab.pipeline import Pipeline, Scored, State
from dro_lab.training.joined import joined, part, stacked
from dro_lab.types import AdvantageEstimator, Rewards, RolloutGroups, TokenStats

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one rank measured."""

    groups: RolloutGroups
    stats: TokenStats


@dataclass(frozen=True, slots=True)
class _Estimated:
    """What estimators read of one rank."""

    rewards: Rewards
    keep_PG: Tensor
    loss_mask_PGC: Tensor


def score_together(
    pipeline: Pipeline, groups: RolloutGroups, stats: TokenStats, state: State | None, ranks: Ranks
) -> Scored:
    """Stage A over all ranks; the result holds this rank's prompts, and the state after the whole batch."""
    if ranks.count == 1:
        return pipeline.score(groups, stats, state)
    everybody = joined(ranks.all(_Measured(groups, stats)))
    whole = pipeline.score(everybody.groups, everybody.stats, state)
    own = part(whole, ranks.index, groups.shape[0], _widths(groups, stats))
    return replace(own, groups=groups, stats=stats)


def _widths(*measured: Any) -> dict[str, int]:
    """The rank's own sizes by suffix letter."""
    found: dict[str, int] = {}
    for values in measured:
        for name in values.__dataclass_fields__:
            value, axes = getattr(values, name), name.rpartition("_")[2]
            if isinstance(value, Tensor) and axes.isupper() and value.dim() == len(axes):
                found |= dict(zip(axes, value.shape, strict=True))
    return found


def over_all_ranks(ranks: Ranks) -> Callable[[AdvantageEstimator], AdvantageEstimator]:
    """Makes an estimator one that is called with what all ranks sampled, and gives each rank its own prompts' part.

    On one rank it stays the estimator itself.
    """

    def made(estimate: AdvantageEstimator) -> AdvantageEstimator:
        if ranks.count == 1:
            return estimate

        def estimated(rewards: Rewards, keep_PG: Tensor, loss_mask_PGC: Tensor) -> Tensor:
            lean = replace(rewards, token_weights_PR=None, parts={}, metrics={})  # what is for reports stays at home
            whole = joined(ranks.all(_Estimated(lean, keep_PG, loss_mask_PGC)))
            first = ranks.index * len(keep_PG)
            advantages = estimate(whole.rewards, whole.keep_PG, whole.loss_mask_PGC)
            own: Tensor = advantages[first : first + len(keep_PG)]
            return own if own.dim() == 2 else own[..., : loss_mask_PGC.shape[-1]]

        return estimated

    return made


def whole_step(step: T, advantages_PG: Tensor, ranks: Ranks) -> tuple[T, Tensor]:
    """The scored step and the advantages of all ranks, for the record and for monitors: on every rank the same."""
    if ranks.count == 1:
        return step, advantages_PG
    found = ranks.all((step, advantages_PG))
    return joined([one for one, _ in found]), stacked([advantages for _, advantages in found])
