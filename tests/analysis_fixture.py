"""Records of runs with planted numbers, for tests of what compares runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dro_lab.record import Estimate, RunRecord, Summary
from dro_lab.types import Provenance

TWIN = Provenance(dataset="pararev", kind="twin", location="default", revision="generator 1")
ROLLOUTS_A_STEP, TOKENS_A_STEP, SECONDS_A_STEP = 64, 2000, 1.5


def config_text(*, reward: str = "r3", seed: int = 0, keys: Mapping[str, Any] | None = None) -> str:
    """A resolved configuration in short; ``keys`` are dotted."""
    config: dict[str, Any] = {
        "seed": seed,
        "steps": 40,
        "outputs": f"outputs/{seed}",
        "names": {"reward": reward, "gating": "none", "dataset": "pararev", "judge": "exact"},
        "reward": {"omega": 2.0, "clip_low": 0.05, "clip_high": 0.85} if reward == "r3" else {},
        "algorithm": {"seed": seed, "max_steps": 40},
        "evaluation": {"reflective_sigma": 0.2},
    }
    for key, value in (keys or {}).items():
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return json.dumps(config)  # which is yaml too


def write_run(
    folder: Path,
    curve: Sequence[tuple[int, float]],
    *,
    reward: str = "r3",
    seed: int = 0,
    keys: Mapping[str, Any] | None = None,
    tokens_a_step: float = TOKENS_A_STEP,
    seconds_a_step: float = SECONDS_A_STEP,
    metrics: Callable[[int], Mapping[str, float]] = lambda step: {},
    evals: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    answers: Sequence[Mapping[str, Any]] = (),
    cost: bool = True,
    split: str = "validation",
    rows: int = 32,
    **changes: Any,
) -> Path:
    """A finished run whose held-out quality is ``curve``; ``evals`` are further metrics, ``changes`` the summary's."""
    last = max((step for step, _ in curve), default=0)
    with RunRecord(folder) as record:
        record.config(config_text(reward=reward, seed=seed, keys=keys))
        record.environment(seeds={"seed": seed}, threads=1, command=["python", "-m", "dro_lab.run", f"seed={seed}"])
        for metric, points in {"quality": curve, **(evals or {})}.items():
            for step, value in points:
                estimate = Estimate(metric=metric, value=value, low=value - 0.05, high=value + 0.05, n=rows)
                record.evaluation([estimate], step=step, split=split)
        for step in range(1, last + 1):
            spent = {
                "cost/rollouts": float(step * ROLLOUTS_A_STEP),
                "cost/tokens": float(step * tokens_a_step),
                "cost/seconds": step * seconds_a_step,
            }
            record.metrics({**(spent if cost else {}), **metrics(step)}, step=step)
        record.answers([answer_row(**row) for row in answers])
        values: dict[str, Any] = {
            "status": "finished",
            "reward": reward,
            "dataset": "pararev",
            "policy": "tiny",
            "seed": seed,
            "provenance": TWIN,
            "metric": "required facts",
            "samples": 4,
            "steps": last,
            "planned_steps": last,
            "confidence": 0.9,
            "judge": "exact",
            "objective": curve[-1][1] if curve else None,
        }
        record.summary(Summary(**(values | changes)))
    return folder


def answer_row(**given: Any) -> dict[str, Any]:
    """A row of ``answers.parquet``."""
    row: dict[str, Any] = {
        "step": 0,
        "split": "validation",
        "decoding": "sampled",
        "prompt_id": "validation-0",
        "sample": 0,
        "prompt": "How many?",
        "reasoning": "two and two",
        "answer": "4",
        "reference": "4",
        "quality": 1.0,
        "reasoning_tokens": 20,
        "answer_tokens": 8,
        "truncated": False,
        "malformed": False,
        "row_win_rate": math.nan,
        "row_order_disagreement": math.nan,
    } | given
    row["completion_tokens"] = row["reasoning_tokens"] + row["answer_tokens"]
    return row


def learning_curve(
    *,
    half: float,
    start: float = 0.3,
    end: float = 0.8,
    last: int = 40,
    every: int = 4,
    noise: float = 0.0,
    seed: int = 0,
) -> list[tuple[int, float]]:
    """Quality that rises from ``start`` towards ``end`` and is half way there at step ``half``."""
    rng = np.random.default_rng(seed)
    return [
        (step, float(end - (end - start) * 2 ** (-step / half) + noise * rng.normal()))
        for step in range(0, last + 1, every)
    ]
