"""The policy's weights as one plain model has them, however training holds them.

Under FSDP2 and ZeRO-3 each device holds a part of every tensor, and each forward is a collective of all ranks: ranks
that ask the policy for different numbers of texts would wait for each other for ever. So what asks it for probabilities
reads a plain copy, gathered once a step, and needs nobody. With LoRA the plain weights are those with the adapter's
product added, which is also what is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

ADAPTED = ".base_layer"
"""PEFT's name for the layer inside one that it adapts."""


def underlying(policy: Any) -> PreTrainedModel:
    """The model itself: of a PEFT model the one whose layers it adapted in place."""
    return policy.get_base_model() if hasattr(policy, "peft_config") else policy


def is_split(policy: nn.Module) -> bool:
    """Whether this device holds a part of the weights only."""
    first = next(iter(policy.parameters()))
    return hasattr(first, "full_tensor") or hasattr(first, "ds_id")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; a collective where it is split."""
    if hasattr(tensor, "full_tensor"):  # FSDP2's
        gathered: Tensor = tensor.full_tensor()
        return gathered
    if hasattr(tensor, "ds_id"):  # ZeRO-3's
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.data.clone()
    return tensor.data


def plain_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors, one after the other, an adapter's product added; all ranks must go through to the end.

    A tensor with several names comes once.
    """
    model = underlying(policy)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner, _, leaf = name.rpartition(".")
            if ".lora_" in name:
                continue
            value = whole(parameter)
            if owner.endswith(ADAPTED):
                owner = owner.removesuffix(ADAPTED)
                if leaf == "weight":
                    value = value + _product(model.get_submodule(owner)).to(value.device, value.dtype)
            yield f"{owner}.{leaf}" if owner else leaf, value
        persistent = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in persistent:
                yield name.replace(f"{ADAPTED}.", "."), buffer


def _product(layer: Any) -> Tensor:
    """What an adapter adds to its layer's weight: ``scale * B A``."""
    total: Tensor | None = None
    for adapter in layer.active_adapters:
        product = whole(layer.lora_B[adapter].weight) @ whole(layer.lora_A[adapter].weight) * layer.scaling[adapter]
        total = product if total is None else total + product
    assert total is not None
    return total.T if getattr(layer, "fan_in_fan_out", False) else total


def plain_copy(policy: nn.Module, kind: type[PreTrainedModel], device: torch.device) -> PreTrainedModel:
    """A plain model of its own with the policy's weights, in evaluation mode; a collective where they are split."""
    config = copy.deepcopy(underlying(policy).config)
    with init_empty_weights(include_buffers=False):
        made = kind(config)
    for name, value in plain_weights(policy):
        set_module_tensor_to_device(made, name, device, value=value)
    made.tie_weights()
    made.requires_grad_(False)
    nn.Module.to(made, device)
    return made.eval()


ADAPTER = "adapter"
"""The folder, inside a saved policy's, of the adapter by itself."""


def save_policy(policy: Any, tokenizer: Any, folder: Path, *, kind: type[PreTrainedModel], writes: bool = True) -> None:
    """Save the policy as a plain checkpoint that anything can load, and its adapter beside it where it has one.

    Args:
        policy: unwrapped.
        kind: its class, before an engine made it its own.
        writes: whether this process does; of several all must call it, since split weights are gathered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = underlying(policy)
    if model is policy and not is_split(model):
        if writes:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return
    state = {name: value.to("cpu", copy=True) for name, value in plain_weights(policy) if writes}
    adapter = {f"base_model.model.{n}": whole(w) for n, w in model.named_parameters() if ".lora_" in n}
    if not writes:
        return
    with init_empty_weights(include_buffers=False):
        plain = kind(copy.deepcopy(model.config))
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    if adapter:
        policy.save_pretrained(folder / ADAPTER, state_dict=adapter)
