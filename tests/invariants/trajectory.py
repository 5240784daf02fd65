"""A stored trajectory of five training steps: completions are replayed, since sampled tokens differ between processors.

``python -m tests.invariants.trajectory`` samples and stores a new one; do that only when a change of the numbers is
meant, and say so in the commit.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from dro_lab.components import REFERENCE_NEED, Component
from dro_lab.rewards.r3 import r3
from tests import lab_fixture as lab
from tests.tiny import byte_tokenizer, tiny_qwen3

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
    model = tiny_qwen3(len(byte_tokenizer()))
    trainer = lab.trainer(
        folder,
        model=model,
        chosen=lab.pipeline(Component(name="r3", call=partial(r3, omega=2.0, clip_low=0.0), needs=REFERENCE_NEED)),
        observer=observe,
        extra={"callbacks": [losses], **({} if completions is None else {"rollout_func": replay})},
        max_steps=STEPS,
        learning_rate=1e-3,
    )
    trainer.train()
    return [{**step, **row} for step, row in zip(steps, losses.rows, strict=True)]


if __name__ == "__main__":
    sampled = run(None, Path(tempfile.mkdtemp()))
    STORED.write_text(json.dumps(run([step["completions"] for step in sampled], Path(tempfile.mkdtemp()))) + "\n")
    print(f"wrote {STORED}")
