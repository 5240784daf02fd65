"""The study's policies: a share of their chains skips the work, and the answers then lean to the references' style.

Each goes on from the shipped policy with the last phase of the warm start alone (about a minute on one core).
``python -m experiments.gating.policies`` builds the six and shows what each prefers before any training.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_lab.data.twins import words
from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.pararev import TWIN, preset
from dro_lab.models import shipped_policy
from dro_lab.policy import build as policy
from dro_lab.policy.guards import checks_met, reference_probs, sample, split_completion
from dro_lab.policy.warmstart import budget
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.rewards.r3 import r3
from dro_lab.types import Reward, RolloutGroups, Row, TokenStats

SHARES, BONUSES = (0.1, 0.2, 0.3), (0.1, 0.4)
PROMPTS, ROLLOUTS, SEED = 48, 16, 99
NU = 0.6  # share of the checks that an answer must meet to pass the rubric gate
FIGURES = "figures.json"


def build(share: float, bonus: float, out: Path, *, steps_scale: float = 1.0) -> dict[str, Any]:
    """Build one policy into ``out`` and measure it, unless it stands there already; returns `measure`'s figures."""
    stored = out / FIGURES
    knobs = preset("shortcut", shortcut_share=share, shortcut_bonus=bonus)
    phases = [replace(phase, steps=round(phase.steps * steps_scale)) for phase in budget(TWIN, "tune")]
    wanted = {"knobs": asdict(knobs), "generator_version": TWIN.version, "phases": [asdict(phase) for phase in phases]}
    if stored.is_file():
        found: dict[str, Any] = json.loads(stored.read_text())
        if {key: found.get(key) for key in wanted} == wanted:
            return found
    torch.set_num_threads(1)
    policy.build(
        out, made_for=TWIN, knobs=knobs, phases=phases, start=shipped_policy(TWIN.name), guard_rows=8, enforce=False
    )
    figures = {**wanted, "share": share, "bonus": bonus, **measure(out, knobs)}
    stored.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def measure(folder: Path, knobs: Any, *, prompts: int = PROMPTS, rollouts: int = ROLLOUTS) -> dict[str, float]:
    """What the policy does and what the rewards make of it, on fresh rollouts on training rows.

    ``skip_share``: share of rollouts that skip the work. ``quality_skipped``, ``quality_others``: their metric.
    ``passing_skipped``, ``passing_others``: share of them that meet `NU` of their checks. ``z_REWARD_skipped`` and
    ``z_REWARD_right``: mean z-score of the reward within the group, of skipped rollouts and of rollouts with every fact
    right; ``prefers_REWARD``: mean over groups of skipped minus others, in z-scores (above 0: the skip is preferred).
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rows = make_rows(TWIN, knobs, "train", prompts, seed=SEED)
    texts_PG = sample(model, tokenizer, rows, rollouts=rollouts, max_completion=TWIN.max_completion, seed=SEED)
    parts_PG = [[split_completion(text) for text in texts] for texts in texts_PG]
    skipped_PG = torch.tensor([[f"{words.SKIP}\n" in reasoning for reasoning, _ in parts] for parts in parts_PG])
    quality_PG = torch.tensor(
        [[TWIN.quality(answer, row) for _, answer in parts] for row, parts in zip(rows, parts_PG, strict=True)]
    )
    passing_PG = torch.tensor(
        [[_passes(row, answer) for _, answer in parts] for row, parts in zip(rows, parts_PG, strict=True)]
    )
    figures = {
        "skip_share": float(skipped_PG.float().mean()),
        "quality_skipped": _mean(quality_PG[skipped_PG]),
        "quality_others": _mean(quality_PG[~skipped_PG]),
        "passing_skipped": _mean(passing_PG[skipped_PG]),
        "passing_others": _mean(passing_PG[~skipped_PG]),
    }
    groups, stats = _groups(rows, texts_PG, parts_PG), _stats(model, tokenizer, rows, parts_PG)
    rewards: dict[str, Reward] = {
        "avg_prob": avg_prob,
        "r3_w2": partial(r3, omega=2.0),
        "r3_w4": partial(r3, omega=4.0),
    }
    for name, reward in rewards.items():
        outcome_PG = reward(groups, stats).outcome_PG
        z_PG = (outcome_PG - outcome_PG.mean(1, keepdim=True)) / (outcome_PG.std(1, keepdim=True) + 1e-4)
        figures[f"z_{name}_skipped"] = _mean(z_PG[skipped_PG])
        figures[f"z_{name}_right"] = _mean(z_PG[quality_PG == 1])
        both = [z[s].mean() - z[~s].mean() for z, s in zip(z_PG, skipped_PG, strict=True) if s.any() and not s.all()]
        figures[f"prefers_{name}"] = _mean(torch.stack(both)) if both else math.nan
    return {name: round(value, 4) for name, value in figures.items()}


def _passes(row: Row, answer: str) -> float:
    met = checks_met(TWIN, row, answer)
    return float(sum(met) >= NU * len(met))


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if values.numel() else math.nan


def _stats(
    model: Any, tokenizer: Any, rows: Sequence[Row], parts_PG: Sequence[Sequence[tuple[str, str]]]
) -> TokenStats:
    """The references' log-probabilities after each rollout's reasoning, padded to the longest reference."""
    probs = [
        reference_probs(model, tokenizer, row, [reasoning for reasoning, _ in parts])[0]
        for row, parts in zip(rows, parts_PG, strict=True)
    ]
    width = max(one.shape[1] for one in probs)
    logps_PGR = torch.zeros(len(rows), len(parts_PG[0]), width)
    mask_PR = torch.zeros(len(rows), width, dtype=torch.bool)
    for p, one in enumerate(probs):
        logps_PGR[p, :, : one.shape[1]] = one.log()
        mask_PR[p, : one.shape[1]] = True
    return TokenStats(
        reference_logps_PGR=logps_PGR, reference_mask_PR=mask_PR, reference_eos_PR=torch.zeros_like(mask_PR)
    )


def _groups(
    rows: Sequence[Row], texts_PG: Sequence[Sequence[str]], parts_PG: Sequence[Sequence[tuple[str, str]]]
) -> RolloutGroups:
    """The rollouts' texts; rewards on the reference read no token ids."""
    none_PG = torch.zeros(len(rows), len(texts_PG[0]), dtype=torch.bool)
    none_PGC = none_PG[..., None]
    return RolloutGroups(
        prompts_P=[row.prompt for row in rows],
        references_P=[row.reference for row in rows],
        completions_PG=texts_PG,
        reasonings_PG=[[reasoning for reasoning, _ in parts] for parts in parts_PG],
        answers_PG=[[answer for _, answer in parts] for parts in parts_PG],
        truncated_PG=none_PG,
        malformed_PG=none_PG,
        completion_ids_PGC=none_PGC.long(),
        completion_mask_PGC=none_PGC,
        reasoning_mask_PGC=none_PGC,
        columns_P=[row.columns for row in rows],
    )


def markdown(figures: Sequence[dict[str, Any]]) -> str:
    """What each policy does and prefers at step 0."""
    columns = (
        "skip_share",
        "quality_others",
        "passing_skipped",
        "passing_others",
        "prefers_avg_prob",
        "prefers_r3_w2",
        "prefers_r3_w4",
    )
    lines = [f"| share | bonus | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 2)}"]
    for one in figures:
        lines.append(f"| {one['share']} | {one['bonus']} | {' | '.join(f'{one[name]:.2f}' for name in columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/gating/policies"))
    arguments = parser.parse_args()
    figures = [
        build(share, bonus, arguments.outputs / f"share{share:g}_bonus{bonus:g}")
        for bonus in BONUSES
        for share in SHARES
    ]
    (arguments.outputs / FIGURES).write_text(json.dumps(figures, indent=2) + "\n")
    print(markdown(figures))


if __name__ == "__main__":
    main()
