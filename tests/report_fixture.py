"""A report's page, read as a reader does, and records for it that hold what a page must survive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from dro_lab.record import Alarm, Estimate, RunRecord
from dro_lab.record.columns import ROLLOUTS, TOKENS
from dro_lab.record.files import ParquetParts
from tests.analysis_fixture import answer_row, write_run
from tests.record_fixture import step_rows, summary


class Page(HTMLParser):
    """The text of a page in reading order, its tags, and ``data``: what its script shows, by name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, Any] = {}
        self.script = ""
        self._hidden = False
        self._source: str | None = None
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._hidden = tag in ("style", "script")
        self._source = (attributes.get("id") or "") if tag == "script" else None
        self.tags.append((tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        self._hidden, self._source = False, None

    def handle_data(self, data: str) -> None:
        if self._source is None:
            self.text += "" if self._hidden else data
        elif self._source:
            self.data[self._source.removeprefix("data-")] = json.loads(data)
        else:
            self.script += data

    def column(self, table: str, name: str) -> list[Any]:
        """A column of an embedded table; texts as texts."""
        content = self.data[table]
        texts = ("prompt", "reasoning", "answer", "reference", "reason", *content["choices"])
        values = content["columns"][name]
        return [content["strings"][value] for value in values] if name in texts and name != "run" else values


HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "javascript:window.hacked=1",
    "\"'><svg onload=window.hacked=1> \u2028 {{ 7 * 7 }} &lt;b&gt;",
)
"""Texts that a page must show and not run."""


def write_hostile(folder: Path) -> Path:
    """A finished run in which every text of a policy or a data set is one of `HOSTILE`."""
    rollouts, tokens = step_rows(np.random.default_rng(0), step=0, skill=0.5, prompts=1, group=len(HOSTILE))
    rows = []
    for row, text in zip(rollouts, HOSTILE, strict=True):
        texts = dict.fromkeys(("prompt", "reasoning", "answer", "reference", "reason"), text)
        verdicts = json.dumps([[text, 1, "yes"], [text, 0, "no"], [text, -1, "yes"]])
        rows.append(row | texts | {"prompt_id": text, "kept": False, "verdicts": verdicts})
    answers = [
        answer_row(step=step, split="test", prompt_id=text, prompt=text, reasoning=text, answer=text, reference=text)
        for step in (0, 8)
        for text in HOSTILE
    ]
    estimate = Estimate(metric="quality", value=0.5, low=0.4, high=0.6, n=4)
    with RunRecord(folder) as record:
        record.config(f"key: {HOSTILE[0]}")
        record.environment(seeds={HOSTILE[0]: 0}, threads=1, command=["python", HOSTILE[1]])
        record.rollouts(rows)
        record.answers(answers)
        record.tokens([row | {"token": HOSTILE[row["position"] % len(HOSTILE)]} for row in tokens])
        record.evaluation([estimate], step=0, split="test")
        alarms = [Alarm(step=1, message=HOSTILE[0], monitor=HOSTILE[1])]
        record.summary(summary(metric=HOSTILE[0], notes=[HOSTILE[2]], before=estimate, alarms=alarms))
    return folder


def write_compared(
    folder: Path, *, reward: str = "r3", seed: int = 0, after: float = 0.7, group: int = 4, **changes: Any
) -> Path:
    """A finished run with rollouts, tokens and answers to compare, which ends at the quality ``after``."""
    steps = (0, 4, 8)
    rng = np.random.default_rng(seed)
    written = [step_rows(rng, step=step, skill=0.5, prompts=2, group=group) for step in range(8)]
    answers = [
        {
            "step": step,
            "prompt_id": f"validation-{row}",
            "sample": sample,
            "quality": float((row + step + (reward == "r3")) % 3 == 0),
        }
        | {"prompt": f"Question {row}?", "answer": f"{reward} says {row} at {step}"}
        | ({"row_win_rate": (row + seed) / 6} if step else {})
        for step in (0, 8)
        for row in range(6)
        for sample in range(2)
    ]
    ends = {
        name: Estimate(metric="quality", value=value, low=value - 0.05, high=value + 0.05, n=32)
        for name, value in (("before", 0.3), ("after", after), ("win_rate", 0.6))
    }
    curve = [(step, 0.3 + (after - 0.3) * step / 8) for step in steps]
    write_run(folder, curve, reward=reward, seed=seed, answers=answers, **(ends | changes))
    first = [row for row in written[0][1] if row["prompt_id"] == "train-0"]
    held_out = [row | {"split": "validation", "prompt_id": "validation-0", "step": 8} for row in first]
    _write(folder / "rollouts.parquet", ROLLOUTS, [row for rollouts, _ in written for row in rollouts])
    _write(folder / "tokens.parquet", TOKENS, [row for _, tokens in written for row in tokens] + held_out)
    return folder


def _write(path: Path, schema: Any, rows: Sequence[dict[str, Any]]) -> None:
    path.unlink(missing_ok=True)
    parts = ParquetParts(path, schema, every=1)
    parts.append(rows)
    parts.close()
