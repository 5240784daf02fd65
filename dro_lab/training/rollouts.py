"""From TRL's flat lists to the lab's types, and through stage A of the pipeline.

Training and evaluation take the same way, so a held-out reward is computed as a training reward is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from dro_lab.launch.group import Ranks
from dro_lab.pipeline import Pipeline, Scored, State
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat, SplitGroups, Splitter, thinking_mode
from dro_lab.scoring.stats import FIELDS, Quality, Verdicts, collect, scored_with
from dro_lab.training.policies import Policies
from dro_lab.training.ranks import score_together
from dro_lab.types import Need, Prompt, RolloutGroups, Row, Stat, TokenStats


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredStep:
    """One sampling round after stage A, with what reports want beside what the components declared."""

    scored: Scored
    quality_PG: Tensor  # by the data set's metric, nan where it cannot judge
    stats_for_reports: TokenStats
    reward_name: str
    rows: tuple[int, ...] = ()  # indices of the training rows, one a group
    replaced: tuple[tuple[ScoredStep, tuple[int, ...]], ...] = ()  # groups that refill took out, by step
    metrics: Mapping[str, float] = field(default_factory=dict)  # of refill


StepObserver = Callable[[ScoredStep, Tensor], Mapping[str, float]]
"""Called once per sampling round with the scored rollouts and advantages (P, G); returns metrics to log."""


class RolloutScorer:
    """Turns sampled completions into scored rollouts.

    Args:
        tokenizer: of the policy.
        fmt: how reasoning and answer are laid out.
        pipeline: reward, gate, filter, estimator.
        scorer: of reference tokens.
        quality: of the answers, for the verifier need and for reports.
        verdicts: of the run's judge on the rows' rubrics.
        policies: the copies of the policy that may be asked for probabilities.
        chat_template_kwargs: passed to the chat template, as TRL does.
        eos_token_ids: every id that ends a completion.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        fmt: ReasoningFormat,
        pipeline: Pipeline,
        scorer: ReferenceScorer,
        quality: Quality,
        verdicts: Verdicts,
        chat_template_kwargs: Mapping[str, Any],
        policies: Policies | None = None,
        eos_token_ids: Iterable[int] | None = None,
    ) -> None:
        self.tokenizer, self.fmt, self.pipeline, self.scorer = tokenizer, fmt, pipeline, scorer
        self.quality, self.verdicts, self.policies = quality, verdicts, policies or Policies()
        self.state: State = {}
        self.ranks = Ranks()  # the trainer says which there are
        self.chat_template_kwargs = dict(chat_template_kwargs)
        self.splitter = Splitter(tokenizer, fmt, eos_token_ids=eos_token_ids)

    def carried(self) -> Mapping[str, Any]:
        """What a later process must know to go on: the memory of gate and filter, and when the lagged policy is due."""
        return {"state": self.state, "refreshed": self.policies.refreshed}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on behind an earlier process; the lagged policy's weights are brought beside it."""
        self.state = carried["state"]
        self.policies.refreshed = carried["refreshed"]

    def render(self, prompts: Sequence[Prompt]) -> list[str]:
        """The prompts as the policy sees them."""
        return self.tokenizer.apply_chat_template(
            [list(prompt) for prompt in prompts],
            add_generation_prompt=True,
            tokenize=False,
            **self.chat_template_kwargs,
        )

    def prompt_ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of the rendered prompts, exactly those TRL samples from."""
        encoded = self.tokenizer.apply_chat_template(
            [list(row.prompt) for row in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **self.chat_template_kwargs,
        )
        return encoded["input_ids"]

    def split(
        self,
        rows: Sequence[Row],
        completion_ids: Sequence[Sequence[int]],
        *,
        group_size: int,
        step: int = 0,
        progress: float = 0.0,
    ) -> tuple[RolloutGroups, SplitGroups]:
        """The completions of ``rows``, prompt-major, as groups: split into reasoning and answer, nothing measured."""
        modes = [thinking_mode(text, self.fmt) for text in self.render([row.prompt for row in rows])]
        ids_PG = [list(completion_ids[i : i + group_size]) for i in range(0, len(completion_ids), group_size)]
        split = self.splitter.split_groups(ids_PG, modes)
        groups = split.groups(
            prompts_P=[row.prompt for row in rows],
            references_P=[row.reference for row in rows],
            columns_P=[{**row.columns, "id": row.id} for row in rows],
            step=step,
            progress=progress,
        )
        return groups, split

    def score(
        self,
        model: Any,
        rows: Sequence[Row],
        completion_ids: Sequence[Sequence[int]],
        *,
        group_size: int,
        step: int,
        progress: float,
        held_out: bool = False,
        extra: frozenset[Need] = frozenset(),
    ) -> ScoredStep:
        """Split, measure and score the completions of ``rows``, prompt-major.

        Args:
            model: the unwrapped policy.
            rows: one per group.
            completion_ids: ``len(rows) * group_size`` unpadded completions.
            held_out: an evaluation: also measure the reference tokens for reports, where no component asked for them,
                and leave the memory of gate and filter, and the lagged policy, as they are.
            extra: also measured for reports; of a statistic that a component asks for, what it asks for.
        """
        groups, split = self.split(rows, completion_ids, group_size=group_size, step=step, progress=progress)
        needs = self.pipeline.needs
        wanted = needs | {Need(Stat.VERIFIER)} | ({Need(Stat.REFERENCE)} if held_out else set()) | extra
        stats = collect(
            _one_policy_each(wanted, needs),
            groups,
            split,
            models=self.policies.models(model, step=None if held_out else step),
            prompt_ids_P=self.prompt_ids(rows),
            scorer=self.scorer,
            quality=self.quality,
            verdicts=self.verdicts,
        )
        assert stats.verifier_PG is not None
        # all ranks evaluate the same rows; in training each has its own
        everyone = Ranks() if held_out else self.ranks
        scored = score_together(self.pipeline, groups, _only(stats, needs), self.state, everyone)
        if not held_out:
            self.state = scored.state
        return ScoredStep(
            scored=scored,
            quality_PG=stats.verifier_PG,
            stats_for_reports=stats,
            reward_name=self.pipeline.reward.name,
        )


def _one_policy_each(wanted: frozenset[Need], declared: frozenset[Need]) -> frozenset[Need]:
    """Reports take a statistic under whichever policy a component asked for it, or for one of the same forward."""
    asked = {scored_with(need.stat): need.policy for need in declared}
    more = {need for need in wanted if need.stat not in {other.stat for other in declared}}
    return declared | {replace(need, policy=asked.get(scored_with(need.stat), need.policy)) for need in more}


def _only(stats: TokenStats, needs: frozenset[Need]) -> TokenStats:
    """What was declared, and nothing that was measured for the reports alone."""
    fields = {name for need in needs for name in FIELDS[need.stat]}
    return TokenStats(**{name: getattr(stats, name) for name in fields})
