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
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

ADAPTED = ".base_layer"
"""PEFT's name for the layer inside one that it adapts."""
IN_ADAPTER = ".lora_"
"""What the names of an adapter's own weights hold."""


def underlying(policy: Any) -> PreTrainedModel:
    """The model itself: of a PEFT model the one whose layers it adapted in place."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # PEFT marks that one too


def is_split(policy: nn.Module) -> bool:
    """Whether this device holds a part of the weights only."""
    return isinstance(policy, FSDPModule) or hasattr(next(iter(policy.parameters())), "ds_id")


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


def gradients(policy: nn.Module) -> dict[str, Tensor]:
    """What this process has of each gradient, by name; under ZeRO-3 there is something from backward to update."""
    found = {}
    for name, parameter in policy.named_parameters():
        if hasattr(parameter, "ds_id"):
            from deepspeed.utils import safe_get_local_grad

            part = safe_get_local_grad(parameter) if parameter.requires_grad else None
        else:
            part = parameter.grad
        if part is not None:
            found[name] = part.to_local() if hasattr(part, "to_local") else part
    return found


def whole_gradient(policy: nn.Module, name: str) -> Tensor:
    """All of one; a collective where it is split."""
    parameter = policy.get_parameter(name)
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_full_grad

        found: Tensor = safe_get_full_grad(parameter)
        return found
    assert parameter.grad is not None
    return whole(parameter.grad)


def whole_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names, as the model with its adapter has them, and whole tensors, one after the other.

    All ranks must go through to the end. A tensor with several names comes once.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # FSDP keeps embeddings and head whole between forwards, in the precision of those
    model = underlying(policy)
    persistent = model.state_dict().keys()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            yield name, whole(parameter)
        yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


def plain_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`whole_weights` of the model without adapters, what they add added."""
    model = underlying(policy)
    for name, value in whole_weights(policy):
        owner, _, leaf = name.rpartition(".")
        if IN_ADAPTER in name:
            continue
        if owner.endswith(ADAPTED):
            owner = owner.removesuffix(ADAPTED)
            if leaf == "weight":
                value = value + _product(model.get_submodule(owner)).to(value.device, value.dtype)
        yield f"{owner}.{leaf}" if owner else leaf, value


@torch.no_grad()
def _product(layer: Any) -> Tensor:
    """What adapters add to their layer's weight: ``scale * B A``."""
    total: Tensor | None = None
    for adapter in layer.active_adapters:
        product = whole(layer.lora_B[adapter].weight) @ whole(layer.lora_A[adapter].weight) * layer.scaling[adapter]
        total = product if total is None else total + product
    assert total is not None
    return total.T if getattr(layer, "fan_in_fan_out", False) else total


def plain_copy(
    policy: Any, kind: type[PreTrainedModel], device: torch.device, *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model of its own with the policy's weights and adapter, in evaluation mode; a collective where they are split.

    Args:
        policy: unwrapped.
        kind: its class, before an engine made it its own.
        device: where the copy goes.
        dtype: in which the policy computes; None: that of its weights.
    """
    if device.type == "cpu":
        device = torch.device("cpu")  # DeepSpeed's is cpu:0, to which torch copies a parameter anew, as a mere tensor
    with init_empty_weights(include_buffers=False):
        made = kind(copy.deepcopy(underlying(policy).config))
        if adapters := getattr(policy, "peft_config", None):
            from peft import get_peft_model

            for name, adapter in adapters.items():
                made = get_peft_model(made, adapter, adapter_name=name).get_base_model()
    for name, value in whole_weights(policy):
        kept = value.to(dtype) if dtype and value.is_floating_point() else value
        set_module_tensor_to_device(made, name, device, value=kept)
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
    if model is policy and not is_split(policy):
        if writes:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return
    state = {name: value.to("cpu", copy=True) for name, value in plain_weights(policy) if writes}
    adapter = {f"base_model.model.{name}": whole(w) for name, w in model.named_parameters() if IN_ADAPTER in name}
    if not writes:
        return
    with init_empty_weights(include_buffers=False):
        plain = kind(copy.deepcopy(model.config))
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    if adapter:
        policy.save_pretrained(folder / ADAPTER, state_dict=adapter)
