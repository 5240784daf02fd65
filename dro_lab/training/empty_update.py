"""An update without anything to learn from changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.training.weights import gradients
from dro_lab.training.zero import ask_before_updates, updates_itself


class KnowsWhatWasKept(Protocol):
    """The part of the trainer that is looked at."""

    nothing_kept: bool
    accelerator: Any
    guard: FiniteGuard
    model_wrapped: Any

    @property
    def policy(self) -> PreTrainedModel: ...

    def look_at_gradients(self) -> Mapping[str, Tensor]: ...


class SkipEmptyUpdate(TrainerCallback):
    """Without gradients the optimizer skips every weight, and keeps its own state.

    A zero gradient would not do: Adam's momentum still moves the weights. So an update is skipped where every group was
    dropped, and where its gradient is exactly zero on all ranks: of several updates per sampling round one may hold
    dropped rows alone. Likewise where something of it is not finite on any rank.
    """

    def __init__(self, trainer: KnowsWhatWasKept) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if updates_itself(self.trainer.accelerator):
            ask_before_updates(self.trainer.model_wrapped, self._norm_of_left_out)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if updates_itself(self.trainer.accelerator):
            return
        if self._skips(gradients(self.trainer.policy)):
            for parameter in self.trainer.policy.parameters():
                parameter.grad = None

    def _norm_of_left_out(self) -> float | None:
        parts = self.trainer.look_at_gradients()
        if not self._skips(parts):
            return None
        squares = torch.stack([part.float().square().sum() for part in parts.values()]).sum()
        return float(self.trainer.accelerator.gather(squares.reshape(1)).sum().sqrt())

    def _skips(self, parts: Mapping[str, Tensor]) -> bool:
        poisoned = self._on_any_rank(self.trainer.guard.poisoned)
        skips = poisoned or self.trainer.nothing_kept or self._all_zero(parts)
        self.trainer.guard.updated(skipped=poisoned)
        return skips

    def _on_any_rank(self, flag: bool) -> bool:
        accelerator = self.trainer.accelerator
        return bool(accelerator.gather(torch.tensor([int(flag)], device=accelerator.device)).any())

    def _all_zero(self, parts: Mapping[str, Tensor]) -> bool:
        return not self._on_any_rank(
            bool(torch.stack([part.any() for part in parts.values()]).any()) if parts else False
        )
