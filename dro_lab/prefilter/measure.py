"""Samples every training row with the initial policy, by a run's engine and scorer, and measures sigma_bar."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback

from dro_lab.advantages.group_norm import group_norm
from dro_lab.build import Built
from dro_lab.components import REFERENCE_NEED, Component
from dro_lab.filtering._sigma import r3_sigma
from dro_lab.filtering.none import none as no_filter
from dro_lab.gating.none import none as no_gate
from dro_lab.judges.none import NoJudge
from dro_lab.judges.quality import quality, verdicts
from dro_lab.models import load_weights
from dro_lab.pipeline import Pipeline
from dro_lab.rewards._tokens import finite_mean, sigma_bar
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.training.clock import PartClock
from dro_lab.training.rollouts import RolloutScorer
from dro_lab.training.trainer import LabTrainer
from dro_lab.types import Row


class _MetricOnly(NoJudge):
    """Quality by the data set's own metric; no judge is asked."""

    name = "metric"


def measured(built: Built, settings: dict[str, Any]) -> Iterator[list[tuple[float, float]]]:
    """``(sigma_bar, mean quality)`` of each training row, a batch of rows at a time; quality nan where not known.

    Args:
        built: the checked run, of which the policy, tokenizer, format, scorer and TRL's arguments are used.
        settings: `dro_lab.prefilter.settings.sampling_settings`.
    """
    rows, rollouts = list(built.task.splits["train"]), settings["rollouts"]
    sigma = {key: value for key, value in settings["sigma"].items() if key != "top_share"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = sampling_trainer(built, rows, folder)
        for batch in _batches(rows, max(1, settings["batch_size"] // rollouts)):
            completions = trainer.sample(
                trainer.scoring.prompt_ids(batch),
                rollouts,
                batch_size=settings["batch_size"],
                seed=_seed(settings["seed"], batch[0]),
            )
            with trainer.accelerator.autocast():
                step = trainer.scoring.score(
                    trainer.policy, batch, completions, group_size=rollouts, step=0, progress=0.0
                )
            spread_P = sigma_bar(*r3_sigma(step.scored.stats, **sigma), share=settings["sigma"]["top_share"])
            yield list(zip(spread_P.tolist(), _means(step.quality_PG), strict=True))


def sampling_trainer(built: Built, rows: Sequence[Row], folder: str) -> LabTrainer:
    """A run's trainer, for its sampling engine."""
    model = load_weights(built.spec)
    ends = model.generation_config.eos_token_id
    built.arguments.output_dir = folder
    scoring = RolloutScorer(
        tokenizer=built.tokenizer,
        fmt=built.fmt,
        pipeline=Pipeline(
            reward=Component(name="avg_prob", call=avg_prob, needs=REFERENCE_NEED),
            gate=Component(name="none", call=no_gate, needs=frozenset()),
            filter=Component(name="none", call=no_filter, needs=frozenset()),
            advantage=Component(name="group_norm", call=group_norm, needs=frozenset()),
        ),
        scorer=built.scorer,
        quality=lambda groups: quality(groups, built.task, _MetricOnly() if built.task.metric else NoJudge()),
        verdicts=lambda groups: verdicts(groups, NoJudge()),
        chat_template_kwargs=built.spec.chat_template_kwargs,
        eos_token_ids={built.tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])},
    )
    trainer = LabTrainer(
        scoring=scoring,
        rows=rows,
        observer=lambda step, advantages: {},
        clock=PartClock(),
        model=model,
        args=built.arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": [dict(m) for m in row.prompt], "row": i} for i, row in enumerate(rows)]
        ),
        processing_class=built.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def _seed(seed: int, row: Row) -> int:
    """Another seed for each batch: equal ones would give all batches the same draws."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row.id}".encode()).digest()[:4], "big")


def _means(quality_PG: Tensor) -> list[float]:
    return [finite_mean(quality_G) for quality_G in quality_PG]
