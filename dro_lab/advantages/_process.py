"""What the estimators share about process rewards: from raw segment rewards to credit on tokens.

A segment reward r sits on the token that its scored point ends with (`Rewards.process_PGC`, REPRO, arXiv 2512.01925).
Every estimator makes an r' of it in its own way; what comes after is one and the same:

    A_proc,t = sum of r' at or after t          reward-to-go: 0 behind the rollout's last scored point
    A_t = A_outcome + alpha A_proc,t            alpha = `Rewards.process_weight`; 0 outside the loss mask

Points of a rollout whose outcome is nan count nowhere. Those of a rollout that is not kept count in means and spreads,
as its outcome does, and it gets 0 itself. A group without any point gets no process credit.

``process_count_correction``: the sum over a rollout grows with its number of points, so that rollouts with few segments
are treated otherwise than those with many. With it a rollout's A_proc is multiplied by n_mean / n: its own number of
points n, and the mean of n over the group's rollouts that have any. A rollout's mean credit then counts, on the scale
of the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dro_lab.advantages._outcome import whiten
from dro_lab.types import Rewards

EPS = 1e-6
"""Beside the std of segment rewards: REPRO's."""


@dataclass(frozen=True, slots=True)
class Points:
    """A step's scored points. ``center`` as the reward asks for it (`Rewards.process_center`)."""

    values_PGC: Tensor  # float64 (equal rewards must leave no rounding error beside EPS); 0 off the mask
    mask_PGC: Tensor  # bool
    center: bool

    @property
    def counts_PG(self) -> Tensor:
        return self.mask_PGC.sum(-1)

    def less(self, baseline: Tensor) -> Points:
        """The points less a baseline that broadcasts; as they are where the reward asks for no centring."""
        if not self.center:
            return self
        return Points(torch.where(self.mask_PGC, self.values_PGC - baseline, 0.0), self.mask_PGC, self.center)


Normalise = Callable[[Points], Tensor]
"""r' (P, G, C) of the points; 0 off the mask."""


def less_group_mean(points: Points) -> Tensor:
    """r' = r - mean over all points of the prompt's rollouts."""
    return _centred(points).values_PGC


def by_group_std(points: Points) -> Tensor:
    """r' = (r - mean) / (std + 1e-6) over all points of all rollouts of the prompt, unbiased std (REPRO, GRPO).

    A prompt with one point gets 0: there is nothing to compare with. Without centring r' = r / (rms + 1e-6), where rms
    is the root of the mean square, the spread about 0: the std about the mean would blow up the rewards of a prompt
    whose points hardly differ, such as those of rollouts that are all without reasoning.
    """
    centred = _centred(points)
    freedom_P11 = (_total(points.mask_PGC) - int(points.center)).clamp(min=1)
    return centred.values_PGC / ((_total(centred.values_PGC.square()) / freedom_P11).sqrt() + EPS)


def less_mean_of_the_others(points: Points) -> Tensor:
    """r' = r - mean over the points of the prompt's *other* rollouts; 0 where no other rollout has a point."""
    own_PG1 = points.counts_PG[..., None]
    others_PG1 = _total(points.mask_PGC) - own_PG1
    sums_PG1 = _total(points.values_PGC) - points.values_PGC.sum(-1, keepdim=True)
    less = points.less(sums_PG1 / others_PG1.clamp(min=1)).values_PGC
    return torch.where(others_PG1 > 0, less, 0.0) if points.center else less


def by_batch(eps: float) -> Normalise:
    """r' = the points whitened over all points of the batch (REINFORCE++); without centring only scaled."""
    return lambda points: whiten(points.values_PGC, points.mask_PGC.long(), eps=eps, center=points.center)


def advantages(
    outcome_PG: Tensor, rewards: Rewards, keep_PG: Tensor, loss_mask_PGC: Tensor, *, normalise: Normalise
) -> Tensor:
    """The outcome's advantages, and where there are process rewards the tokens' credit beside them.

    Args:
        outcome_PG: advantages of the outcomes, any value where nothing may be taught.
        rewards: as the gate left them.
        keep_PG: rollouts that may teach.
        loss_mask_PGC: tokens of the loss.
        normalise: the estimator's own way from segment rewards r to r'.

    Returns:
        float32 (P, G), or (P, G, C) with process rewards; 0 for rollouts that are not kept or not scorable.
    """
    taught_PG = keep_PG & ~rewards.outcome_PG.isnan()
    points = scored_points(rewards)
    if points is None:
        return torch.where(taught_PG, outcome_PG, 0.0).float()
    credit_PGC = normalise(points).flip(-1).cumsum(-1).flip(-1)
    if rewards.process_count_correction:
        credit_PGC = credit_PGC * _count_correction(points.counts_PG)[..., None]
    total_PGC = outcome_PG.double()[..., None] + rewards.process_weight * credit_PGC
    return torch.where(taught_PG[..., None] & loss_mask_PGC.bool(), total_PGC, 0.0).float()


def scored_points(rewards: Rewards) -> Points | None:
    """The points of scorable rollouts; None for a reward without process rewards."""
    if rewards.process_PGC is None or rewards.process_mask_PGC is None:
        return None
    mask_PGC = rewards.process_mask_PGC & ~rewards.outcome_PG.isnan()[..., None]
    values_PGC = torch.where(mask_PGC, rewards.process_PGC.double(), 0.0)
    return Points(values_PGC, mask_PGC, rewards.process_center)


def _centred(points: Points) -> Points:
    return points.less(_total(points.values_PGC) / _total(points.mask_PGC).clamp(min=1))


def _count_correction(counts_PG: Tensor) -> Tensor:
    mean_P1 = counts_PG.sum(1, keepdim=True) / (counts_PG > 0).sum(1, keepdim=True).clamp(min=1)
    return mean_P1 / counts_PG.clamp(min=1)


def _total(values_PGC: Tensor) -> Tensor:
    """(P, 1, 1): the sum over a prompt's tokens."""
    return values_PGC.sum((1, 2), keepdim=True)
