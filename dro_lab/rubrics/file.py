"""Files of rubrics: a header line and one line a query, as ``python -m dro_lab.rubrics`` writes them.

A query is known by its content, the hash of prompt, reference and the writing template's version, so that a file fits
the data set whatever its rows are called, and changed content never gets a rubric that was written for something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.types import Check, Row

FORMAT = 1
WRITE_ONE = "write one with `python -m dro_lab.rubrics dataset=NAME judge=NAME out=FILE`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Who wrote the file, for which data set, by which judge and template."""

    dataset: str
    judge: str
    model: str
    template: str
    date: str = ""
    command: str = ""
    commit: str = ""
    rubrics: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One query's rubric: the checks that its reference meets, and those dropped, each with the reason."""

    key: str
    id: str
    checks: Sequence[Check] = ()
    dropped: Sequence[Mapping[str, Any]] = ()  # {"check": {...} or None, "reason": text}
    malformed: str = ""  # why nothing could be read from what was written; "" where something could
    reply: str = ""  # the beginning of what could not be read

    def line(self) -> str:
        text = json.dumps({**asdict(self), "checks": as_column(self.checks)}, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair of a reply stays an escape


def content_key(row: Row, template: str) -> str:
    """sha256 of template version, prompt and reference."""
    content = [template, [[message["role"], message["content"]] for message in row.prompt], row.reference]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RubricFile:
    """A read file."""

    path: Path
    header: Header
    entries: Mapping[str, Entry] = field(default_factory=dict)  # by key


def read(path: str | Path, *, key: str = "gating.rubrics.file") -> RubricFile:
    """Read a file of rubrics.

    Args:
        key: the configuration key that named the file, for messages.

    Raises:
        UserError: the file cannot be read, or a line of it is no header or no rubric; says which and what to do.
    """
    path = Path(path)
    try:
        # not splitlines(): JSON leaves U+2028 and the like as they stand, and they end no line of the file
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}={path}: cannot be read ({error}); {WRITE_ONE}") from error
    if lines == [""]:
        raise UserError(f"{key}={path}: is empty; {WRITE_ONE}")
    header = _header(_object(lines[0], f"{key}={path} line 1"), f"{key}={path}")
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"{key}={path} line {number}"
        entry = _entry(_object(line, where), where)
        if entry.key in entries:
            raise UserError(f"{where}: the query {entry.id} has a rubric already; keep one of the two lines")
        entries[entry.key] = entry
    return RubricFile(path, header, entries)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{where}: is not JSON ({error}); remove the line, and writing again fills what is missing"
        ) from (error)
    if not isinstance(value, dict):
        raise UserError(f"{where}: is a {type(value).__name__}, must be an object; {WRITE_ONE}")
    return value


def _header(value: dict[str, Any], where: str) -> Header:
    known = {item.name for item in fields(Header)}
    required = {"dataset", "judge", "model", "template", "rubrics"}
    if missing := sorted(required - set(value)):
        raise UserError(f"{where} line 1: is no header of a rubric file (no `{missing[0]}`); {WRITE_ONE}")
    if value["rubrics"] != FORMAT:
        raise UserError(f"{where} line 1: rubrics={value['rubrics']}, this version reads {FORMAT}; {WRITE_ONE}")
    return Header(**{name: item for name, item in value.items() if name in known})


def _entry(value: dict[str, Any], where: str) -> Entry:
    if not isinstance(value.get("key"), str):
        raise UserError(f"{where}: has no `key` (the query's content hash); {WRITE_ONE}")
    try:
        checks = checks_of({"rubric": value.get("checks", [])})
    except ValueError as error:
        raise UserError(f"{where}: {error}; correct or remove the line") from error
    return Entry(
        key=value["key"],
        id=str(value.get("id", "")),
        checks=checks,
        dropped=tuple(value.get("dropped") or ()),
        malformed=str(value.get("malformed") or ""),
        reply=str(value.get("reply") or ""),
    )
