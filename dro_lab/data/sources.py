"""Reading a user's file or folder: records with the place each came from, or one message that says what is wrong.

A record is ``(where, mapping)``; ``where`` is what messages quote ("train.jsonl line 17", "dev.json row 3"). JSON rows
count from 1 in file order, lines count from 1 as editors do. A ``.json`` file may hold a list of rows or, as many
published files do, one row a line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file gives it: where it stands (``file line n``) and its fields."""

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read from one path: rows by file, the hash of the bytes, and the files beside them left unread."""

    path: Path
    files: Mapping[str, Sequence[Record]]
    sha256: str
    unread: Sequence[str] = ()

    @property
    def records(self) -> list[Record]:
        """All rows, files in name order."""
        return [record for records in self.files.values() for record in records]


def resolve(source: object, *, dataset: str, words: Sequence[str]) -> Path:
    """Return the existing path that ``dataset.source`` names, or raise `UserError` (``words`` are the other values)."""
    allowed = ", ".join([*words, f"{'or ' if words else ''}the path of a file or folder"])
    if not isinstance(source, str | Path) or not str(source).strip():
        raise UserError(
            f"dataset.source={source!r} names no data for dataset={dataset}. Allowed: {allowed}. "
            f"Next: dataset.source=PATH."
        )
    path = Path(source).expanduser()
    if path.exists():
        return path
    # A bare word is a mistyped source word as often as a missing file: the message covers both.
    kind = "is neither a known word nor an existing file" if re.fullmatch(r"\w+", str(source)) else "does not exist"
    raise UserError(
        f"dataset.source={source} {kind} (looked for {path.absolute()}). Allowed: {allowed}. Next: correct the path"
        + (f", or use dataset.source={words[0]}." if words else ".")
    )


def read(path: Path, *, suffixes: Sequence[str] = SUFFIXES) -> Loaded:
    """Read a file, or every data file directly in a folder (in name order). Raises `UserError` on a broken file."""
    if path.is_file():
        check_suffix(path, suffixes)
        return Loaded(path, {path.name: list(records(path))}, file_sha256(path))
    found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in found if p.suffix.lower() in suffixes]
    if not files:
        raise UserError(
            f"dataset.source={path} is a folder without a data file; it holds "
            f"{', '.join(p.name for p in found[:10]) or 'no files'}. Allowed: {', '.join(suffixes)} directly in the "
            f"folder. Next: give the folder that holds them, or the file itself."
        )
    unread = [p.name for p in found if p not in files]
    return Loaded(path, {p.name: list(records(p)) for p in files}, files_sha256(files), unread)


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raise `UserError` unless the file's ending is one that can be read."""
    if path.suffix.lower() not in suffixes:
        raise UserError(
            f"{path}: the ending {path.suffix or '(none)'!r} is not one that can be read. Allowed: "
            f"{', '.join(suffixes)}. Next: convert the file, or rename it to its true format."
        )


def file_sha256(path: Path) -> str:
    """sha256 of the file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_sha256(paths: Sequence[Path]) -> str:
    """sha256 over the lines ``<sha256 of the file>  <name>``, names sorted: the same for equal files in equal names."""
    lines = sorted(f"{path.name}\0{file_sha256(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def records(path: Path) -> Iterator[Record]:
    """Yield the file's rows in order. Raises `UserError`: unreadable, empty, not UTF-8, broken JSON, not an object."""
    check_suffix(path, SUFFIXES)
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    text = _text(path)
    kind = path.suffix.lower()
    rows = _csv(path, text) if kind == ".csv" else _json(path, text) if kind == ".json" else _lines(path, text)
    empty = True
    for where, row in rows:
        empty = False
        if not isinstance(row, dict):
            raise UserError(
                f"{where}: a row must be a JSON object {{...}}, this is {_describe(row)}. "
                f"Next: correct that row of {path}."
            )
        yield Record(where, row)
    if empty:
        raise UserError(f"{path}: the file holds no rows. Next: give a file with at least one row.")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Next: check the file's permissions.") from error
    if not data.strip():
        raise UserError(f"{path}: the file is empty ({len(data)} bytes). Next: give a file with at least one row.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path} line {line}: not UTF-8 at byte offset {start} "
            f"(byte 0x{data[start]:02x}). Allowed: UTF-8. Next: convert it, e.g. iconv -f LATIN1 -t UTF-8 "
            f"{path.name} > new{path.suffix}."
        ) from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path} line {number} column {error.colno}: broken JSON ({error.msg}), near "
                    f"{_near(line, error.pos)!r}. Allowed: one JSON object a line. Next: correct that line."
                ) from error
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} line {number}: JSON that cannot be read ({error}). Next: correct it."
                ) from error


def _json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[: error.pos].lstrip().startswith("{"):
            yield from _lines(path, text)  # one row a line under the name .json
            return
        raise UserError(
            f"{path} line {error.lineno} column {error.colno}: broken JSON ({error.msg}), near "
            f"{_near(text, error.pos)!r}. Allowed: a list of rows, or one row a line. Next: correct that line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: JSON that cannot be read ({error}). Next: correct the file.") from error
    if isinstance(data, dict) and "\n" not in text.strip():
        data = [data]  # a file of one row in one line
    if not isinstance(data, list):
        keys = f" with the keys {', '.join(list(data)[:10])}" if isinstance(data, dict) else ""
        raise UserError(
            f"{path}: the file holds {_describe(data)}{keys}. Allowed: a list of rows, or one row a line. "
            f"Next: give the rows themselves."
        )
    for number, row in enumerate(data, start=1):
        yield f"{path.name} row {number}", row


def _csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**27)  # a cell may hold a whole document; the default of 128 KiB is too small
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            width = len(reader.fieldnames or [])
            if None in row or None in row.values():
                cells = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or [])
                raise UserError(
                    f"{path} line {reader.line_num}: {cells} cells under a header of {width} columns. "
                    f"Next: quote cells that contain a comma or a line break."
                )
            yield f"{path.name} row {number}", dict(row)
    except csv.Error as error:
        raise UserError(
            f"{path} line {reader.reader.line_num}: broken CSV ({error}). Next: correct that line."
        ) from error


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({error}). Next: write the file again.") from error
    if not rows:
        raise UserError(f"{path}: the file holds no rows. Next: give a file with at least one row.")
    yield from (Record(f"{path.name} row {number}", row) for number, row in enumerate(rows, start=1))


def _near(text: str, position: int) -> str:
    return text[max(0, position - 15) : position + 15]


def _describe(value: object) -> str:
    names = {dict: "one object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
