"""The writer of a run's record: the contract between training and everything that reads it (`README.md`)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from dro_lab.errors import UserError
from dro_lab.record.columns import ANSWERS, ROLLOUTS, SCHEMA_VERSION, TOKENS
from dro_lab.record.environment import environment
from dro_lab.record.files import JsonLines, ParquetParts, parts_there, write_atomic, write_json
from dro_lab.record.summary import Estimate, Summary, write_summary

LINES = ("metrics", "evals")
TABLES = ("rollouts", "tokens", "answers")

Mark = Mapping[str, Any]
"""Where a record stood: bytes of its jsonl files, parts of its tables, seconds since the start and when that was."""

NOTHING: Mark = dict.fromkeys((*LINES, *TABLES), 0)
"""The mark of a record in which nothing stands yet."""


def lacks(folder: Path, mark: Mark) -> str | None:
    """What a record no longer holds of what stood in it at ``mark``; None: it is all there."""
    for name in LINES:
        file = folder / f"{name}.jsonl"
        if mark[name] and (not file.exists() or file.stat().st_size < mark[name]):
            return f"{file.name} is shorter than it was"
    for name in TABLES:
        if parts_there(folder / f"{name}.parquet") < mark[name]:
            return f"rows of {name}.parquet are missing"
    return None


class RunRecord:
    """Writes one run's folder. Used as a context manager, it closes its files however the run ends.

    Everything written is readable at once, but for rollouts, which reach the disk every ``flush_every`` steps: a
    killed run loses at most those.

    Args:
        folder: the run's folder; made if missing. It must not hold another run's record.
        flush_every: number of steps whose rollouts are gathered before they are written.
        mark: the folder's own record goes on from here, and what was written behind it is cut off; None: a new one.

    Raises:
        UserError: the folder cannot be written, or holds a run already.
    """

    def __init__(self, folder: Path, *, flush_every: int = 4, mark: Mark | None = None) -> None:
        self.folder = Path(folder)
        keep: Mapping[str, Any] = mark or {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if mark is None and (self.folder / "summary.json").exists():
                raise UserError(
                    f"hydra.run.dir={self.folder} already holds a run, and a record is never overwritten. "
                    "Give another folder, or remove this one."
                )
            self._metrics = JsonLines(self.folder / "metrics.jsonl", keep=keep.get("metrics"))
            self._evals = JsonLines(self.folder / "evals.jsonl", keep=keep.get("evals"))
            self._rollouts = self._table("rollouts", ROLLOUTS, every=flush_every, keep=keep)
            self._tokens = self._table("tokens", TOKENS, every=1, keep=keep)
            self._answers = self._table("answers", ANSWERS, every=1, keep=keep)
        except OSError as error:
            raise UserError(
                f"hydra.run.dir={self.folder} cannot be written ({error.strerror or error}). "
                "Give a folder that you may write to, for example hydra.run.dir=/tmp/run."
            ) from None
        self._environment: dict[str, Any] = {}
        now = datetime.now().astimezone()
        self._start = now - timedelta(seconds=keep.get("seconds", 0.0))  # what lies between two processes is no time
        self._began: str = keep.get("start") or now.isoformat(timespec="seconds")
        self._goes_on = mark is not None
        self._closed = False

    def _table(self, name: str, schema: Any, *, every: int, keep: Mapping[str, Any]) -> ParquetParts:
        return ParquetParts(self.folder / f"{name}.parquet", schema, every=every, keep=keep.get(name))

    def mark(self) -> Mark:
        """Write what is gathered, and say where the record stands now."""
        for table in (self._rollouts, self._tokens, self._answers):
            table.flush()
        return {
            "metrics": self._metrics.size,
            "evals": self._evals.size,
            "rollouts": self._rollouts.parts,
            "tokens": self._tokens.parts,
            "answers": self._answers.parts,
            "seconds": self._seconds(),
            "start": self._began,
        }

    def _seconds(self) -> float:
        return round((datetime.now().astimezone() - self._start).total_seconds(), 3)

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
            "start": self._began,
            "end": None,
            "seconds": None,
            "resumed": self._resumed(),
        }
        write_json(self.folder / "env.json", self._environment)
        return self._environment

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Append one row to ``metrics.jsonl``: the step, seconds since the start, and ``values``."""
        self._metrics.append(
            {"step": step, "seconds": self._seconds(), **{key: float(item) for key, item in values.items()}}
        )

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

    def _resumed(self) -> list[str]:
        """When later processes went on with the run."""
        if not self._goes_on:
            return []
        try:
            before = json.loads((self.folder / "env.json").read_text(encoding="utf-8")).get("resumed", [])
        except (OSError, ValueError, AttributeError):
            before = []
        return [*before, datetime.now().astimezone().isoformat(timespec="seconds")]

    def abandon(self) -> None:
        """Close the files as they are, where nothing more can be written: `mark` and the reader take what is there."""
        self._closed = True
        for lines in (self._metrics, self._evals):
            with contextlib.suppress(OSError):
                lines.close()

    def close(self) -> None:
        """Finish every file; a second call does nothing."""
        if self._closed:
            return
        self._metrics.close()
        self._evals.close()
        self._rollouts.close()
        self._tokens.close()
        self._answers.close()
        if self._environment and self._environment["end"] is None:
            end = datetime.now().astimezone().isoformat(timespec="seconds")
            self._environment.update(end=end, seconds=self._seconds())
            write_json(self.folder / "env.json", self._environment)

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
