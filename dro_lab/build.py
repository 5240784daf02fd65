"""From a composed configuration to checked objects, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.checks import flag, whole
from dro_lab.components import REFERENCE_NEED, component
from dro_lab.data.fit import fit_rows
from dro_lab.data.load import load_task
from dro_lab.data.rows import summarise
from dro_lab.data.twins.knobs import dataset_name, policy_notes
from dro_lab.errors import UserError
from dro_lab.evaluation.corpus import figure_names
from dro_lab.evaluation.settings import EvaluationSettings, check_objective, evaluation_settings, present_splits
from dro_lab.health import Watch, build_watch
from dro_lab.judges.protocol import Judge
from dro_lab.judges.shared import SharedJudge
from dro_lab.launch.world import processes
from dro_lab.models import PolicySpec, context_length, knows_twins_only, load_config, load_tokenizer, policy_spec
from dro_lab.pipeline import Pipeline
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.stats import check_needs
from dro_lab.scoring.vllm import check_scorer, scorer_for, scorer_notes
from dro_lab.tracking.lost import tracker_of
from dro_lab.training.arguments import arguments
from dro_lab.types import Stat, Task

FOREIGN_TEXT = (
    "this policy was made from scratch on the procedural twin and knows nothing of this text: its numbers here mean "
    "nothing but that the path works; take a real model for results, for example model=qwen3_1_7b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Everything a run needs but the weights."""

    names: Mapping[str, str]
    task: Task
    spec: PolicySpec
    tokenizer: Any
    context: int
    fmt: ReasoningFormat
    pipeline: Pipeline
    judge: Judge
    evaluation: EvaluationSettings
    arguments: Any  # trl.GRPOConfig
    scorer: ReferenceScorer
    tracker: Any
    watch: Watch  # the health monitors
    max_refills: int  # sampling rounds after the first, to replace groups that teach nothing; 0: none

    @property
    def asks_verdicts(self) -> bool:
        """Whether a component reads the judge's verdicts on rubrics."""
        return any(need.stat is Stat.VERDICTS for need in self.pipeline.needs)


def build(cfg: DictConfig, names: Mapping[str, str], folder: Path) -> Built:
    """Build and cross-check every component.

    Args:
        cfg: the composed configuration, past `dro_lab.config.check`.
        names: chosen option by group.
        folder: the run's folder.

    Raises:
        UserError: the first thing that is wrong, in the order components, TRL's arguments, data, tokenizer.
    """
    pipeline = build_pipeline(cfg, names)
    check_needs(pipeline.needs, {"current", cfg.scored_by})
    check_scorer(cfg, pipeline.needs)
    watch = build_watch(cfg.health)
    judge_component = component("judge", cfg.judge, name=names.get("judge", "judge"), supplied=frozenset({"needs"}))
    made = arguments(cfg.algorithm, output_dir=str(folder / "trainer"), steps=cfg.steps)
    evaluation = evaluation_settings(OmegaConf.to_container(cfg.evaluation, resolve=True))  # type: ignore[arg-type]
    spec = policy_spec(cfg.model, dataset=dataset_name(cfg.dataset))
    task = load_task(cfg)
    for part in (pipeline.reward, pipeline.gate, pipeline.filter, judge_component):
        task = part.prepare(task)
    judge = judge_component(task, needs=pipeline.needs)
    if processes(cfg) > 1 and not judge.asks_reference:
        judge = SharedJudge(judge)
    tokenizer = load_tokenizer(spec)
    context = context_length(load_config(spec))
    fmt = spec.reasoning_format(task.answer_marker)
    task = fit_rows(
        task,
        tokenizer,
        context=context,
        max_completion=cfg.rollout.max_completion_length,
        chat_template_kwargs=spec.chat_template_kwargs,
        closing=fmt.closing,
    )
    _check_rows(task, cfg, evaluation)
    evaluation, notes = present_splits(evaluation, task.splits)
    figures = figure_names(task, task.splits[evaluation.split][: evaluation.prompts])
    prefixes = any(need.stat is Stat.PREFIXES for need in pipeline.needs)
    check_objective(cfg.objective, steps=cfg.steps, settings=evaluation, figures=figures, prefixes=prefixes)
    task = replace(task, notes=(*task.notes, *notes))
    if task.provenance.kind != "twin" and knows_twins_only(tokenizer):
        task = replace(task, notes=(*task.notes, FOREIGN_TEXT))
    task = replace(task, notes=(*task.notes, *policy_notes(cfg.dataset, Path(spec.path))))
    scorer = scorer_for(tokenizer, fmt, cfg.scorer)
    task = replace(task, notes=(*task.notes, *scorer_notes(scorer, pipeline.needs)))
    tracker = tracker_of(cfg.tracking, folder)
    return Built(
        names=names,
        task=task,
        spec=spec,
        tokenizer=tokenizer,
        context=context,
        fmt=fmt,
        pipeline=pipeline,
        judge=judge,
        evaluation=evaluation,
        arguments=made,
        scorer=scorer,
        tracker=tracker,
        watch=watch,
        max_refills=max_refills(cfg.filtering),
    )


def build_pipeline(cfg: DictConfig, names: Mapping[str, str]) -> Pipeline:
    """The reward, gate, filter and advantage estimator, each checked.

    Raises:
        UserError: what a component's check refuses, or credit on tokens for an estimator that has no place for it.
    """
    reward = component("reward", cfg.reward, name=names.get("reward", "reward"), default_needs=REFERENCE_NEED)
    advantage = component("advantage", cfg.advantage, name=names.get("advantage", "advantage"))
    if reward.gives_process and not advantage.takes_process:
        raise UserError(
            f"reward={reward.name} with advantage={advantage.name}: the reward gives process rewards (credit on "
            "tokens), and this estimator takes one outcome per rollout; choose one that takes them, for example "
            "advantage=group_norm, or a reward without them"
        )
    return Pipeline(
        reward=reward,
        gate=component("gating", cfg.gating, name=names.get("gating", "gating")),
        filter=component("filtering", without_refill(cfg.filtering), name=names.get("filtering", "filtering")),
        advantage=advantage,
        credit=cfg.credit,
        scored_by=cfg.scored_by,
        mask_malformed=cfg.rollout.mask_malformed_completions,
        mask_truncated=bool(cfg.algorithm.get("mask_truncated_completions", False)),
        infinite="unscorable" if cfg.get("on_nonfinite") == "skip" else "refuse",
    )


REFILL = ("refill", "max_rounds")
"""Keys of every `filtering` yaml that the trainer reads, not the filter."""


def max_refills(filtering: DictConfig) -> int:
    """Sampling rounds after the first: ``filtering.max_rounds`` where ``filtering.refill`` is true, else 0."""
    refill, rounds = filtering.get("refill", False), filtering.get("max_rounds", 4)
    flag("filtering.refill", refill, todo="false is the default")
    whole("filtering.max_rounds", rounds, low=1, todo="4 is the default")
    return rounds if refill else 0


def without_refill(filtering: DictConfig) -> DictConfig:
    """The filter's own keys."""
    own = filtering.copy()
    OmegaConf.set_struct(own, False)
    for key in REFILL:
        own.pop(key, None)
    return own


def _check_rows(task: Task, cfg: DictConfig, evaluation: EvaluationSettings) -> None:
    rounds = cfg.algorithm.get("steps_per_generation") or cfg.algorithm.get("gradient_accumulation_steps", 1)
    needed = cfg.algorithm.per_device_train_batch_size * rounds * processes(cfg) // cfg.algorithm.num_generations
    if cfg.steps and len(task.splits["train"]) < needed:
        raise UserError(
            f"dataset={task.name}: {len(task.splits['train'])} usable training rows, but a step takes {needed} prompts"
            f"{_refusals(task)}. Give more rows or lower algorithm.per_device_train_batch_size; "
            "`python -m dro_lab.data` lists what was refused. A data set to test on alone takes steps=0 "
            "(evaluation.split=test)."
        )
    if not task.splits.get(evaluation.split):
        raise UserError(
            f"evaluation.split={evaluation.split}: dataset={task.name} has no usable rows in it{_refusals(task)}. "
            "Choose another split, or see `python -m dro_lab.data`."
        )


def refusals(task: Task) -> str:
    """How many rows were refused, and the most frequent reason with one example; "" where none was."""
    if not task.refused:
        return ""
    reason, count = next(iter(summarise(task.refused).items()))
    example = next(row for row in task.refused if reason in summarise([row]))
    return f"{len(task.refused)} rows were refused, {count} of them like {example.where}: {example.reason}"


def _refusals(task: Task) -> str:
    return f" ({found})" if (found := refusals(task)) else ""
