"""A row's rubric: reading it from the row's columns, and writing it back.

Rows carry their rubric as ``columns["rubric"]``, a list of mappings with the fields of `dro_lab.types.Check`; no
column, None or an empty list: the query has no rubric and is not gated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from dro_lab.types import MAX_CHECKS, Check


def checks_of(
    columns: Mapping[str, Any], *, column: str = "rubric", limit: int | None = MAX_CHECKS
) -> tuple[Check, ...]:
    """The checks that a row carries in ``column``, in order; at most ``limit`` (None: any number).

    Raises:
        ValueError: what stands there is no rubric; says what is wrong, the caller says where.
    """
    rubric = columns.get(column)
    if rubric is None:
        return ()
    if isinstance(rubric, str) or not isinstance(rubric, Sequence):
        raise ValueError(f"`rubric` is a {type(rubric).__name__}, must be a list of checks")
    if limit is not None and len(rubric) > limit:
        raise ValueError(f"`rubric` has {len(rubric)} checks, at most {limit} are allowed")
    checks = tuple(_check(item, number) for number, item in enumerate(rubric, start=1))
    ids = [check.id for check in checks]
    if len(set(ids)) < len(ids):
        raise ValueError(f"`rubric` has two checks with the id {next(i for i in ids if ids.count(i) > 1)!r}")
    return checks


def as_column(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as a row's column (plain values, as JSON takes them)."""
    # not asdict(), whose deep copies take a third of the time in which a twin's rows are made
    return [{key: _own(getattr(check, key)) for key in KEYS} for check in checks]


def _own(value: Any) -> Any:
    return dict(value) if type(value) not in PLAIN and isinstance(value, Mapping) else value


PLAIN = frozenset({str, float, type(None)})
"""What nearly all values are: asking whether one is a mapping takes longer than all the rest."""
KEYS = tuple(field.name for field in fields(Check))


def _check(item: object, number: int) -> Check:
    if isinstance(item, Check):
        return item
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, Mapping):
        raise ValueError(f"check {number} of `rubric` is a {type(item).__name__}, must be a text or an object")
    if unknown := sorted(set(map(str, item)) - set(KEYS)):
        raise ValueError(f"check {number} of `rubric` has the unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    text, expect, weight = item.get("text"), item.get("expect", "yes"), item.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"check {number} of `rubric` has no `text`")
    if expect not in ("yes", "no"):
        raise ValueError(f"check {number} of `rubric`: expect={expect!r}, must be yes or no")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"check {number} of `rubric`: weight={weight!r}, must be a number")
    predicate = item.get("predicate")
    if predicate is not None and not isinstance(predicate, Mapping):
        raise ValueError(f"check {number} of `rubric`: predicate is a {type(predicate).__name__}, must be an object")
    return Check(
        id=str(item.get("id") or f"check-{number}"),
        text=text,
        weight=float(weight),
        expect=expect,
        predicate=predicate,
    )
