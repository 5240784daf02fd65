"""Five stored training steps of the shipped policy with R3. Completions are replayed: sampling differs by processor.

``python -m tests.invariants.trajectory`` samples and stores a new one; do that only when a change of the numbers is
meant, and say so in the commit.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from dro_lab.components import REFERENCE_NEED, Component
from dro_lab.data.twins.pararev import make_rows, preset
from dro_lab.models import shipped_policy
from dro_lab.rewards.r3 import r3
from tests import lab_fixture as lab

STORED = Path(__file__).parents[1] / "golden" / "trajectory.json"
STEPS = 5


class Losses(TrainerCallback):
    """Keeps what TRL logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.rows.append({"loss": float(logs["loss"]), "grad_norm": float(logs["grad_norm"])})


def run(completions: list[list[list[int]]] | None, folder: Path) -> list[dict[str, Any]]:
    """Five steps of R3; ``completions`` are replayed, None samples new ones."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    steps: list[dict[str, Any]] = []

    def observe(step: Any, advantages: Any) -> dict[str, float]:
        groups = step.scored.groups
        ids = [
            row[mask].tolist()
            for row, mask in zip(
                groups.completion_ids_PGC.flatten(0, 1), groups.completion_mask_PGC.flatten(0, 1), strict=True
            )
        ]
        rewards = step.scored.rewards.outcome_PG
        steps.append({"completions": ids, "rewards": rewards.tolist(), "advantages": advantages.tolist()})
        return {}

    def replay(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        assert completions is not None
        ids = completions[len(steps)]
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": [[0.0] * len(row) for row in ids]}

    losses = Losses()
    tokenizer = AutoTokenizer.from_pretrained(shipped_policy())
    trainer = lab.trainer(
        folder,
        model=AutoModelForCausalLM.from_pretrained(shipped_policy(), dtype=torch.float32),
        tokenizer=tokenizer,
        rows=make_rows(preset("default"), "train", 16, seed=0),
        chosen=lab.pipeline(Component(name="r3", call=r3, needs=REFERENCE_NEED), credit="causal"),
        observer=observe,
        extra={"callbacks": [losses], **({} if completions is None else {"rollout_func": replay})},
        max_steps=STEPS,
        max_completion_length=96,
        temperature=1.4,  # lengths differ, so that the loss is not 0
        learning_rate=1e-4,
    )
    trainer.train()
    return [{**step, **row} for step, row in zip(steps, losses.rows, strict=True)]


if __name__ == "__main__":
    sampled = run(None, Path(tempfile.mkdtemp()))
    STORED.write_text(json.dumps(run([step["completions"] for step in sampled], Path(tempfile.mkdtemp()))) + "\n")
    print(f"wrote {STORED}")
