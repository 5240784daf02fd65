"""From TRL's flat lists to the lab's types, and through stage A of the pipeline.

Training and evaluation take the same way, so a held-out reward is computed as a training reward is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dro_lab.pipeline import Pipeline, Scored
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat, Splitter, thinking_mode
from dro_lab.scoring.stats import FIELDS, Judge, collect
from dro_lab.types import Need, Prompt, Row, Stat, TokenStats


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredStep:
    """One sampling round after stage A, with what reports want beside what the components declared."""

    scored: Scored
    quality_PG: Tensor  # the judge's, nan where it cannot judge
    stats_for_reports: TokenStats
    reward_name: str


class RolloutScorer:
    """Turns sampled completions into scored rollouts.

    Args:
        tokenizer: of the policy.
        fmt: how reasoning and answer are laid out.
        pipeline: reward, gate, filter, estimator.
        scorer: of reference tokens.
        judge: quality of an answer, for the verifier need and for reports.
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
        judge: Judge,
        chat_template_kwargs: Mapping[str, Any],
        eos_token_ids: Iterable[int] | None = None,
    ) -> None:
        self.tokenizer, self.fmt, self.pipeline, self.scorer, self.judge = tokenizer, fmt, pipeline, scorer, judge
        self.chat_template_kwargs = dict(chat_template_kwargs)
        self.splitter = Splitter(tokenizer, fmt, eos_token_ids=eos_token_ids)

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

    def score(
        self,
        model: Any,
        rows: Sequence[Row],
        completion_ids: Sequence[Sequence[int]],
        *,
        group_size: int,
        step: int,
        progress: float,
        report: bool = False,
    ) -> ScoredStep:
        """Split, measure and score the completions of ``rows``, prompt-major.

        Args:
            model: the unwrapped policy.
            rows: one per group.
            completion_ids: ``len(rows) * group_size`` unpadded completions.
            report: also measure the reference tokens for reports, where no component asked for them.
        """
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
        needs = self.pipeline.needs
        wanted = needs | {Need(Stat.VERIFIER)} | ({Need(Stat.REFERENCE)} if report else set())
        stats = collect(
            _one_policy_each(wanted, needs),
            groups,
            split,
            models={"current": model},
            prompt_ids_P=self.prompt_ids(rows),
            scorer=self.scorer,
            judge=self.judge,
        )
        assert stats.verifier_PG is not None
        scored = self.pipeline.score(groups, _only(stats, needs))
        return ScoredStep(
            scored=scored,
            quality_PG=stats.verifier_PG,
            stats_for_reports=stats,
            reward_name=self.pipeline.reward.name,
        )


def _one_policy_each(wanted: frozenset[Need], declared: frozenset[Need]) -> frozenset[Need]:
    """Reports take a statistic under whichever policy a component asked for it."""
    asked = {need.stat for need in declared}
    return declared | {need for need in wanted if need.stat not in asked}


def _only(stats: TokenStats, needs: frozenset[Need]) -> TokenStats:
    """What was declared, and nothing that was measured for the reports alone."""
    fields = {name for need in needs for name in FIELDS[need.stat]}
    return TokenStats(**{name: getattr(stats, name) for name in fields})
