"""The writer of a run's record: the contract between training and everything that reads it (`README.md`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from dro_lab.errors import UserError
from dro_lab.record.columns import ANSWERS, ROLLOUTS, SCHEMA_VERSION, TOKENS
from dro_lab.record.environment import environment
from dro_lab.record.files import JsonLines, ParquetParts, write_atomic, write_json
from dro_lab.record.summary import Estimate, Summary, write_summary


class RunRecord:
    """Writes one run's folder. Used as a context manager, it closes its files however the run ends.

    Everything written is readable at once, but for rollouts, which reach the disk every ``flush_every`` steps: a
    killed run loses at most those.

    Args:
        folder: the run's folder; made if missing. It must not hold another run's record.
        flush_every: number of steps whose rollouts are gathered before they are written.

    Raises:
        UserError: the folder cannot be written, or holds a run already.
    """

    def __init__(self, folder: Path, *, flush_every: int = 4) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / "summary.json").exists():
                raise UserError(
                    f"hydra.run.dir={self.folder} already holds a run, and a record is never overwritten. "
                    "Give another folder, or remove this one."
                )
            self._metrics = JsonLines(self.folder / "metrics.jsonl")
            self._evals = JsonLines(self.folder / "evals.jsonl")
        except OSError as error:
            raise UserError(
                f"hydra.run.dir={self.folder} cannot be written ({error.strerror or error}). "
                "Give a folder that you may write to, for example hydra.run.dir=/tmp/run."
            ) from None
        self._rollouts = ParquetParts(self.folder / "rollouts.parquet", ROLLOUTS, every=flush_every)
        self._tokens = ParquetParts(self.folder / "tokens.parquet", TOKENS, every=1)
        self._answers = ParquetParts(self.folder / "answers.parquet", ANSWERS, every=1)
        self._environment: dict[str, Any] = {}
        self._start = datetime.now().astimezone()

    def config(self, text: str) -> None:
        """Write ``config.yaml``: the resolved configuration as text."""
        write_atomic(self.folder / "config.yaml", text if text.endswith("\n") else text + "\n")

    def environment(
        self, *, seeds: Mapping[str, int], threads: int, command: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Write ``env.json`` (see `dro_lab.record.environment`) and return it; `close` adds the run's end to it."""
        self._environment = {
            "schema_version": SCHEMA_VERSION,
            **environment(seeds=seeds, threads=threads, command=command),
            "pid": os.getpid(),
            "start": self._start.isoformat(timespec="seconds"),
            "end": None,
            "seconds": None,
        }
        write_json(self.folder / "env.json", self._environment)
        return self._environment

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Append one row to ``metrics.jsonl``: the step, seconds since the start, and ``values``."""
        seconds = round((datetime.now().astimezone() - self._start).total_seconds(), 3)
        self._metrics.append({"step": step, "seconds": seconds, **{key: float(item) for key, item in values.items()}})

    def evaluation(self, estimates: Sequence[Estimate], *, step: int, split: str, decoding: str = "sampled") -> None:
        """Append one row a metric to ``evals.jsonl``; ``decoding`` is ``sampled`` or ``greedy``."""
        for item in estimates:
            row = {"metric": item.metric, "value": float(item.value), "low": float(item.low), "high": float(item.high)}
            self._evals.append({"step": step, "split": split, "decoding": decoding, **row, "n": int(item.n)})

    def rollouts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take one step's rollouts (`dro_lab.record.rows.rollout_rows`)."""
        self._rollouts.append(rows)

    def tokens(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the reference tokens of a sample of queries (`dro_lab.record.rows.token_rows`)."""
        self._tokens.append(rows)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the answers of one part of an evaluation (`dro_lab.record.rows.answer_rows`)."""
        self._answers.append(rows)

    def summary(self, summary: Summary) -> dict[str, Any]:
        """Write ``summary.json``, validated; called once with ``running`` at the start and once at the end."""
        return write_summary(self.folder / "summary.json", summary)

    def close(self) -> None:
        """Finish every file; a second call does nothing."""
        self._metrics.close()
        self._evals.close()
        self._rollouts.close()
        self._tokens.close()
        self._answers.close()
        if self._environment and self._environment["end"] is None:
            end = datetime.now().astimezone()
            seconds = round((end - self._start).total_seconds(), 3)
            self._environment.update(end=end.isoformat(timespec="seconds"), seconds=seconds)
            write_json(self.folder / "env.json", self._environment)

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
