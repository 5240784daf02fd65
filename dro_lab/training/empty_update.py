"""An update without anything to learn from changes nothing."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_lab.training.nonfinite import FiniteGuard


class KnowsWhatWasKept(Protocol):
    """The part of the trainer that is looked at."""

    nothing_kept: bool
    accelerator: Any
    guard: FiniteGuard

    @property
    def policy(self) -> PreTrainedModel: ...


class SkipEmptyUpdate(TrainerCallback):
    """Without gradients the optimizer skips every weight, and keeps its own state.

    A zero gradient would not do: Adam's momentum still moves the weights. So an update is skipped where every group was
    dropped, and where its gradient is exactly zero on all ranks: of several updates per sampling round one may hold
    dropped rows alone. Likewise where something of it is not finite on any rank.
    """

    def __init__(self, trainer: KnowsWhatWasKept) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        poisoned = self._on_any_rank(self.trainer.guard.poisoned)
        if poisoned or self.trainer.nothing_kept or self._gradient_is_zero():
            for parameter in self.trainer.policy.parameters():
                parameter.grad = None
        self.trainer.guard.updated(skipped=poisoned)

    def _on_any_rank(self, flag: bool) -> bool:
        accelerator = self.trainer.accelerator
        return bool(accelerator.gather(torch.tensor([int(flag)], device=accelerator.device)).any())

    def _gradient_is_zero(self) -> bool:
        gradients = [p.grad for p in self.trainer.policy.parameters() if p.grad is not None]
        return not self._on_any_rank(bool(torch.stack([g.any() for g in gradients]).any()) if gradients else False)
