"""Running the command line in this process, and a policy folder small enough for that."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from tests.tiny import TEMPLATES, byte_tokenizer, tiny_qwen3

RUN_FILES = ("summary.json", "metrics.jsonl", "evals.jsonl", "rollouts.parquet", "rollouts", "policy", "report.html")
"""What makes a folder look like a run."""

SMALL = (
    "tracking=none",
    "steps=2",
    "threads=1",
    "algorithm.num_generations=2",
    "algorithm.per_device_train_batch_size=4",
    "rollout.max_completion_length=8",
    "evaluation.prompts=2",
    "evaluation.samples=2",
    "evaluation.bootstrap=20",
    "evaluation.token_rows=1",
)
"""Overrides that make a run take a second."""

SIZES = "dataset.sizes={train: 8, validation: 4, test: 2, ood: 2}"
"""Rows of a twin by split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def save_policy(folder: Path, *, context: int = 2048) -> Path:
    """A random Qwen3 of a few kilobytes with its tokenizer and chat template, as a checkpoint folder."""
    tokenizer = byte_tokenizer()
    model = tiny_qwen3(len(tokenizer))
    with torch.no_grad():
        model.model.norm.weight.mul_(3.0)  # sharper: some reference tokens are likely, so that R3 has what to weigh
    model.config.max_position_embeddings = context
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # the prompt opens the reasoning, so that whatever is sampled is reasoning and moves the reference's probabilities
    (folder / "chat_template.jinja").write_text(TEMPLATES["open"])
    return folder


def run_main(arguments: Sequence[str]) -> Ended:
    """``python -m dro_lab.run ARGUMENTS`` in this process."""
    from dro_lab.run import main

    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", ["dro_lab.run", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Ended(code=code, out=out.getvalue(), err=err.getvalue())


def small_run(policy: Path, overrides: Sequence[str]) -> list[str]:
    """The arguments of the small run in the folder `run`, with these overrides in the place of its own."""
    given = {override.lstrip("+~").split("=")[0] for override in overrides}
    if "dataset=jsonl" in overrides or "dataset.source" in given:
        given.add("dataset.sizes")  # all of the user's rows
    base = [f"model.path={policy}", *SMALL, SIZES, "outputs=outputs", "hydra.run.dir=run"]
    return [argument for argument in base if argument.split("=")[0] not in given] + list(overrides)


def assert_refused(ended: Ended, folder: Path, expected: Sequence[str]) -> None:
    """One message that holds ``expected``, nothing else on stderr, a non-zero exit, and no run below ``folder``."""
    assert ended.code not in (0, None)
    messages = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(messages) == 1, ended.err
    assert ended.err.strip() == messages[0], "more than the one message was printed"
    assert "Traceback" not in ended.text
    for text in expected:
        assert text in messages[0]
    assert traces(folder) == []


def traces(folder: Path) -> list[str]:
    """The files below ``folder`` that would make a reader take it for a run."""
    return sorted(
        str(found.relative_to(folder)) for name in RUN_FILES for found in folder.rglob(name) if found.exists()
    )
