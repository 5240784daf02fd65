"""From a composed configuration to checked objects, before any weight is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dro_lab.components import REFERENCE_NEED, component, instantiate_checked, resolve
from dro_lab.data.fit import fit_rows
from dro_lab.errors import UserError
from dro_lab.evaluation.evaluate import EvaluationSettings
from dro_lab.models import PolicySpec, context_length, load_config, load_tokenizer, policy_spec
from dro_lab.pipeline import Pipeline
from dro_lab.scoring.stats import Judge, check_needs
from dro_lab.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Everything a run needs but the weights."""

    names: Mapping[str, str]
    task: Task
    spec: PolicySpec
    tokenizer: Any
    context: int
    pipeline: Pipeline
    judge: Judge
    evaluation: EvaluationSettings
    arguments: Any  # trl.GRPOConfig
    tracker: Any


def build(cfg: DictConfig, names: Mapping[str, str], folder: Path) -> Built:
    """Build and cross-check every component.

    Args:
        cfg: the composed configuration, past `dro_lab.config.check`.
        names: chosen option by group.
        folder: the run's folder.

    Raises:
        UserError: the first thing that is wrong, in the order components, data, tokenizer, TRL's arguments.
    """
    pipeline = build_pipeline(cfg, names)
    check_needs(pipeline.needs)
    judge_component = component("judge", cfg.judge, name=names.get("judge", "judge"), supplied=frozenset({"needs"}))
    evaluation = EvaluationSettings(**OmegaConf.to_container(cfg.evaluation, resolve=True))  # type: ignore[arg-type]
    spec = policy_spec(cfg.model)
    task = load_task(cfg)
    judge = judge_component(task, needs=pipeline.needs)
    tokenizer = load_tokenizer(spec)
    context = context_length(load_config(spec))
    task = fit_rows(
        task,
        tokenizer,
        context=context,
        max_completion=cfg.rollout.max_completion_length,
        chat_template_kwargs=spec.chat_template_kwargs,
        closing=spec.reasoning_format(task.answer_marker).closing,
    )
    _check_rows(task, cfg, evaluation)
    arguments = instantiate_checked(
        "algorithm", cfg.algorithm, output_dir=str(folder / "trainer"), max_steps=max(1, cfg.steps)
    )
    tracker = instantiate_checked("tracking", cfg.tracking)
    return Built(
        names=names,
        task=task,
        spec=spec,
        tokenizer=tokenizer,
        context=context,
        pipeline=pipeline,
        judge=judge,
        evaluation=evaluation,
        arguments=arguments,
        tracker=tracker,
    )


def build_pipeline(cfg: DictConfig, names: Mapping[str, str]) -> Pipeline:
    """The reward, gate, filter and advantage estimator, each checked."""
    return Pipeline(
        reward=component("reward", cfg.reward, name=names.get("reward", "reward"), default_needs=REFERENCE_NEED),
        gate=component("gating", cfg.gating, name=names.get("gating", "gating")),
        filter=component("filtering", cfg.filtering, name=names.get("filtering", "filtering")),
        advantage=component("advantage", cfg.advantage, name=names.get("advantage", "advantage")),
    )


def load_task(cfg: DictConfig) -> Task:
    """Load the chosen data set."""
    loader, bound = resolve("dataset", cfg.dataset)
    allowed = set(inspect.signature(loader).parameters)
    if wrong := sorted(set(bound) - allowed):
        raise UserError(f"dataset.{wrong[0]}: unknown key; {loader.__module__} takes {', '.join(sorted(allowed))}")
    return loader(**{"seed": cfg.seed, **bound})


def _check_rows(task: Task, cfg: DictConfig, evaluation: EvaluationSettings) -> None:
    rounds = cfg.algorithm.get("steps_per_generation") or cfg.algorithm.get("gradient_accumulation_steps", 1)
    needed = cfg.algorithm.per_device_train_batch_size * rounds // cfg.algorithm.num_generations
    if cfg.steps and len(task.splits["train"]) < needed:
        raise UserError(
            f"dataset={task.name}: {len(task.splits['train'])} usable training rows ({len(task.refused)} refused), but "
            f"a step takes {needed} prompts. Give more rows or lower algorithm.per_device_train_batch_size. "
            "`python -m dro_lab.data` lists refused rows and why."
        )
    if not task.splits.get(evaluation.split):
        raise UserError(
            f"evaluation.split={evaluation.split}: dataset={task.name} has no usable rows in it "
            f"({len(task.refused)} refused). Choose another split, or see `python -m dro_lab.data`."
        )
