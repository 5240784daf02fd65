"""Dropped rollouts leave the loss and its denominator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dro_lab.pipeline import Scored

DIVIDES_BY_ROWS = frozenset({"grpo", "dr_grpo", "sapo", "luspo"})
"""Loss types that divide by the number of rows, so that masking a row does not renormalise them."""


class TakenOut(NamedTuple):
    """What became of a batch."""

    empty: bool  # nothing is left to learn from
    scale: float  # rows / kept rows under losses that divide by rows, else 1: what their other terms must be scaled by


def loss_mask(batch: Mapping[str, Any]) -> Tensor:
    """(B, T): the completion tokens that TRL's loss counts."""
    mask: Tensor = batch["completion_mask"]
    return mask * batch["tool_mask"] if "tool_mask" in batch else mask


def as_rows(advantages: Tensor, *, width: int) -> Tensor:
    """(B,) or (B, T) of (P, G) or (P, G, C). T is ``width``: TRL may pad its batch further (pad_to_multiple_of)."""
    rows = advantages.flatten(0, 1)
    return rows if rows.dim() == 1 else pad(rows, (0, width - rows.shape[1]))


def per_rollout(advantages: Tensor) -> Tensor:
    """(P, G): the mean over the tokens that got any."""
    return advantages if advantages.dim() == 2 else advantages.sum(-1) / (advantages != 0).sum(-1).clamp(min=1)


def take_out_dropped(
    batch: dict[str, Any], scored: Scored, *, loss_type: str, gather: Callable[[Tensor], Tensor]
) -> TakenOut:
    """Mask the dropped rollouts of TRL's batch in place, on all ranks alike.

    Under losses that divide by rows the kept advantages are scaled by rows / kept rows, so that the gradient is that
    of a batch without the dropped rows; the KL term, which TRL adds to each row, needs the same. A group that a gate
    zeroes stays in the denominator, but does not count as something to learn from.
    """
    device = batch["completion_ids"].device
    keep_B = scored.keep_PG.flatten().to(device)
    counts = torch.tensor([[int(keep_B.sum()), keep_B.numel(), int(scored.teach_PG.sum())]], device=device)
    kept, rows, teaching = gather(counts).sum(0).tolist()
    scale = rows / kept if loss_type in DIVIDES_BY_ROWS and kept else 1.0
    if kept < rows:
        batch["completion_mask"] = batch["completion_mask"] * keep_B[:, None]
        batch["num_items_in_batch"] = gather(loss_mask(batch).sum()).sum()
        batch["advantages"] = batch["advantages"] * scale
    return TakenOut(teaching == 0, scale)
