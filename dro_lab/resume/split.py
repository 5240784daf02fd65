"""A policy that is split over the devices, in a checkpoint.

Under FSDP2 its weights are saved whole, as safetensors, and its optimizer whole; under ZeRO-3 each rank saves its part
of both. All but the weights are files that torch reads with ``weights_only``. The checkpoints that accelerate and
DeepSpeed would write are pickles, or have one for their index. All ranks must call what is here.
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
ZERO = "zero_{rank}.pt"
SCALER = "loss_scaler"
PLAIN = (bool, int, float, list, dict, torch.Tensor)
"""What DeepSpeed's state may hold here: the rest are objects, which only a pickle could bring back."""


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


def save_optimizer(policy: nn.Module, optimizer: Any, folder: Path, *, writes: bool) -> None:
    """Save the optimizer's state, where it has one yet."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict  # half a second

    plain = _unwrapped(optimizer)
    if plain.state:  # torch would make one, with a step counted, of an optimizer that has made no update
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(policy, plain, options=options)
        if writes:
            torch.save(state, folder / OPTIMIZER)


def load_optimizer(policy: nn.Module, optimizer: Any, folder: Path, *, first: bool) -> None:
    """Load it, where there is one; the ``first`` rank reads it for all."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    if (file := folder / OPTIMIZER).exists():
        state = torch.load(file, map_location="cpu", weights_only=True) if first else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(policy, _unwrapped(optimizer), state, options=options)


def save_zero(engine: Any, folder: Path, *, rank: int) -> None:
    """Save what DeepSpeed says of this rank's part, in a file of its own: weights and the optimizer's state."""
    state = engine.optimizer.state_dict()
    scaler = {name: value for name, value in vars(state[SCALER]).items() if type(value) in PLAIN}
    plain = {name: value for name, value in state.items() if name != SCALER and type(value) in PLAIN}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({**plain, SCALER: scaler}, folder / ZERO.format(rank=rank))


def load_zero(engine: Any, folder: Path, *, rank: int, ranks: int) -> None:
    """Load it into an engine of as many ranks; what is no number or tensor is the new engine's."""
    optimizer = engine.optimizer
    saved = torch.load(folder / ZERO.format(rank=rank), map_location="cpu", weights_only=True)
    state = optimizer.state_dict()
    vars(state[SCALER]).update(saved.pop(SCALER))
    optimizer.checkpoint_event_prologue()
    optimizer.load_state_dict([state | saved] * ranks)  # of which it takes its own rank's
    optimizer.checkpoint_event_epilogue()


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Without accelerate's wrapper."""
    found: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return found
