"""Advantages over the whole batch: an estimator that whitens over it must see the rollouts of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dro_lab.types import AdvantageEstimator, Rewards


def over_all_ranks(accelerator: Any) -> Callable[[AdvantageEstimator], AdvantageEstimator]:
    """Makes an estimator one that is called with what all ranks sampled, and gives each rank its own prompts' part.

    Groups never straddle ranks, so an estimator that looks at a group at a time gives the same as without. On one rank
    it stays the estimator itself.
    """

    def made(estimate: AdvantageEstimator) -> AdvantageEstimator:
        if accelerator.num_processes == 1:
            return estimate

        def estimated(rewards: Rewards, keep_PG: Tensor, loss_mask_PGC: Tensor) -> Tensor:
            whole = _gathered_rewards(rewards, accelerator)
            keep, mask = _gathered(keep_PG, accelerator), _gathered(loss_mask_PGC, accelerator)
            first = accelerator.process_index * len(keep_PG)
            own: Tensor = estimate(whole, keep, mask)[first : first + len(keep_PG)]
            return own if own.dim() == 2 else own[..., : loss_mask_PGC.shape[-1]]

        return estimated

    return made


def _gathered_rewards(rewards: Rewards, accelerator: Any) -> Rewards:
    """What estimators read; what is for reports only is left out."""
    whole = replace(rewards, outcome_PG=_gathered(rewards.outcome_PG, accelerator), token_weights_PR=None, parts={})
    if rewards.process_PGC is None or rewards.process_mask_PGC is None:
        return whole
    return replace(
        whole,
        process_PGC=_gathered(rewards.process_PGC, accelerator),
        process_mask_PGC=_gathered(rewards.process_mask_PGC, accelerator),
    )


def _gathered(tensor: Tensor, accelerator: Any) -> Tensor:
    """The prompts of all ranks, one rank behind the other; tokens padded with 0 to the widest."""
    number = (tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor).to(accelerator.device)
    if number.dim() == 3:
        number = accelerator.pad_across_processes(number, dim=2)
    whole: Tensor = accelerator.gather(number).to(tensor.device, tensor.dtype)
    return whole
