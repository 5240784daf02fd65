"""The file of a prefilter: one line on how it was made, then one line a training row, as JSON lines.

The first line holds ``format``, ``provenance`` of the data set, ``policy``, ``settings`` and their hashes, ``seed``,
``commit``, ``command`` and counts; a row's line holds ``id``, ``content`` (hash of prompt and reference),
``sigma_bar``, ``quality`` (mean by the data set's metric; null without one), ``kept`` and ``why`` (top, rest or null).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError
from dro_lab.types import Row

FORMAT = "dro_lab.prefilter/1"
HEADER = (
    "provenance",
    "provenance_text",
    "policy",
    "settings",
    "sampling_hash",
    "hash",
    "seed",
    "commit",
    "command",
    "rows",
    "seconds",
)
AGAIN = "Make it again with `python -m dro_lab.prefilter dataset=NAME out=FILE`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A training row, what was measured on it, and whether it trains."""

    id: str
    content: str
    sigma_bar: float  # in [0, 0.5]
    quality: float | None
    kept: bool
    why: str | None  # "top", "rest"; None where it does not train


def content_of(row: Row) -> str:
    """A short hash of prompt and reference: the same id on another text is another row."""
    return digest([[dict(message) for message in row.prompt], row.reference])[:16]


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, header: Mapping[str, Any], rows: Sequence[Judged]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [{"format": FORMAT, **header}, *(asdict(row) for row in rows)]
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def read(path: Path, *, key: str) -> tuple[dict[str, Any], list[Judged]]:
    """``(header, rows)``. ``key``: what named the file, for messages.

    Raises:
        UserError: it cannot be read, is no such file, or is damaged; says where.
    """
    where = f"{key}={path}"
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file. {AGAIN}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read ({error}). {AGAIN}") from error
    first, *others = text.rstrip("\n").split("\n")
    try:
        header = json.loads(first)
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{where}: is no file of a prefilter (its first line must hold format {FORMAT!r}). {AGAIN}")
    if missing := [name for name in HEADER if name not in header]:
        raise UserError(f"{where} line 1: lacks {missing[0]}. {AGAIN}")
    rows = [_row(f"{where} line {number}", line) for number, line in enumerate(others, start=2)]
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if row.id in seen:
            raise UserError(f"{where} line {number}: the id {row.id!r} stands on line {seen[row.id]} already. {AGAIN}")
        seen[row.id] = number
    if header["rows"] != len(rows):
        raise UserError(f"{where}: holds {len(rows)} rows, its first line says {header['rows']}. {AGAIN}")
    return header, rows


def _row(where: str, line: str) -> Judged:
    try:
        row = Judged(**json.loads(line))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{where}: is no row of a prefilter ({error}). {AGAIN}") from error
    wrong = not isinstance(row.kept, bool) or isinstance(row.sigma_bar, bool) or not isinstance(row.id, str)
    if wrong or not isinstance(row.sigma_bar, int | float) or not 0 <= row.sigma_bar <= 0.5:
        raise UserError(f"{where}: has an id, sigma_bar or kept of the wrong kind. {AGAIN}")
    return row
