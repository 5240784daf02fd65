"""Running the command line in this process, and a policy folder small enough for that."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

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
    "dataset.sizes={train: 8, validation: 4, test: 2}",
)
"""Overrides that make a run take a second."""


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
    from tests.tiny import byte_tokenizer, tiny_qwen3

    tokenizer = byte_tokenizer()
    model = tiny_qwen3(len(tokenizer))
    model.config.max_position_embeddings = context
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def quiet_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """A working directory of its own, so that a command leaves nothing elsewhere."""
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        yield


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


def traces(folder: Path) -> list[str]:
    """The files below ``folder`` that would make a reader take it for a run."""
    return sorted(
        str(found.relative_to(folder)) for name in RUN_FILES for found in folder.rglob(name) if found.exists()
    )
