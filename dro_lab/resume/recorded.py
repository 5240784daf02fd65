"""The evaluations of an earlier process, read back from the record as far as a run needs them to go on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from dro_lab.evaluation.evaluate import Evaluation, Part
from dro_lab.record.columns import ANSWERS
from dro_lab.record.files import read_parts
from dro_lab.record.read import json_rows
from dro_lab.record.summary import Estimate
from dro_lab.types import RolloutGroups

Place = tuple[str, str]  # split, decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswers:
    """What is read of an evaluation's answers once it is over: their texts, for later ones to be compared with."""

    answers_PG: Sequence[Sequence[str]]


def recorded_evaluations(folder: Path) -> list[Evaluation]:
    """The first evaluation and the last one in a record, one where they are the same, none where there is none.

    They have what an evaluation that is over is asked for: step, estimates, and the answers of the first.
    """
    rows: defaultdict[int, defaultdict[Place, dict[str, Estimate]]] = defaultdict(lambda: defaultdict(dict))
    for row in json_rows(folder / "evals.jsonl"):
        names = ("metric", "value", "low", "high", "n")
        rows[row["step"]][row["split"], row["decoding"]][row["metric"]] = Estimate(
            **{name: row[name] for name in names}
        )
    if not rows:
        return []
    first, last = min(rows), max(rows)
    answers = _answers(folder, step=first)
    found = [_evaluation(first, rows[first], answers)]
    return found if first == last else [*found, _evaluation(last, rows[last], {})]


def _evaluation(
    step: int, parts: Mapping[Place, Mapping[str, Estimate]], answers: Mapping[Place, Sequence[Sequence[str]]]
) -> Evaluation:
    made = [
        Part(
            split=split,
            decoding=decoding,
            rows=(),
            groups=cast(RolloutGroups, RecordedAnswers(answers_PG=answers.get((split, decoding), ()))),
            quality_PG=np.empty((0, 0)),
            wins={},
            estimates=estimates,
        )
        for (split, decoding), estimates in parts.items()
    ]
    return Evaluation(step=step, parts=made, step_result=cast(Any, None))


def _answers(folder: Path, *, step: int) -> dict[Place, list[list[str]]]:
    """By row and sample, in the order in which they were written."""
    found: dict[Place, list[list[str]]] = {}
    table = read_parts(folder / "answers.parquet", ANSWERS).select(["step", "split", "decoding", "sample", "answer"])
    for row in table.to_pylist():
        if row["step"] == step:
            rows = found.setdefault((row["split"], row["decoding"]), [])
            if row["sample"] == 0:
                rows.append([])
            rows[-1].append(row["answer"])
    return found
