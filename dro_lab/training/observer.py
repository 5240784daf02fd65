"""Watches a run: every step and evaluation goes to the record, the tracker, the console and the health monitors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_lab.console import RunConsole
from dro_lab.errors import UserError
from dro_lab.evaluation.evaluate import Evaluation, Evaluator, Part
from dro_lab.health import Alert, Watch
from dro_lab.health.measure import answer_metrics
from dro_lab.launch.group import same
from dro_lab.pipeline import step_metrics
from dro_lab.record import RunRecord
from dro_lab.record.rows import answer_rows, rollout_rows, token_rows
from dro_lab.record.summary import Alarm
from dro_lab.sweep.trial import ALONE, RunTrial
from dro_lab.training.clock import PartClock
from dro_lab.training.rollouts import ScoredStep
from dro_lab.types import RolloutGroups

LEFT_OUT = "refill: left out (no spread in its rewards, or not needed)"
"""Why a sampled rollout that neither gate, filter nor mask refused teaches nothing."""

Measure = Callable[[RolloutGroups], Mapping[str, float]]
"""Metrics of a step's rollouts."""


@dataclass
class RunObserver(TrainerCallback):
    """The run's eyes and memory.

    Args:
        evaluator: makes the evaluator of held-out rows; called when the first one is due.
        watch: the health monitors.
        measures: of each step's rollouts, for the log and the monitors.
        counts: the judge's counts since the start, for the log.
        trial: the sweep's trial that the run is; it may stop the run at an evaluation.
        every: steps between evaluations.
        keep_best: told each evaluation, so that the policy which did best is saved.
        extras_every: whether each evaluation has greedy answers and further splits, or the first and last alone.
        planned: optimizer steps of the run.
    """

    record: RunRecord
    tracker: Any
    console: RunConsole
    clock: PartClock
    evaluator: Callable[[], Evaluator]
    watch: Watch
    tokenizer: Any
    every: int
    planned: int
    token_rows: int
    extras_every: bool = False
    measures: Sequence[Measure] = (answer_metrics,)
    counts: Callable[[], Mapping[str, float]] = dict
    trial: RunTrial = ALONE
    evaluations: list[Evaluation] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    steps_done: int = 0
    empty_steps: int = 0  # in which gate, filter and masks left nothing to learn from: no update was made
    stopped: str | None = None  # why a monitor or the sweep ended the training
    keep_best: Callable[[Evaluation], None] = lambda evaluation: None
    _held_out: Mapping[str, float] = field(default_factory=dict)  # what monitors know of the last evaluation
    _training_since: float = 0.0
    _first: int = 0  # steps that an earlier process did
    _sampled: Counter[str] = field(default_factory=Counter)  # rollouts and tokens since the start

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on; evaluations are read back from the record."""
        return {
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "steps_done": self.steps_done,
            "empty_steps": self.empty_steps,
            "held_out": dict(self._held_out),
            "sampled": dict(self._sampled),
        }

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process."""
        self.alarms = [Alarm(**alarm) for alarm in carried["alarms"]]
        self.steps_done, self.empty_steps = carried["steps_done"], carried["empty_steps"]
        self._held_out, self._sampled = carried["held_out"], Counter(carried["sampled"])

    # -------------------------------------------------------------------------------- training rollouts

    def rollouts(self, step: ScoredStep, advantages_PG: Tensor) -> Mapping[str, float]:
        """One sampling round: rows to disk, metrics back to the trainer's log."""
        scored = step.scored
        self._keep(_rows(step, advantages_PG))
        for earlier, places in step.replaced:  # what refill took out teaches nothing, but is not lost
            rows, size = _rows(earlier, torch.zeros_like(earlier.scored.rewards.outcome_PG)), advantages_PG.shape[1]
            taken_out = [rows[p * size + g] for p in places for g in range(size)]
            self._keep([{**row, "kept": False, "reason": row["reason"] or LEFT_OUT} for row in taken_out])
        # the first prompt of every step: what training looked at, for the report's heat map
        self.record.tokens(
            token_rows(
                scored.groups, scored.stats, scored.rewards, tokenizer=self.tokenizer, prompts=[0], split="train"
            )
        )
        return {
            **step_metrics(scored, step.reward_name),
            **step.metrics,
            **{name: value for measure in self.measures for name, value in measure(scored.groups).items()},
            "quality/sampled": _nanmean(step.quality_PG),
        }

    def _keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.record.rollouts(rows)
        self._sampled["rollouts"] += len(rows)
        self._sampled["tokens"] += sum(row["completion_tokens"] for row in rows)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.console.start(self.planned, done=state.global_step)
        self._training_since, self._first = self.clock.elapsed, state.global_step

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
        numbers.update({f"cost/{name}": value for name, value in self._cost().items()})
        numbers.update({f"judge/{name}": float(value) for name, value in self.counts().items()})
        self.empty_steps += numbers.get("rollouts/kept_share") == 0.0
        numbers["rollouts/empty_steps"] = float(self.empty_steps)
        step = state.global_step
        alerts = self.watch({**numbers, **self._held_out})
        numbers.update(self.watch.metrics())
        self.record.metrics(numbers, step=step)
        self._mirror(lambda: self.tracker.metrics(numbers, step=step))
        spent = self.clock.elapsed - self._training_since
        self.console.step(
            step,
            self.planned,
            reward=numbers.get("reward/sampled", math.nan),
            quality=numbers.get("quality/sampled", math.nan),
            reasoning=numbers.get("rollouts/reasoning_tokens", math.nan),
            seconds_left=spent / (step - self._first) * (self.planned - step),
            health=self.watch.tag,
        )
        self._raise(step, alerts)
        if step % self.every == 0:
            self.run_evaluation(step, extras=self.extras_every or step == self.planned or self.stopped is not None)
        self.stopped = same(self.stopped)  # clocks and rounding differ from rank to rank, and all must end together
        if self.stopped is not None:
            control.should_training_stop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps_done = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.evaluations or self.evaluations[-1].step != state.global_step:
            self.run_evaluation(state.global_step)
        else:
            self._complete_last()
        self._write_answers(self.evaluations[-1])

    # -------------------------------------------------------------------------------- evaluations

    def run_evaluation(self, step: int, *, extras: bool = True) -> Evaluation:
        """Evaluate now; the first evaluation is the base that later ones are compared with.

        ``extras``: also greedy answers and further splits.
        """
        with self.clock.part("evaluation"):
            base = self._base
            evaluation = same(self.evaluator()(step, base, extras=extras))
            self.evaluations.append(evaluation)
            self._write(step, evaluation.parts)
            if base is None:
                self._write_answers(evaluation)
            self.keep_best(evaluation)
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
        quality = evaluation.estimates["quality"]
        if self.planned:  # else the table says it
            self.console.evaluation(step, quality)
        if base is not None:
            self._held_out = {
                "eval/quality": quality.value,
                "eval/quality/start": base.estimates["quality"].value,
            }
            self._raise(step, self.watch(self._held_out))
            self._ask_trial(step, evaluation)
        return evaluation

    def _ask_trial(self, step: int, evaluation: Evaluation) -> None:
        """A sweep may stop the run where it is behind; at the last step there is nothing left to stop."""
        if self.stopped is None and step < self.planned:
            self.stopped = self.trial.report(step, evaluation)
            if self.stopped is not None:
                self.console.say(f"stop     {self.stopped}")

    def _complete_last(self) -> None:
        """Give the last evaluation the parts that it was made without: training ended where it was not to be known."""
        last = self.evaluations[-1]
        with self.clock.part("evaluation"):
            whole = same(self.evaluator().with_extras(last, self._base if len(self.evaluations) > 1 else None))
            self._write(last.step, whole.parts[len(last.parts) :])
        self.evaluations[-1] = whole

    @property
    def _base(self) -> Evaluation | None:
        return self.evaluations[0] if self.evaluations else None

    def _write(self, step: int, parts: Sequence[Part]) -> None:
        for part in parts:
            estimates, split, decoding = list(part.estimates.values()), part.split, part.decoding
            self.record.evaluation(estimates, step=step, split=split, decoding=decoding)
            self._mirror(partial(self.tracker.evaluation, estimates, step=step, split=split, decoding=decoding))

    def _write_answers(self, evaluation: Evaluation) -> None:
        for part in evaluation.parts:
            rows = answer_rows(
                part.groups,
                step=evaluation.step,
                split=part.split,
                decoding=part.decoding,
                quality_PG=part.quality_PG.tolist(),
                win_rate_P=_listed(part.wins.get("win_rate")),
                order_disagreement_P=_listed(part.wins.get("order_disagreement")),
            )
            self.record.answers(rows)

    def _cost(self) -> dict[str, float]:
        """What training has taken so far, refills included: sampled completions, their tokens, seconds."""
        seconds = self.clock.report()
        return {
            "rollouts": float(self._sampled["rollouts"]),
            "tokens": float(self._sampled["tokens"]),
            "seconds": round(sum(seconds[part] for part in ("sampling", "scoring", "training")), 3),
        }

    def _mirror(self, call: Callable[[], None]) -> None:
        """The record is what counts: a tracker that goes away is said once, and is brought the rest at the end."""
        try:
            call()
        except UserError as error:
            self.console.warn(f"tracking stopped; the run goes on, and its record keeps all of it: {error}")

    def _raise(self, step: int, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self.alarms.append(Alarm(step=step, message=alert.message, monitor=alert.monitor, action=alert.action))
            self.console.warn(f"step {step}: {alert.message}")
            if alert.action == "stop" and self.stopped is None and step < self.planned:
                self.stopped = f"health.{alert.monitor} at step {step}: {alert.message}"
                self.console.say(f"stop     health.{alert.monitor}.action=stop: training ends here, at step {step}")


def _rows(step: ScoredStep, advantages_PG: Tensor) -> list[dict[str, Any]]:
    scored = step.scored
    return rollout_rows(
        scored.groups,
        scored.rewards,
        advantages_PG=advantages_PG,
        keep_PG=scored.keep_PG,
        reasons_PG=scored.reasons_PG,
        quality_PG=step.quality_PG,
        verdicts_PG=scored.gate.verdicts_PG,
    )


def _listed(values: Any) -> list[float] | None:
    return None if values is None else values.tolist()


def _nanmean(values: Tensor) -> float:
    return values.nanmean().item()
