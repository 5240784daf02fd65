"""What is read from logits, in float32 and in chunks, and under which circumstances a policy is asked."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the LM head's output alone. Some models scale or cap them, and say so in their config."""
    if model.get_output_embeddings() is None or model.base_model is model:
        return False
    config = model.config.get_text_config().to_dict()
    scaled = (key for key in config if re.search(r"logit|lm_head|output_multiplier", key))
    return all(config[key] in (None, False, 1) for key in scaled)


def target_logps(logits_NV: Tensor, target_N: Tensor, *, ranks: bool) -> Tensor:
    """(N, 1): float32 log-softmax at the targets; with ``ranks`` (N, 2): how many words are likelier, behind it."""
    logits_NV = logits_NV.float()
    target_N1 = logits_NV.gather(1, target_N[:, None])
    logps_N1 = target_N1 - logits_NV.logsumexp(1, keepdim=True)
    if not ranks:
        return logps_N1
    return torch.cat([logps_N1, (logits_NV > target_N1).sum(1, keepdim=True).float()], 1)


def entropies(logits_NV: Tensor) -> Tensor:
    """(N,) float32: the entropy over the whole vocabulary, in nats. A logit of -inf counts as probability 0."""
    logps_NV = logits_NV.float().log_softmax(1)
    return -(logps_NV.exp() * logps_NV.clamp(min=torch.finfo(torch.float32).min)).sum(1)


def through_head(model: PreTrainedModel, hidden_ND: Tensor, target_N: Tensor, *, chunk: int, ranks: bool) -> Tensor:
    """`target_logps` of hidden states, ``chunk`` positions through the LM head at once; on the CPU."""
    head = model.get_output_embeddings()
    pairs = zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True)
    return torch.cat([target_logps(head(hidden), target, ranks=ranks) for hidden, target in pairs]).cpu()


def entropies_through_head(model: PreTrainedModel, hidden_ND: Tensor, *, chunk: int) -> list[float]:
    """`entropies` of hidden states, ``chunk`` positions through the LM head at once."""
    head = model.get_output_embeddings()
    return torch.cat([entropies(head(hidden)) for hidden in hidden_ND.split(chunk)]).tolist()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module's ``training`` flag is as before, also after an error."""
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


class WithoutAdapter:
    """A policy that is trained by an adapter, as it was before: its layers with the adapter switched off.

    Costs no second copy of the weights. It is asked through `asked` alone.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.follow(model)

    def follow(self, model: PreTrainedModel) -> None:
        """Take this model's layers from now on; it is not kept alive."""
        self._found = weakref.ref(model)

    @property
    def _model(self) -> PreTrainedModel:
        model = self._found()
        assert model is not None, "the policy's plain copy is gone"
        return model

    @property
    def config(self) -> Any:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the model itself."""
        return (weight for name, weight in self._model.named_parameters() if ".lora_" not in name)

    @contextmanager
    def switched_off(self) -> Iterator[PreTrainedModel]:
        """The model, its adapter off inside."""
        layers: list[Any] = [module for module in self._model.modules() if hasattr(module, "lora_A")]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield self._model
        finally:
            for layer in layers:
                layer.enable_adapters(True)


@contextmanager
def asked(policy: PreTrainedModel | WithoutAdapter) -> Iterator[PreTrainedModel]:
    """The model to ask for probabilities: dropout off inside, an adapter off where that is the policy."""
    chosen = policy.switched_off() if isinstance(policy, WithoutAdapter) else nullcontext(policy)
    with chosen as model, evaluating(model):
        yield model
