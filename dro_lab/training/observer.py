"""Watches a run: every step and evaluation goes to the record, the tracker, the console and the alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_lab.console import RunConsole
from dro_lab.errors import UserError
from dro_lab.evaluation.evaluate import Evaluation
from dro_lab.pipeline import step_metrics
from dro_lab.record import RunRecord
from dro_lab.record.rows import rollout_rows, token_rows
from dro_lab.record.summary import Alarm
from dro_lab.training.alarms import Alarms
from dro_lab.training.clock import PartClock
from dro_lab.training.rollouts import ScoredStep

Evaluate = Callable[[int, Evaluation | None], Evaluation]


@dataclass
class RunObserver(TrainerCallback):
    """The run's eyes and memory.

    Args:
        evaluate: ``evaluate(step, base) -> Evaluation`` on held-out rows.
        every: steps between evaluations.
        planned: optimizer steps of the run.
    """

    record: RunRecord
    tracker: Any
    console: RunConsole
    clock: PartClock
    evaluate: Evaluate
    tokenizer: Any
    every: int
    planned: int
    token_rows: int
    evaluations: list[Evaluation] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    steps_done: int = 0
    _watch: Alarms = field(default_factory=Alarms)
    _training_since: float = 0.0

    # -------------------------------------------------------------------------------- training rollouts

    def rollouts(self, step: ScoredStep, advantages_PG: Tensor) -> Mapping[str, float]:
        """One sampling round: rows to disk, metrics back to the trainer's log."""
        scored = step.scored
        self.record.rollouts(_rows(step, advantages_PG))
        for earlier, places in step.replaced:  # what refill took out teaches nothing, but is not lost
            rows, size = _rows(earlier, torch.zeros_like(earlier.scored.rewards.outcome_PG)), advantages_PG.shape[1]
            self.record.rollouts([rows[p * size + g] for p in places for g in range(size)])
        # the first prompt of every step: what training looked at, for the report's heat map
        self.record.tokens(
            token_rows(
                scored.groups, scored.stats, scored.rewards, tokenizer=self.tokenizer, prompts=[0], split="train"
            )
        )
        return {
            **step_metrics(scored, step.reward_name),
            **step.metrics,
            "quality/sampled": _nanmean(step.quality_PG),
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.console.start(self.planned)
        self._training_since = self.clock.elapsed

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:  # the trainer's closing summary holds no step
            return
        numbers = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}
        step = state.global_step
        self.record.metrics(numbers, step=step)
        self._mirror(lambda: self.tracker.metrics(numbers, step=step))
        spent = self.clock.elapsed - self._training_since
        self.console.step(
            step,
            self.planned,
            reward=numbers.get("reward/sampled", math.nan),
            quality=numbers.get("quality/sampled", math.nan),
            reasoning=numbers.get("rollouts/reasoning_tokens", math.nan),
            seconds_left=spent / step * (self.planned - step),
        )
        self._raise(step, self._watch.step(numbers))
        if step % self.every == 0:
            self.run_evaluation(step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps_done = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.evaluations or self.evaluations[-1].step != state.global_step:
            self.run_evaluation(state.global_step)

    # -------------------------------------------------------------------------------- evaluations

    def run_evaluation(self, step: int) -> Evaluation:
        """Evaluate now; the first evaluation is the base that later ones are compared with."""
        with self.clock.part("evaluation"):
            base = self.evaluations[0] if self.evaluations else None
            evaluation = self.evaluate(step, base)
            self.evaluations.append(evaluation)
            estimates = list(evaluation.estimates.values())
            self.record.evaluation(estimates, step=step, split=evaluation.split)
            scored = evaluation.step_result.scored
            self.record.tokens(
                token_rows(
                    scored.groups,
                    evaluation.step_result.stats_for_reports,
                    scored.rewards,
                    tokenizer=self.tokenizer,
                    prompts=range(min(self.token_rows, len(evaluation.rows))),
                    split=evaluation.split,
                )
            )
            self._mirror(lambda: self.tracker.evaluation(estimates, step=step, split=evaluation.split))
        quality = evaluation.estimates["quality"]
        self.console.evaluation(step, quality)
        if base is not None:
            self._raise(step, self._watch.evaluation(quality.value, base.estimates["quality"].value))
        return evaluation

    def _mirror(self, call: Callable[[], None]) -> None:
        """The record is what counts: a tracker that goes away is said once, and the run goes on without it."""
        try:
            call()
        except UserError as error:
            self.console.warn(f"tracking stopped, the run and its record go on: {error}")

    def _raise(self, step: int, messages: list[str]) -> None:
        for message in messages:
            self.alarms.append(Alarm(step=step, message=message))
            self.console.warn(f"step {step}: {message}")


def _rows(step: ScoredStep, advantages_PG: Tensor) -> list[dict[str, Any]]:
    scored = step.scored
    return rollout_rows(
        scored.groups,
        scored.rewards,
        advantages_PG=advantages_PG,
        keep_PG=scored.keep_PG,
        reasons_PG=scored.reasons_PG,
        quality_PG=step.quality_PG,
    )


def _nanmean(values: Tensor) -> float:
    return values.nanmean().item()
