"""A trainer's steps, looked at for what is not finite: nothing is computed otherwise than without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dro_lab.errors import NonFiniteError
from dro_lab.pipeline import infinite_PG, unexplained_nan
from dro_lab.training.findings import marked
from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.training.rollouts import ScoredStep
from dro_lab.training.weights import gradients, whole_gradient
from dro_lab.training.zero import updates_itself
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
        with self._sampling():
            yield
        self.guard.forget_logits()

    def sample(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        """Samples for an evaluation, by a policy that has probabilities.

        Raises:
            NonFiniteError: it has none.
        """
        with self._sampling():
            found: list[list[int]] = super().sample(*args, **kwargs)  # type: ignore[misc]
        self.guard.evaluated()
        return found

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Around what is sampled: a new phase of the guard, at this step."""
        self._at_this_step()
        self.guard.forget_logits()
        self.guard.sampling_now = True
        try:
            yield
        finally:
            self.guard.sampling_now = False

    @contextmanager
    def rollouts_looked_at(self, inputs: Sequence[Any], completion_ids: Sequence[Sequence[int]]) -> Iterator[None]:
        """Around the scoring of what was sampled: a component's refusal gets step and rows, and is dumped.

        All ranks must come here, and hear at both ends what the others found.
        """
        self.guard.sampling_now = False
        if rows := self.guard.bad_logits():
            self.guard.sampling(rows, self._prompts(inputs), completion_ids)
        self.guard.agree()
        self.guard.rollouts(self._prompts(inputs), completion_ids)
        try:
            yield
        except NonFiniteError as error:
            if error.together:  # the guard's own
                raise
            self.guard.refuse(error)
            self.guard.agree()
            raise
        self.guard.agree()

    def look_at_scores(self, step: ScoredStep) -> None:
        """What was measured on the rollouts, and their rewards."""
        self.guard.measured(step.stats_for_reports)
        scored = step.scored
        given = scored.given or scored.sampled
        infinite = [] if scored.given is None else marked(infinite_PG(scored.given))
        nan = [] if self.guard.poisoned else marked(unexplained_nan(scored))
        self.guard.rewards(step.reward_name, given.outcome_PG, infinite=infinite, nan=nan)

    def _at_this_step(self) -> None:
        self.guard.step = self.state.global_step

    def _prompts(self, inputs: Sequence[Any]) -> list[str]:
        return [self.rows[example["row"]].id for example in inputs]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's."""
        self._at_this_step()
        self.guard.forget_logits()
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.guard.loss(loss.detach(), inputs)
        self.guard.agree()  # before the gradients: DeepSpeed's backward already makes the update
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's; gradients are looked at before they are clipped."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._at_this_step()
        if self.accelerator.sync_gradients and not updates_itself(self.accelerator):
            self.look_at_gradients()
        return loss

    def look_at_gradients(self) -> Mapping[str, Tensor]:
        """What this rank has of them, shown to the guard; all ranks must call it."""
        parts = gradients(self.policy)
        self.guard.gradients(parts, lambda name: whole_gradient(self.policy, name))
        return parts
