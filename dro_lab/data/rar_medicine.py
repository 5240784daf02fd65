"""RaR-Medicine: a medical question, answered at length, with a weighted rubric for every question.

Source: Gunjal et al., "Rubrics as Rewards" (arXiv 2507.17746), hub `ScaleAI/RaR-Medicine` (train 17,926, val 2,240,
test 2,242): ``question, reference_answer, question_source, rubric [{title, description, weight}], rubric_list,
rubric_count``. The splits are the hub's own, or those that a folder's files are named after; a file alone is split by
the hash of its questions. The procedural twin comes from `dro_lab.data.twins.rar_medicine`.

A row's id is the hash of its question, so that a question in two splits is seen. The rubric is the data set's own
(`dro_lab.data.rar_medicine_rubric`: ten checks at most gate, pitfalls by their wording), and the quality of a real
answer is its rubric score, over all checks, by the run's judge. The DRO paper reports the win rate against the base
policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dro_lab.checks import choice
from dro_lab.data import hub, sources
from dro_lab.data.rar_medicine_prompt import render_prompt
from dro_lab.data.rar_medicine_rubric import checks_of_items, items_problem
from dro_lab.data.rows import check_text_key, content_id, conversation, finish, text_problem, unknown_schema
from dro_lab.data.split_names import splits_named
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.data.twins.load import load_twin
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SCHEMA = "question, reference_answer and rubric (a list of objects with title, description and weight)"
NOTE = (
    "rubric_score is judged by the run's judge (judge=openai or judge=policy; judge=exact has no program for these "
    "checks): sum of met weights / sum of positive weights. It is not the DRO paper's measure (win rate)"
)


def load(
    *,
    source: str = "twin",
    repo: str = "ScaleAI/RaR-Medicine",
    revision: str | None = None,
    files: str | Sequence[str] | None = None,
    config: str | None = None,
    repeats: str = "error",
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    twin: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Load RaR-Medicine or its twin.

    Args:
        source: ``twin``, ``hub``, or a file or folder (.json, .jsonl, .csv, .parquet) in the schema above.
        repo, revision, files, config: the hub's repository, commit, data files and configuration.
        repeats: a question that stands in two splits is an ``error``, or ``refuse``: the training row is refused, and
            of two held-out rows the later.
        system_prompt: goes before the question.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the questions by split, where the source names no splits.
        sizes: cap on the rows by split, None = all; the twin makes exactly so many (`dro_lab.data.twins.load.SIZES`).
        twin: the twin's knobs (``preset`` and others).
        seed: draws the twin's training rows; its held-out rows and all real rows do not depend on it.

    Raises:
        UserError: unknown source, unreadable file, unknown schema, a question in two splits, no usable row, hub not
            reachable.
    """
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    choice("dataset.repeats", repeats, ("error", "refuse"), todo="refuse takes repeated questions out of train")
    shares = check_shares(shares)
    if source == "twin":
        return load_twin(
            "rar_medicine", twin, sizes=sizes, system_prompt=system_prompt, answer_marker=answer_marker, seed=seed
        )
    if source == "hub":
        parts, commit, digest = hub.read(repo, revision=revision, files=files, config=config)
        loaded = hub.merged(parts, repo)
        provenance = Provenance(dataset="rar_medicine", kind="hub", location=repo, revision=commit, sha256=digest)
    else:
        loaded = sources.read(sources.resolve(source, dataset="rar_medicine", words=("twin", "hub")))
        provenance = Provenance(dataset="rar_medicine", kind="file", location=str(source), sha256=loaded.sha256)
    named = splits_named(loaded.files) if Path(source).is_dir() or source == "hub" else None
    found = Found()
    for part, records in loaded.files.items():
        _add(found, records, split=named[part] if named else "", source=str(source), system_prompt=system_prompt)
    notes = [NOTE, *_counts(found)]
    if named:
        splits = _official(found, source=str(source), refuse=repeats == "refuse")
        notes.append(f"splits as named: {', '.join(f'{split} = {part}' for part, split in named.items())}")
    else:
        rows = [row for _, _, row in found.rows]
        splits, more = split_by_source(rows, source_of=lambda row: row.id, shares=shares)
        notes += more
    if loaded.unread:
        notes.append(f"files not read in {Path(loaded.path).name}: {', '.join(loaded.unread)}")
    task = finish(
        name="rar_medicine",
        provenance=provenance,
        splits=splits,
        sizes=sizes,
        metric=None,
        metric_name="rubric_score",
        answer_marker=answer_marker,
        refused=found.refused,
        notes=notes,
    )
    return replace(task, rubric_score=True)


@dataclass(slots=True)
class Found:
    """What was read: ``(split or "", where, row)``, what was refused, and counts of the rubrics."""

    rows: list[tuple[str, str, Row]] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    seen: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # by split and id: where, reference
    checks: int = 0
    left_out: int = 0  # checks over the ten: they score, and do not gate
    long: int = 0  # rows that had more than ten
    without: int = 0  # rows without a rubric
    pitfalls: dict[str, int] = field(default_factory=lambda: {"no": 0, "yes": 0})  # by what a good answer gets


def _add(
    found: Found, records: Sequence[sources.Record], *, split: str, source: str, system_prompt: str | None
) -> None:
    """Read one part; within its split a question counts once."""
    for record in records:
        if not {"question", "reference_answer"} & set(record.fields):
            raise unknown_schema(source, record.where, record.fields, SCHEMA, dataset="rar_medicine")
        question, reference = record.fields.get("question"), record.fields.get("reference_answer")
        items = _items(record.fields.get("rubric"))
        problem = (
            _named("question", text_problem(question))
            or _named("reference_answer", text_problem(reference))
            or items_problem(items)
        )
        row_id = content_id(str(question))
        if not problem and (split, row_id) in found.seen:
            where, other = found.seen[split, row_id]
            answer = "the same" if other == reference else "another"
            problem = f"repeats the question of {where} with {answer} answer"
        if problem:
            found.refused.append(RefusedRow(where=record.where, reason=problem))
            continue
        found.seen[split, row_id] = record.where, str(reference)
        checks, rest = checks_of_items(items)
        found.checks += len(checks)
        found.left_out += len(rest)
        found.long += bool(rest)
        found.without += not checks
        for check in (*checks, *rest):
            if check.weight < 0:
                found.pitfalls[check.expect] += 1
        row = Row(
            id=row_id,
            prompt=conversation(render_prompt(str(question)), system_prompt=system_prompt),
            reference=str(reference),
            columns={
                "question": question,
                "question_source": record.fields.get("question_source"),
                "rubric": as_column(checks),
                "rubric_rest": as_column(rest),  # counts in the score, does not gate
            },
        )
        found.rows.append((split, record.where, row))


def _named(key: str, problem: str | None) -> str | None:
    return f"{key} {problem}" if problem else None


def _items(value: object) -> Any:
    """The rubric's items; a csv cell holds them as JSON text, and a row without a rubric has none."""
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else []
        except ValueError:
            return value
    return [] if value is None else value


def _official(found: Found, *, source: str, refuse: bool) -> dict[str, list[Row]]:
    """The rows by their own split. A question in two splits is an error, or the training row is refused."""
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    seen: dict[str, tuple[str, str]] = {}
    for split, where, row in sorted(found.rows, key=lambda entry: SPLITS.index(entry[0]) or len(SPLITS)):  # train last
        if row.id in seen:
            other, there = seen[row.id]
            if not refuse:
                raise UserError(
                    f"dataset.source={source}: the question of {there} ({other}) stands again at {where} ({split}). "
                    f"Allowed: each question in one split, or training would see what evaluation asks. Next: delete "
                    f"one of the rows, or dataset.repeats=refuse, which leaves the {split} row out and counts it."
                )
            found.refused.append(RefusedRow(where=where, reason=f"its question is in {other} too ({there})"))
            continue
        seen[row.id] = split, where
        splits[split].append(row)
    return splits


def _counts(found: Found) -> list[str]:
    notes = []
    if found.left_out:
        notes.append(
            f"{found.left_out} checks of {found.long} rows count in the rubric score and do not gate: of more than 10 "
            "those with the largest absolute weight gate, of equals the earlier"
        )
    if sum(found.pitfalls.values()):
        notes.append(
            f"pitfall checks by their wording: {found.pitfalls['no']} name the fault (a good answer gets no), "
            f"{found.pitfalls['yes']} its avoidance (a good answer gets yes)"
        )
    if found.without:
        notes.append(f"{found.without} rows carry no rubric: they are not gated, and their quality is unknown")
    return notes
