"""The one seam with TRL: GRPOTrainer with two overridden methods, and nothing copied from it.

Stage A replaces how rewards are computed (`_calculate_rewards`), stage B TRL's advantages, and takes dropped groups out
of the loss (`_generate_and_score_completions`). To upgrade TRL 1.16.0, move the pin of tests/contract/test_trl_seam.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer

from dro_lab.launch.group import ranks
from dro_lab.resume.steps import ResumableSteps
from dro_lab.training.arguments import placeholder
from dro_lab.training.clock import PartClock
from dro_lab.training.colocated import starting_vllm
from dro_lab.training.dropped import as_rows, loss_mask, per_rollout, take_out_dropped
from dro_lab.training.empty_update import SkipEmptyUpdate
from dro_lab.training.finite_steps import FiniteSteps
from dro_lab.training.lending import LentPolicy
from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.training.ranks import over_all_ranks, whole_step
from dro_lab.training.refill import Refill
from dro_lab.training.rollouts import RolloutScorer, ScoredStep, StepObserver
from dro_lab.training.weights import underlying
from dro_lab.types import Row


class LabTrainer(FiniteSteps, ResumableSteps, LentPolicy, GRPOTrainer):
    """GRPO whose rewards, masks and advantages come from the lab's pipeline.

    Args:
        scoring: turns completions into scored rollouts.
        rows: the training rows; the data set handed to TRL holds their prompts and indices.
        observer: what to do with each step's rollouts.
        clock: seconds by part.
        refill: samples again for the groups that teach nothing; None: they stay empty.
        guard: catches what is not finite; None: it stops the run. Further arguments are GRPOTrainer's own.
    """

    def __init__(
        self,
        *,
        scoring: RolloutScorer,
        rows: Sequence[Row],
        observer: StepObserver,
        clock: PartClock,
        refill: Refill | None = None,
        guard: FiniteGuard | None = None,
        **kwargs: Any,
    ) -> None:
        self.guard = guard or FiniteGuard(action="stop", folder=Path(kwargs["args"].output_dir), say=print)
        self.scoring, self.rows, self.observer, self.clock, self.refill = scoring, rows, observer, clock, refill
        self._scored: ScoredStep | None = None
        self.nothing_kept = False  # in all that was sampled for the coming update
        self._sampled_at = -1  # updates done when it last sampled
        with starting_vllm(self):
            super().__init__(reward_funcs=[placeholder(scoring.pipeline.reward.name)], **kwargs)
        self.ranks = scoring.ranks = self.guard.ranks = ranks()
        self._kl_weight = self.beta
        self.add_callback(SkipEmptyUpdate(self))
        self.kind = type(underlying(self.policy))  # before an engine makes it its own
        self.guard.watch(underlying(self.policy))
        if underlying(self.policy) is not self.policy:  # PEFT's model calls the one it adapted past its hooks
            self.guard.watch(self.policy)

    @property
    def policy(self) -> PreTrainedModel:
        """The model being trained, unwrapped."""
        return self.accelerator.unwrap_model(self.model)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Sequence[Sequence[int]]
    ) -> Tensor:
        with (
            self.clock.part("scoring"),
            self.accelerator.autocast(),
            self.rollouts_looked_at(inputs, completion_ids_list),
        ):
            indices = tuple(example["row"] for example in inputs[:: self.num_generations])
            scored = self.scoring.score(
                self.readable(),
                [self.rows[index] for index in indices],
                completion_ids_list,
                group_size=int(self.num_generations or 0),
                step=self.state.global_step,
                progress=self.state.global_step / max(1, self.state.max_steps),
            )
            self.look_at_scores(scored)
            self._scored = replace(scored, rows=indices)
            outcome_B1 = self._scored.scored.rewards.outcome_PG.reshape(-1, 1).to(self.accelerator.device)
            return gather(outcome_B1)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self.clock.part("sampling"):
            batch, step = self._sample_and_score(inputs)
            if self.refill is not None:
                batch, step = self.refill(batch, step, sample=self._sample_and_score, trainer=self)
        with self.clock.part("scoring"):
            shape = step.scored.groups.shape
            loss_mask_BT = loss_mask(batch)
            mask_PGC = loss_mask_BT.bool().cpu().unflatten(0, shape)
            advantages = self.scoring.pipeline.advantages(step.scored, mask_PGC, over_all_ranks(self.ranks))
            advantages = self.guard.advantages(advantages)
            rows = as_rows(advantages, width=loss_mask_BT.shape[1])
            batch["advantages"] = rows.to(batch["completion_ids"].device)
            all_ranks = self.accelerator.gather
            empty, scale = take_out_dropped(batch, step.scored, loss_type=self.loss_type, gather=all_ranks)
            self.beta = self._kl_weight * scale
            # gradients of several sampling rounds may add up to one update: one of them that teaches is enough
            self.nothing_kept = empty and (self.nothing_kept or self.state.global_step != self._sampled_at)
            self._sampled_at = self.state.global_step
            for name, value in self.observer(*whole_step(step, per_rollout(advantages), self.ranks)).items():
                self._metrics["train"][name].append(value)
        return batch

    def _sample_and_score(self, inputs: Any) -> tuple[dict[str, Any], ScoredStep]:
        with self.sampling_looked_at(inputs):
            batch = super()._generate_and_score_completions(inputs)
        assert self._scored is not None  # TRL has called _calculate_rewards
        return batch, self._scored
