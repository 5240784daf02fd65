"""Before any training: which rollouts does each omega prefer, on which tokens does its weight lie, what reacts?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dro_lab.data.__main__ import compose
from dro_lab.data.twins import words
from dro_lab.evaluation.intervals import mean_over_rows
from dro_lab.record.files import write_json
from dro_lab.record.rows import token_rows
from dro_lab.rewards.r3 import r3
from experiments.r3_vs_avg_prob.step0 import CONFIDENCE, PROMPTS, ROLLOUTS, group_spearman, sampled_step

OMEGAS = (0, 0.5, 1, 2, 4, 8, 16)
KINDS = ("facts", "distractors", "wording")


def load(stored: Path) -> dict[str, Any]:
    """The stored measurements by setting; none where there is no file yet."""
    found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    return found


def load_or_measure(stored: Path, setting: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The setting's measurements, taken now where they are not stored."""
    results = load(stored)
    if setting not in results:
        results[setting] = measure(overrides)
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_json(stored, results)
    found: dict[str, Any] = results[setting]
    return found


def measure(overrides: Sequence[str], *, prompts: int = PROMPTS, rollouts: int = ROLLOUTS) -> dict[str, Any]:
    """Figures of fresh rollouts of the setting's policy on training rows.

    By omega: ``correlation`` (Spearman's of reward and exact quality within a group, mean over groups with its interval
    over rows), the mean share of the weight ``on_facts`` and ``on_distractors``, and ``effective_tokens``,
    1 / sum_j w_j^2. ``sigma``: mean over the kind's reference tokens of the probability's std over rollouts (None: the
    setting has no such token).
    """
    torch.set_num_threads(1)
    step, tokenizer = sampled_step(compose(["+experiments=omega", *overrides]), prompts=prompts, rollouts=rollouts)
    groups, stats = step.scored.groups, step.stats_for_reports
    quality = step.quality_PG.double().numpy()
    omegas = {}
    sigma: dict[str, float | None] = {}
    for omega in OMEGAS:
        rewards = partial(r3, omega=float(omega))(groups, stats)
        tokens = token_rows(groups, stats, rewards, tokenizer=tokenizer, prompts=range(prompts), split="train")
        kinds = np.array([kind_of(row) for row in tokens])
        weights = np.array([row["weight"] for row in tokens], dtype=float)
        found = mean_over_rows(
            "correlation",
            group_spearman(rewards.outcome_PG.double().numpy(), quality),
            confidence=CONFIDENCE,
            resamples=2000,
            seed=0,
        )
        omegas[f"{omega:g}"] = {
            "correlation": {"value": found.value, "low": found.low, "high": found.high, "n": found.n},
            "weight_on_facts": float(weights[kinds == "facts"].sum() / weights.sum()),
            "weight_on_distractors": float(weights[kinds == "distractors"].sum() / weights.sum()),
            "effective_tokens": rewards.metrics["effective_tokens"],
        }
        spread = np.array([row["sigma"] for row in tokens], dtype=float)
        sigma = {kind: float(spread[kinds == kind].mean()) if (kinds == kind).any() else None for kind in KINDS}
    return {
        "prompts": prompts,
        "rollouts": rollouts,
        "quality": float(np.nanmean(quality)),
        "sigma": sigma,
        "omegas": omegas,
    }


def kind_of(token: dict[str, Any]) -> str:
    """What a reference token of the ParaRev twin is: a fact's digit, a distractor (an echoed filler), or wording."""
    if token["truth"]:
        return "facts"
    return "distractors" if str(token["token"]).strip() in words.FILLERS else "wording"
