"""From records to rows: what every loader shares (texts, prompts, ids, refusals, the finished Task)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dro_lab.data.splits import SPLITS, cap, check_sizes
from dro_lab.errors import UserError
from dro_lab.types import Message, Metric, Provenance, RefusedRow, Row, Task


def text_problem(value: object) -> str | None:
    """Why a value cannot serve as a text, or None: a string, not blank, without lone surrogates (no tokenizer takes
    those)."""
    if not isinstance(value, str):
        return f"is {type(value).__name__}, must be a string" if value is not None else "is missing"
    if not value.strip():
        return "is empty"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate at character {error.start}"
    return None


def conversation(user: str, *, system_prompt: str | None) -> list[Message]:
    """The prompt as chat templates take it: the system prompt where there is one, then the user's message."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": user}]


def content_id(*texts: str) -> str:
    """A short id made from the texts themselves, for rows whose file gives none."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def unique(
    rows: Iterable[tuple[str, Row]], *, file: str, merge: bool
) -> tuple[list[tuple[str, Row]], list[RefusedRow]]:
    """Refuse exact repeats (same prompt and reference); one id on two different rows is an error.

    Args:
        rows: ``(where, row)`` pairs in file order.
        file: the source, for messages.
        merge: whether a repeat under another id is refused too (False keeps a benchmark's own count).

    Raises:
        UserError: two rows that differ carry one id.
    """
    kept: list[tuple[str, Row]] = []
    by_content: dict[tuple[str, str, str], str] = {}
    by_id: dict[str, str] = {}
    refused = []
    for where, row in rows:
        content = (repr(row.prompt), row.reference, "" if merge else row.id)
        if content in by_content:
            refused.append(RefusedRow(where=where, reason=f"repeats {by_content[content]} (same prompt and reference)"))
            continue
        if row.id in by_id:
            raise UserError(duplicate_id(row.id, by_id[row.id], where, file=file))
        by_content[content] = by_id[row.id] = where
        kept.append((where, row))
    return kept, refused


def duplicate_id(row_id: str, first: str, second: str, *, file: str) -> str:
    """The message for one id on two rows."""
    return (
        f"{file}: the id {row_id!r} stands at {first} and again at {second}. Allowed: each id once in all splits. "
        f"Next: give the second row an id of its own, or delete it."
    )


def check_disjoint(splits: Mapping[str, Sequence[Row]], *, source: str) -> None:
    """Raise `UserError` where one id stands in two splits: what is trained on must not be evaluated."""
    split_of: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            if split_of.setdefault(row.id, split) != split:
                raise UserError(
                    f"dataset.source={source}: the id {row.id!r} stands in {split_of[row.id]} and in {split}. Allowed: "
                    f"each id in one split, or training would see what evaluation asks. Next: delete one of the two "
                    f"rows, or give different rows different ids."
                )


def unknown_schema(file: str, where: str, found: Iterable[object], expected: str, *, dataset: str) -> UserError:
    """The error for a file whose rows follow no schema of the data set: the keys found and the keys expected."""
    keys = ", ".join(sorted(map(str, found))[:20]) or "none"
    return UserError(
        f"{file} ({where}): these rows follow no schema of dataset={dataset}; keys found: {keys}. "
        f"Expected: {expected}. Next: rename the columns, or use dataset=jsonl with `prompt` and `reference`."
    )


def finish(
    *,
    name: str,
    provenance: Provenance,
    splits: Mapping[str, Sequence[Row]],
    sizes: Mapping[str, int | None] | None,
    metric: Metric | None,
    metric_name: str,
    answer_marker: str,
    refused: Sequence[RefusedRow],
    notes: Sequence[str],
) -> Task:
    """Check that a row is left and no id is in two splits, cap the splits, and build the Task.

    Raises:
        UserError: every row was refused, or an id stands in two splits.
    """
    check_disjoint(splits, source=provenance.location)
    if not any(splits.values()):
        reasons = summarise(refused)
        raise UserError(
            f"dataset.source={provenance.location}: no usable row is left of {len(refused)}. "
            f"Reasons: {'; '.join(f'{n} x {reason}' for reason, n in list(reasons.items())[:5])}. "
            f"Next: correct the file."
            if refused
            else f"dataset.source={provenance.location}: holds no rows. Next: give a source with at least one row."
        )
    capped, cap_notes = cap({split: splits.get(split, []) for split in SPLITS}, check_sizes(sizes))
    return Task(
        name=name,
        provenance=provenance,
        splits=capped,
        metric=metric,
        metric_name=metric_name,
        answer_marker=answer_marker,
        refused=tuple(refused),
        notes=(*notes, *cap_notes),
    )


def summarise(refused: Sequence[RefusedRow]) -> dict[str, int]:
    """How many rows were refused for each reason, the most frequent first. Free-standing numbers are read as N."""
    counts: dict[str, int] = {}
    for row in refused:
        kind = re.sub(r"(?<![\w.])\d[\d,]*\b", "N", row.reason)
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def check_text_key(key: str, value: Any, *, optional: bool = True) -> None:
    """Raise `UserError` unless a configured text is a string (or null where optional)."""
    if (value is None and optional) or isinstance(value, str):
        return
    raise UserError(
        f"dataset.{key}={value!r}: must be a text{' or null' if optional else ''}. "
        f"Next: quote it, e.g. 'dataset.{key}=\"...\"'."
    )
