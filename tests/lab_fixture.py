"""A LabTrainer over a tiny random policy, without configuration files, for tests of the seam with TRL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig

from dro_lab.advantages.group_norm import group_norm
from dro_lab.components import Component
from dro_lab.filtering.none import none as no_filter
from dro_lab.gating.none import none as no_gate
from dro_lab.judges import quality
from dro_lab.judges.none import NoJudge
from dro_lab.pipeline import Pipeline
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.training.clock import PartClock
from dro_lab.training.rollouts import RolloutScorer
from dro_lab.training.trainer import LabTrainer
from dro_lab.types import Rewards, RolloutGroups, Row, TokenStats
from tests.tiny import byte_tokenizer, tiny_qwen3

ROWS = [
    Row(
        id=f"row-{i}",
        prompt=[{"role": "user", "content": f"Revise paragraph {i}."}],
        reference=f"The number of samples was {i}.",
    )
    for i in range(8)
]


def count_reward(groups: RolloutGroups, stats: TokenStats) -> Rewards:
    """Share of even token ids in the completion: a plain reward that a bare TRL function can compute too."""
    even = (groups.completion_ids_PGC % 2 == 0) & groups.completion_mask_PGC
    return Rewards(outcome_PG=even.sum(-1).float() / groups.completion_mask_PGC.sum(-1))


def bare_count_reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The same for TRL's own reward functions."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def fresh_process() -> None:
    """What run.py does between two jobs of one process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


def config(folder: Path, **overrides: Any) -> GRPOConfig:
    """TRL's arguments for a step of 2 prompts x 4 rollouts."""
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 12,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "loss_type": "dapo",
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "seed": 7,
    }
    return GRPOConfig(**{**values, **overrides})


def component(name: str, call: Callable[..., Any], needs: frozenset = frozenset()) -> Component:
    return Component(name=name, call=call, needs=needs)


def pipeline(reward: Component | None = None, **parts: Any) -> Pipeline:
    defaults = {
        "reward": reward or component("count", count_reward),
        "gate": component("none", no_gate),
        "filter": component("none", no_filter),
        "advantage": replace(component("group_norm", group_norm), takes_process=True),
    }
    return Pipeline(**{**defaults, **parts})


def dataset(rows: Sequence[Row] = ROWS) -> Dataset:
    return Dataset.from_list([{"prompt": [dict(m) for m in row.prompt], "row": i} for i, row in enumerate(rows)])


def trainer(
    folder: Path,
    *,
    chosen: Pipeline | None = None,
    observer: Callable[..., Mapping[str, float]] = lambda step, advantages: {},
    model: Any = None,
    extra: Mapping[str, Any] | None = None,
    rows: Sequence[Row] = ROWS,
    tokenizer: Any = None,
    answer_marker: str = "",
    **overrides: Any,
) -> LabTrainer:
    """A LabTrainer ready to train."""
    fresh_process()
    set_seed(0)
    tokenizer = tokenizer or byte_tokenizer()
    fmt = ReasoningFormat(answer_marker=answer_marker)
    made = LabTrainer(
        scoring=RolloutScorer(
            tokenizer=tokenizer,
            fmt=fmt,
            pipeline=chosen or pipeline(),
            scorer=ReferenceScorer(tokenizer, fmt),
            quality=lambda groups: torch.full(groups.shape, torch.nan),
            verdicts=lambda groups: quality.verdicts(groups, NoJudge()),
            chat_template_kwargs={},
        ),
        rows=rows,
        observer=observer,
        clock=PartClock(),
        model=model if model is not None else tiny_qwen3(len(tokenizer)),
        args=config(folder, **overrides),
        train_dataset=dataset(rows),
        processing_class=tokenizer,
        **(extra or {}),
    )
    made.remove_callback(PrinterCallback)
    return made
