"""A step in which every group was dropped changes nothing."""

from __future__ import annotations

from typing import Protocol

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class KnowsWhatWasKept(Protocol):
    """The part of the trainer that is looked at."""

    nothing_kept: bool

    @property
    def policy(self) -> PreTrainedModel: ...


class SkipEmptyUpdate(TrainerCallback):
    """Without gradients the optimizer skips every weight, and keeps its own state.

    A zero gradient would not do: Adam's momentum still moves the weights.
    """

    def __init__(self, trainer: KnowsWhatWasKept) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.trainer.nothing_kept:
            for parameter in self.trainer.policy.parameters():
                parameter.grad = None
