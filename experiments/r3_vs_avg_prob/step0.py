"""Before any training: does a reward rank the policy's rollouts as exact quality does, and does R3 find the truth?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from scipy.stats import rankdata

import dro_lab.config  # noqa: F401 - registers the typed root
from dro_lab.build import build_pipeline, load_task
from dro_lab.components import REFERENCE_NEED, component
from dro_lab.evaluation.intervals import mean_over_rows
from dro_lab.judges import quality as judged
from dro_lab.models import load_tokenizer, load_weights, policy_spec
from dro_lab.record.files import write_json
from dro_lab.record.rows import token_rows
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.training.rollouts import RolloutScorer, ScoredStep

PROMPTS, ROLLOUTS, SEED, CONFIDENCE = 128, 16, 99, 0.9
TOP = 0.1
CONF = Path(__file__).resolve().parents[2] / "conf"


def load_or_measure(stored: Path, presets: Sequence[str]) -> dict[str, Any]:
    """The stored measurements, with what is missing measured now."""
    results = json.loads(stored.read_text()) if stored.exists() else {}
    for preset in presets:
        if preset not in results:
            results[preset] = measure(preset)
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_json(stored, results)
    return {preset: results[preset] for preset in presets}


def measure(preset: str) -> dict[str, Any]:
    """Correlations and token weights on fresh rollouts of the shipped policy on training rows."""
    from experiments.r3_vs_avg_prob.study import REWARDS

    torch.set_num_threads(1)
    with initialize_config_dir(str(CONF), version_base=None):
        configs = {
            name: compose("config", [*overrides, f"dataset.twin.preset={preset}"])
            for name, overrides in REWARDS.items()
        }
    step, tokenizer = sampled_step(configs["r3_w2"])
    groups, stats = step.scored.groups, step.stats_for_reports
    quality = step.quality_PG.double().numpy()
    correlation = {}
    for name, cfg in configs.items():
        reward = component("reward", cfg.reward, name=name, default_needs=REFERENCE_NEED)
        per_group = group_spearman(reward(groups, stats).outcome_PG.double().numpy(), quality)
        found = mean_over_rows(name, per_group, confidence=CONFIDENCE, resamples=2000, seed=0)
        correlation[name] = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    tokens = [
        token_rows(groups, stats, step.scored.rewards, tokenizer=tokenizer, prompts=[p], split="train")
        for p in range(groups.shape[0])
    ]
    return {
        "prompts": PROMPTS,
        "rollouts": ROLLOUTS,
        "quality": float(np.nanmean(quality)),
        "correlation": correlation,
        "truth": truth_scores(tokens),
        "sigma": {
            "reflective": float(np.mean([row["sigma"] for rows in tokens for row in rows if row["truth"]])),
            "other": float(np.mean([row["sigma"] for rows in tokens for row in rows if not row["truth"]])),
        },
    }


def sampled_step(cfg: Any, *, prompts: int = PROMPTS, rollouts: int = ROLLOUTS) -> tuple[ScoredStep, Any]:
    """Fresh rollouts of a configuration's policy on its first training rows, scored for R3, and the tokenizer."""
    spec = policy_spec(cfg.model)
    tokenizer, task = load_tokenizer(spec), load_task(cfg)
    model = load_weights(spec).eval()
    fmt = spec.reasoning_format(task.answer_marker)
    judge = component("judge", cfg.judge, name="exact", supplied=frozenset({"needs"}))(task, needs=())
    names = {"reward": "r3", "gating": "none", "filtering": "none", "advantage": "group_norm"}
    scoring = RolloutScorer(
        tokenizer=tokenizer,
        fmt=fmt,
        pipeline=build_pipeline(cfg, names),
        scorer=ReferenceScorer(tokenizer, fmt, **cfg.scorer),
        quality=lambda groups: judged.quality(groups, task, judge),
        verdicts=lambda groups: judged.verdicts(groups, judge),
        chat_template_kwargs=spec.chat_template_kwargs,
    )
    rows = list(task.splits["train"][:prompts])
    completions = sample(model, tokenizer, scoring.prompt_ids(rows), rollouts, cfg.rollout.max_completion_length)
    scored = scoring.score(model, rows, completions, group_size=rollouts, step=0, progress=0.0, held_out=True)
    return scored, tokenizer


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompt_ids: list[list[int]], n: int, budget: int) -> list[list[int]]:
    """``n`` completions a prompt at temperature 1, cut after the end of sequence."""
    torch.manual_seed(SEED)
    completions: list[list[int]] = []
    for start in range(0, len(prompt_ids), 16):
        batch = tokenizer.pad({"input_ids": prompt_ids[start : start + 16]}, return_tensors="pt", padding_side="left")
        out = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=budget,
            num_return_sequences=n,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, batch["input_ids"].shape[1] :].tolist()
        for ids in out:
            end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
            completions.append(ids[:end])
    return completions


def group_spearman(reward_PG: np.ndarray, quality_PG: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation within each group, (P,); nan where quality does not vary, 0 where only the reward
    does not (a reward without spread ranks nothing)."""
    result = np.full(len(reward_PG), math.nan)
    for p, (reward, quality) in enumerate(zip(reward_PG, quality_PG, strict=True)):
        if np.ptp(quality) == 0:
            continue
        a, b = rankdata(reward), rankdata(quality)
        result[p] = float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) else 0.0
    return result


def truth_scores(tokens: Sequence[Sequence[dict[str, Any]]]) -> dict[str, float]:
    """How well R3's weights find the tokens that are known to depend on the reasoning.

    Per reference, tokens are ranked by weight. ``precision``: share of truth among the top T, T the number of true
    tokens (where precision equals recall). ``*_top_tenth``: among the top ceil(0.1 R).
    """
    share, exact, precision, recall = [], [], [], []
    for rows in tokens:
        ranked = sorted(rows, key=lambda row: -(row["weight"] or 0.0))
        truths = sum(bool(row["truth"]) for row in rows)
        total = sum(row["weight"] or 0.0 for row in rows)
        if not truths or not total:
            continue
        share.append(sum(row["weight"] for row in rows if row["truth"]) / total)
        exact.append(sum(bool(row["truth"]) for row in ranked[:truths]) / truths)
        top = ranked[: math.ceil(TOP * len(rows))]
        hits = sum(bool(row["truth"]) for row in top)
        precision.append(hits / len(top))
        recall.append(hits / truths)
    return {
        "weight_share": float(np.mean(share)),
        "precision": float(np.mean(exact)),
        "precision_top_tenth": float(np.mean(precision)),
        "recall_top_tenth": float(np.mean(recall)),
    }
