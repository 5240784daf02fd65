"""A realistic record of a run, made without training: for tests of what reads records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dro_lab.record import Alarm, Comparison, Estimate, RunRecord, Summary
from dro_lab.types import Provenance, RefusedRow, RolloutGroups, TokenStats

PROVENANCE = Provenance(dataset="pararev", kind="twin", location="default", revision="generator 1")
NAMES = ["Arden", "Bexley", "Corin", "Delmar"]
STYLE = ["clearly", "notably", "in effect", "broadly"]


def reference_tokens(rng: np.random.Generator) -> list[tuple[str, bool]]:
    """Tokens of one reference, each with its truth."""
    before, gain, name = int(rng.integers(11, 60)), int(rng.integers(2, 30)), NAMES[int(rng.integers(len(NAMES)))]
    total = [(digit, True) for digit in str(before + gain)]
    words = ["The", "revised", "text", "says"]
    tokens = [(words[0], False), *[(" " + word, False) for word in words[1:]]]
    tokens += [(" clearly", False), (" that", False), (" " + name, True), (" gained", False), (" ", False), *total]
    tokens += [(" points", False), (",", False), (" which", False), (" is", False), (" notably", False)]
    tokens += [(" more" if gain > 15 else " less", True), (" than", False), (" the", False), (" claim", False)]
    tokens += [(" of", False), (" the", False), (" first", False), (" draft", False), (".", False)]
    return tokens


def step_rows(rng: np.random.Generator, *, step: int, skill: float, prompts: int, group: int) -> tuple[list, list]:
    """Rollout rows and token rows of one step; ``skill`` is the chance that a rollout is right."""
    rollouts: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    for p in range(prompts):
        prompt_id = f"train-{step * prompts + p}"
        reference = reference_tokens(rng)
        text = "".join(token for token, _ in reference)
        right = rng.random(group) < skill
        raw = np.array([rng.uniform(0.25, 0.5) if known else rng.uniform(0.0, 0.06) for _, known in reference])
        weights = raw**2 / (raw**2).sum()
        start = 0
        for j, (token, known) in enumerate(reference):
            end = start + len(token)
            row: dict[str, Any] = {
                "step": step,
                "split": "train",
                "prompt_id": prompt_id,
                "position": j,
                "token": token,
                "truth": known,
            }
            row |= {"char_start": start, "char_end": end, "sigma": float(raw[j]), "weight": float(weights[j])}
            tokens.append(row | {"mean_prob": float(rng.uniform(0.2, 0.9))})
            start = end
        for g in range(group):
            length = int(rng.integers(12, 22) + 14 * skill)
            reward = float(np.clip(0.3 + 0.45 * right[g] + rng.normal(0, 0.05), 0.05, 0.85))
            thought = (
                "Draft says 12; the note adds 7; 12 + 7 = 19; so it is more than claimed." if right[g] else "So 11."
            )
            rollouts.append(
                {
                    "step": step,
                    "prompt_id": prompt_id,
                    "rollout": g,
                    "prompt": f"Paragraph: {NAMES[p % 4]} stood at 12 and gained 7.\nInstruction: correct the claim.",
                    "reasoning": thought,
                    "answer": text if right[g] else "The revised text says broadly that Arden gained 11 points.",
                    "reference": text,
                    "reward": reward,
                    "parts": json.dumps({"r3": reward}),
                    "advantage": float(rng.normal()),
                    "reasoning_tokens": length,
                    "answer_tokens": 30,
                    "completion_tokens": length + 30,
                    "truncated": bool(rng.random() < 0.02),
                    "malformed": False,
                    "kept": True,
                    "reason": "",
                    "verdicts": json.dumps([["States the total?", int(right[g]), "yes"]]),
                    "quality": float(right[g]),
                }
            )
    return rollouts, tokens


class Words:
    """A tokenizer of whole words, each id one of them."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def decode(self, token_ids: Sequence[int], **options: bool) -> str:
        return "".join(self.words[i] for i in token_ids)


def two_references() -> tuple[RolloutGroups, TokenStats, Words]:
    """Two prompts of four rollouts as rewards get them: " 7" alone reacts to the reasoning, "the" is frequent."""
    tokenizer = Words(["the", " the", " sum", " 7"])
    ids_PR = torch.tensor([[0, 1, 2, 3], [0, 1, 1, 0]])
    mask_PR = torch.tensor([[True, True, True, True], [True, True, True, False]])
    probs_PGR = torch.full((2, 4, 4), 0.5)
    probs_PGR[0, :, 3] = torch.tensor([0.1, 0.9, 0.2, 0.8])
    nothing_PG, no_tokens_PGC = torch.zeros(2, 4), torch.zeros(2, 4, 1)
    groups = RolloutGroups(
        prompts_P=[[{"role": "user", "content": "How many?"}]] * 2,
        references_P=["the the sum 7", "the the the"],
        completions_PG=[["x"] * 4] * 2,
        reasonings_PG=[["x"] * 4] * 2,
        answers_PG=[["7"] * 4] * 2,
        truncated_PG=nothing_PG.bool(),
        malformed_PG=nothing_PG.bool(),
        completion_ids_PGC=no_tokens_PGC.long(),
        completion_mask_PGC=no_tokens_PGC.bool(),
        reasoning_mask_PGC=no_tokens_PGC.bool(),
        columns_P=[{"id": "row-0"}, {"id": "row-1"}],
    )
    stats = TokenStats(
        reference_logps_PGR=probs_PGR.log().where(mask_PR[:, None], 0.0),
        reference_mask_PR=mask_PR,
        reference_eos_PR=torch.zeros_like(mask_PR),
        reference_ids_PR=ids_PR,
        verifier_PG=torch.tensor([[0.0, 1.0, 0.0, 1.0]] * 2),
    )
    return groups, stats, tokenizer


def summary(**changes: Any) -> Summary:
    """The summary of a finished run, with ``changes``."""
    values: dict[str, Any] = {
        "status": "finished",
        "reward": "r3",
        "dataset": "pararev",
        "policy": "tiny",
        "seed": 0,
        "provenance": PROVENANCE,
        "metric": "required facts",
        "steps": 40,
        "planned_steps": 40,
        "objective": 0.71,
        "before": Estimate(metric="required facts", value=0.27, low=0.20, high=0.35, n=128),
        "after": Estimate(metric="required facts", value=0.71, low=0.63, high=0.78, n=128),
        "win_rate": Estimate(metric="win rate", value=0.74, low=0.69, high=0.79, n=128),
        "comparison": [
            Comparison(metric="reward", before=0.41, after=0.63),
            Comparison(metric="share of reflective tokens", before=0.17, after=0.15),
            Comparison(metric="groups rejected", before=None, after=0.0),
        ],
        "seconds": {"sampling": 61.0, "scoring": 9.5, "training": 44.0, "evaluation": 21.0, "other": 7.5},
    }
    return Summary(**(values | changes))


def write_record(
    folder: Path, *, seed: int = 0, steps: int = 40, prompts: int = 2, group: int = 16, **changes: Any
) -> Mapping[str, Any]:
    """Write a whole record to ``folder`` and return its summary; ``changes`` go to the summary."""
    rng = np.random.default_rng(seed)
    with RunRecord(folder) as record:
        record.config("seed: 0\nreward:\n  _target_: dro_lab.rewards.r3.r3\n  omega: 2.0\ndataset:\n  name: pararev\n")
        record.environment(seeds={"seed": seed, "data": 7}, threads=2, command=["python", "-m", "dro_lab.run"])
        record.summary(summary(status="running", after=None, win_rate=None, objective=None, steps=0))
        for step in range(steps):
            skill = 0.27 + 0.45 * (1 - math.exp(-step / 14))
            rollouts, tokens = step_rows(rng, step=step, skill=skill, prompts=prompts, group=group)
            record.rollouts(rollouts)
            record.tokens(tokens if step % 5 == 0 or step == steps - 1 else [])
            reward = float(np.mean([row["reward"] for row in rollouts]))
            record.metrics({"rewards/r3": reward, "loss": float(rng.normal(0, 0.02))}, step=step)
            if step % 8 == 0 or step == steps - 1:
                value = float(np.clip(skill + rng.normal(0, 0.02), 0, 1))
                estimate = Estimate(metric="required facts", value=value, low=value - 0.08, high=value + 0.07, n=128)
                record.evaluation([estimate], step=0 if step == 0 else step + 1, split="test")
        refused = [RefusedRow(where="train.json row 17", reason="no instruction")]
        alarms = [Alarm(step=12, message="in 3 of the last 10 steps no rollout closed its reasoning")]
        return record.summary(summary(**({"refused": refused, "alarms": alarms, "steps": steps} | changes)))
