"""A trainer's steps, looked at for what is not finite: nothing is computed otherwise than without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dro_lab.errors import NonFiniteError
from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.types import Row


class FiniteSteps:
    """Stands before transformers' trainer in the order of classes, and shows its steps to the guard."""

    guard: FiniteGuard
    rows: Sequence[Row]
    policy: Any
    accelerator: Any
    state: Any

    @contextmanager
    def sampling_looked_at(self, inputs: Sequence[Any]) -> Iterator[None]:
        """Around sampling, scoring and advantages of ``inputs``."""
        self.guard.step = self.state.global_step
        self.guard.forget_logits()
        try:
            yield
        except RuntimeError:  # what torch says of probabilities that are no numbers names neither step nor row
            self._look_at_logits(inputs, fatal=True)
            raise
        self.guard.forget_logits()

    @contextmanager
    def rollouts_looked_at(self, inputs: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> Iterator[None]:
        """Around the scoring of what was sampled: a component's refusal gets step and rows, and is dumped."""
        self._look_at_logits(inputs)
        self.guard.rollouts(self._prompts(inputs), completion_ids)
        try:
            yield
        except NonFiniteError as error:
            if not error.source:  # the guard's own
                raise
            self.guard.refuse(error)

    def _look_at_logits(self, inputs: Sequence[Any], *, fatal: bool = False) -> None:
        if rows := self.guard.bad_logits():
            self.guard.sampling(rows, self._prompts(inputs), fatal=fatal)

    def _prompts(self, inputs: Sequence[Any]) -> list[str]:
        return [self.rows[example["row"]].id for example in inputs]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's."""
        self.guard.forget_logits()
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.guard.loss(loss.detach(), inputs)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's; gradients are looked at before they are clipped."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.accelerator.sync_gradients:
            self.guard.gradients(list(self.policy.named_parameters()))
        return loss
