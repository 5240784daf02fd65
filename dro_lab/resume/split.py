"""A policy that is split over the devices, in a checkpoint: its weights whole, as safetensors, and its optimizer whole,
as a file that torch reads with ``weights_only``.

accelerate's own checkpoints of such a policy are pickles of the weights, or files in a form of torch's whose index is
one. All ranks must call what is here; the first writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dro_lab.training.weights import underlying, whole_weights

WEIGHTS = "model.safetensors"
OPTIMIZER = "split_optimizer.pt"
"""A name that transformers, which would read it in a way of its own, does not look for."""
SCHEDULER = "scheduler.pt"


def save_weights(policy: nn.Module, folder: Path, *, writes: bool) -> None:
    """Save what is trained, and buffers; a frozen model below an adapter is where it was loaded from."""
    frozen = {name for name, value in underlying(policy).named_parameters() if not value.requires_grad}
    kept = {}
    for name, value in whole_weights(policy):
        if writes and name not in frozen:
            kept[name] = value.to("cpu", copy=True).contiguous()
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(kept, folder / WEIGHTS)


@torch.no_grad()
def load_weights(policy: nn.Module, folder: Path) -> None:
    """Load them: each rank takes its own part of every tensor."""
    model = underlying(policy)
    own: dict[str, Any] = dict(model.named_parameters()) | dict(model.named_buffers())
    with safe_open(folder / WEIGHTS, framework="pt") as saved:
        for name in saved.keys():  # noqa: SIM118 (not a mapping)
            value, target = saved.get_tensor(name).to(own[name].device), own[name]
            if isinstance(target, DTensor):
                value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
            target.copy_(value)


def save_optimizer(policy: nn.Module, optimizer: Any, scheduler: Any, folder: Path, *, writes: bool) -> None:
    """Save the optimizer's state, where it has one yet, and the scheduler's."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict  # half a second

    plain = _unwrapped(optimizer)
    if plain.state:  # torch would make one, with a step counted, of an optimizer that has made no update
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(policy, plain, options=options)
        if writes:
            torch.save(state, folder / OPTIMIZER)
    if writes:
        torch.save(scheduler.state_dict(), folder / SCHEDULER)


def load_optimizer(policy: nn.Module, optimizer: Any, scheduler: Any, folder: Path, *, first: bool) -> None:
    """Load both; the ``first`` rank reads the optimizer's state for all."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    if (file := folder / OPTIMIZER).exists():
        state = torch.load(file, map_location="cpu", weights_only=True) if first else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(policy, _unwrapped(optimizer), state, options=options)
    scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Without accelerate's wrapper."""
    found: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return found
