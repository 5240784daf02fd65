"""Agreement with people: a file of human preferences between two revisions of a paragraph, in ParaRev's schema.

A row has ``original_paragraph``, ``reference_paragraph``, ``instruction``, ``model_A_paragraph``,
``model_B_paragraph`` and ``eval_annotation`` with ``preference`` A, B, Both or None (the latter two are ties).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dro_lab.data import sources
from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.errors import UserError
from dro_lab.judge_audit.figures import Figure, clustered_mean
from dro_lab.judge_audit.measure import SWAPPED, both_orders, disagreement
from dro_lab.judge_audit.settings import Audit
from dro_lab.judges.protocol import Judge, Pair
from dro_lab.types import RefusedRow, Row

PEOPLE = "agreement with people"
TEXTS = ("original_paragraph", "reference_paragraph", "instruction", "model_A_paragraph", "model_B_paragraph")
CHOICES: Mapping[str, float] = {"A": 1.0, "B": 0.0, "Both": 0.5, "None": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One judgement: the pair as it was shown, and which answer the person chose (1 the first, 0.5 neither)."""

    pair: Pair
    choice: float


def read(path: str) -> tuple[list[Preference], list[RefusedRow], str]:
    """The judgements of a file, the rows that are none, and the file's SHA-256.

    Raises:
        UserError: there is no such file, it cannot be read, or no row of it is a judgement.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"audit.preferences={path}: no such file; give a file of human judgements in ParaRev's schema")
    found: list[Preference] = []
    refused: list[RefusedRow] = []
    for record in sources.read(file).records:
        problem = _problem(record.fields)
        if problem:
            refused.append(RefusedRow(where=record.where, reason=problem))
            continue
        before, reference, instruction, first, second = (str(record.fields[key]) for key in TEXTS)
        row = Row(
            id=str(record.fields.get("id_paragraph") or record.where),
            prompt=[{"role": "user", "content": render_prompt(before, instruction)}],
            reference=reference,
            columns={"paragraph": before, "instruction": instruction},
        )
        choice = CHOICES[record.fields["eval_annotation"]["preference"]]
        found.append(Preference(pair=Pair(row=row, first=first, second=second), choice=choice))
    if not found:
        why = f"; the first: {refused[0].where}: {refused[0].reason}" if refused else ""
        raise UserError(
            f"audit.preferences={path}: no row is a human judgement{why}. Needed are {', '.join(TEXTS)} and "
            "eval_annotation.preference"
        )
    return found, refused, sources.file_sha256(file)


def _problem(fields: Mapping[str, Any]) -> str:
    for key in TEXTS:
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            return f"{key} is missing or empty"
    note = fields.get("eval_annotation")
    choice = note.get("preference") if isinstance(note, Mapping) else None
    if choice not in CHOICES:
        return f"eval_annotation.preference is {choice!r}, must be one of {', '.join(CHOICES)}"
    return ""


def preference_figures(judge: Judge, given: Sequence[Preference], audit: Audit) -> list[Figure]:
    """Agreement of the judge, asked in both orders, with the people; judgements of one query are resampled together.

    A judge whose mind the order changes has chosen neither. Where the person chose one, choosing neither agrees by
    one half. Chance: always saying what people say most often.
    """
    orders = both_orders(judge, [preference.pair for preference in given])
    queries = [(p.pair.row.prompt[0]["content"], p.pair.row.reference) for p in given]
    chosen = [_choice((first + second) / 2) for first, second in orders]
    decided = [math.nan if p.choice == 0.5 else 1 - abs(p.choice - c) for p, c in zip(given, chosen, strict=True)]
    three = [math.nan if math.isnan(c) else float(p.choice == c) for p, c in zip(given, chosen, strict=True)]
    undecided = sum(p.choice == 0.5 for p in given)
    figures = []
    for name, values, extra in (
        ("of A or B, where the person chose one", decided, undecided),
        ("of A, B or neither", three, 0),
    ):
        figure = clustered_mean(
            PEOPLE,
            name,
            values,
            queries,
            confidence=audit.confidence,
            resamples=audit.resamples,
            seed=audit.seed,
        )
        figures.append(replace(figure, unknown=figure.unknown - extra))
    counts = Counter(p.choice for p in given)
    one = counts[1.0] + counts[0.0]
    for name, most, n in (
        ("chance, of A or B", max(counts[1.0], counts[0.0]), one),
        ("chance, of A, B or neither", max(counts.values()), len(given)),
    ):
        value = most / n if n else math.nan
        figures.append(Figure(part=PEOPLE, name=name, value=value, low=math.nan, high=math.nan, n=n))
    return [*figures, disagreement(PEOPLE, SWAPPED, orders, audit)]


def _choice(preference: float) -> float:
    """Of both orders together: the first, the second, or neither."""
    return preference if math.isnan(preference) or preference == 0.5 else float(preference > 0.5)
