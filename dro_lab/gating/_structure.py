"""Where a run's schema and predicates come from, and whether the references keep to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError
from dro_lab.gating._json import compile_schema, strict_json
from dro_lab.gating.predicates import predicate
from dro_lab.judges.protocol import UNKNOWN, YES
from dro_lab.types import Row, Task

Verdicts = Callable[[str, Row], dict[str, int]]


def prepare_structure(task: Task, *, path: str | None, predicates: Sequence[str] | None, verdicts: Verdicts) -> Task:
    """Write schema and predicates into the rows' columns and hold every reference against them.

    A *row's own* predicate that its reference fails is ill-posed: it is dropped there, counted and noted, as a rubric's
    check would be. A schema, or a predicate of the configuration, that a reference fails is refused.

    Raises:
        UserError: no schema and no predicate anywhere; a schema that cannot be read or is broken; an unknown predicate;
            a reference that fails; each names key or row.
    """
    given = None if path is None else read_schema(path)
    dropped: Counter[str] = Counter()
    splits: dict[str, list[Row]] = {}
    for split, rows in task.splits.items():
        splits[split] = [
            _checked(_with(row, given, predicates), split, path, predicates is not None, verdicts, dropped)
            for row in rows
        ]
    train = splits.get("train", [])
    bare = sum(not (row.columns.get("schema") or row.columns.get("predicates")) for row in train)
    if bare == len(train):
        raise UserError(
            f"gating=schema with dataset {task.name}: no training row has a `schema` or `predicates`; give "
            "gating.schema=FILE.json or gating.predicates=[NAME,...], or choose gating=rubric or gating=none"
        )
    notes = [f"gating=schema: {bare} of {len(train)} training rows have neither: not gated"] if bare else []
    notes += [
        f"gating=schema: {count} rows' own predicate {name} was dropped: their reference does not meet it"
        for name, count in sorted(dropped.items())
    ]
    return replace(task, splits=splits, notes=(*task.notes, *notes))


def read_schema(path: str) -> Mapping[str, Any]:
    """A JSON schema from a file.

    Raises:
        UserError: it cannot be read, is no JSON object, or no valid schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"gating.schema={path}: cannot be read ({error}); give the path of a JSON schema") from error
    try:
        schema = strict_json(text)
    except ValueError as error:
        raise UserError(f"gating.schema={path}: is not JSON ({error}); correct the file") from error
    _compile(schema, f"gating.schema={path}")
    return schema


def _compile(schema: Any, where: str) -> None:
    if not isinstance(schema, Mapping):
        raise UserError(f"{where}: a schema is a JSON object, this is a {type(schema).__name__}; correct it")
    try:
        compile_schema(schema)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: is no valid JSON schema ({error}); correct it") from error


def _with(row: Row, schema: Mapping[str, Any] | None, predicates: Sequence[str] | None) -> Row:
    columns = dict(row.columns)
    if schema is not None:
        columns["schema"] = schema
    elif isinstance(columns.get("schema"), str):  # as files without nesting carry it
        try:
            columns["schema"] = strict_json(columns["schema"])
        except ValueError as error:
            raise UserError(f"gating=schema: row {row.id}: `schema` is not JSON ({error}); correct the row") from error
    if predicates is not None:
        columns["predicates"] = list(predicates)
    return replace(row, columns=columns)


def _checked(
    row: Row, split: str, path: str | None, configured: bool, verdicts: Verdicts, dropped: Counter[str]
) -> Row:
    where = f"gating=schema: {split} row {row.id}"
    if row.columns.get("schema") is not None:
        _compile(row.columns["schema"], where if path is None else f"gating.schema={path}")
    names = row.columns.get("predicates") or ()
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UserError(f"{where}: `predicates` is a {type(names).__name__}, must be a list of names; correct the row")
    for name in names:
        predicate(name, where=where)
    failed = {name: verdict for name, verdict in verdicts(row.reference, row).items() if verdict != YES}
    own = [] if configured else [name for name in names if name in failed]
    if faults := [name for name in failed if name not in own]:
        source = f"gating.schema={path}" if path else "gating.predicates" if configured else "the row's schema"
        verb = "cannot be decided on" if failed[faults[0]] == UNKNOWN else "is failed by"
        raise UserError(
            f"{where}: the check {faults[0]!r} of {source} {verb} the reference itself, {_short(row.reference)}"
            f"{_why(row)}; correct the schema, the predicates or the row"
        )
    dropped.update(own)
    return replace(row, columns={**row.columns, "predicates": [n for n in names if n not in own]}) if own else row


def _why(row: Row) -> str:
    """The first thing that the schema says against the reference."""
    if not row.columns.get("schema"):
        return ""
    try:
        faults = compile_schema(row.columns["schema"]).faults(strict_json(row.reference))
    except ValueError as error:
        return f" ({error})"
    return f" ({next(iter(faults.values()))})" if faults else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
