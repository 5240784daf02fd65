"""Dropped rollouts leave the loss and its denominator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dro_lab.pipeline import Scored

DIVIDES_BY_ROWS = frozenset({"grpo", "dr_grpo", "sapo", "luspo"})
"""Loss types that divide by the number of rows, so that masking a row does not renormalise them."""


def loss_mask(batch: Mapping[str, Any]) -> Tensor:
    """(B, T): the completion tokens that TRL's loss counts."""
    mask: Tensor = batch["completion_mask"]
    return mask * batch["tool_mask"] if "tool_mask" in batch else mask


def take_out_dropped(
    batch: dict[str, Any], scored: Scored, *, loss_type: str, gather: Callable[[Tensor], Tensor]
) -> bool:
    """Mask the dropped rollouts of TRL's batch in place, on all ranks alike; True where nothing is left to learn from.

    A group that a gate zeroes stays in the denominator, but does not count as something to learn from.
    """
    device = batch["completion_ids"].device
    keep_B = scored.keep_PG.flatten().to(device)
    counts = torch.tensor([[int(keep_B.sum()), keep_B.numel(), int(scored.teach_PG.sum())]], device=device)
    kept, rows, teaching = gather(counts).sum(0).tolist()
    if kept < rows:
        batch["completion_mask"] = batch["completion_mask"] * keep_B[:, None]
        batch["num_items_in_batch"] = gather(loss_mask(batch).sum()).sum()
        if loss_type in DIVIDES_BY_ROWS and kept:
            batch["advantages"] = batch["advantages"] * (rows / kept)
    return teaching == 0
