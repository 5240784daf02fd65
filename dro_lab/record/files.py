"""Files that survive a crash: json replaced whole, jsonl appended line by line, parquet written in parts."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

NONFINITE = "nonfinite"
"""Key under which a jsonl row names the numbers that JSON cannot hold: ``{"loss": "nan"}``."""


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as valid JSON, whole or not at all; non-finite numbers become null."""
    write_atomic(path, json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """``value`` with every nan and infinity, however deep, replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class JsonLines:
    """A jsonl file that is complete after every row.

    A number that is not finite is written as null and named under ``nonfinite`` (``{"loss": "nan"}``), so every line
    is valid JSON and `dro_lab.record.read` can give the number back.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        """``keep``: bytes of what is there that stay; None: all."""
        if keep is not None and path.exists():
            os.truncate(path, keep)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row and flush it."""
        odd = {key: str(value) for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
        plain = {**finite(row), **({NONFINITE: odd} if odd else {})}
        self._file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far, the rows of earlier processes included."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class ParquetParts:
    """A parquet table that grows in parts ``NAME/part-00000.parquet`` and becomes ``NAME.parquet`` on `close`.

    A parquet file is unreadable until its footer is written, so each part is a whole file of its own: after a kill
    only the rows since the last part are lost.

    Args:
        path: the final file, ``.../NAME.parquet``.
        schema: its columns; a row with another set of keys is an error of the caller.
        every: number of `append` calls gathered into one part.
        keep: parts of an earlier process that stay, those after them are removed; None: nothing is there yet.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, every: int = 4, keep: int | None = None) -> None:
        self._path, self._schema, self._every = path, schema, every
        self._rows: list[Mapping[str, Any]] = []
        self._calls = 0  # since the last part
        self._parts: list[Path] = [] if keep is None else self._reopened(keep)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of one step.

        Raises:
            KeyError: a row lacks a column or has one that the schema does not know.
        """
        names = set(self._schema.names)
        for row in rows:
            if row.keys() != names:
                raise KeyError(f"{self._path.name}: columns {sorted(row.keys() ^ names)} are missing or unknown")
        self._rows.extend(rows)
        self._calls += 1
        if self._calls >= self._every:
            self.flush()

    @property
    def parts(self) -> int:
        """Parts on disk."""
        return len(self._parts)

    def flush(self) -> None:
        """Write the gathered rows as one part."""
        self._calls = 0
        if not self._rows:
            return
        folder = self._path.with_suffix("")
        folder.mkdir(exist_ok=True)
        part = part_of(folder, len(self._parts))
        temporary = part.with_name(f".{part.name}.tmp")
        pq.write_table(pa.Table.from_pylist(list(self._rows), schema=self._schema), temporary, compression="zstd")
        os.replace(temporary, part)
        self._parts.append(part)
        self._rows = []

    def _reopened(self, keep: int) -> list[Path]:
        """The first ``keep`` parts, and nothing else of the table; a merged table is taken apart again."""
        folder = self._path.with_suffix("")
        if self._path.exists():
            aside = folder.with_name(f".{folder.name}.parts")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            merged = pq.ParquetFile(self._path)
            for number in range(keep):
                pq.write_table(merged.read_row_group(number), part_of(aside, number), compression="zstd")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(aside, folder)
            self._path.unlink()
        parts = [part_of(folder, number) for number in range(keep)]
        for found in folder.iterdir() if folder.is_dir() else ():
            if found not in parts:
                found.unlink()
        return parts

    def close(self) -> None:
        """Merge the parts into the final file, one row group each; a second call does nothing."""
        self.flush()
        if self._path.exists():
            return
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with pq.ParquetWriter(temporary, self._schema, compression="zstd") as writer:
            for part in self._parts:
                writer.write_table(pq.read_table(part, schema=self._schema))
        os.replace(temporary, self._path)
        shutil.rmtree(self._path.with_suffix(""), ignore_errors=True)


def part_of(folder: Path, number: int) -> Path:
    """The file of a table's part."""
    return folder / f"part-{number:05d}.parquet"


def parts_there(path: Path) -> int:
    """Parts of the table ``NAME.parquet`` that can be read, merged or not."""
    if path.exists():
        return int(pq.ParquetFile(path).num_row_groups)
    folder, number = path.with_suffix(""), 0
    while part_of(folder, number).exists():
        number += 1
    return number


def read_parts(path: Path, schema: pa.Schema) -> pa.Table:
    """Read ``NAME.parquet``, or the parts of a run that was cut short; an empty table where there is neither."""
    if path.exists():
        return pq.read_table(path)
    parts = sorted(path.with_suffix("").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]) if parts else schema.empty_table()


ARTIFACTS = (
    "config.yaml",
    "env.json",
    "summary.json",
    "evals.jsonl",
    "rollouts.parquet",
    "tokens.parquet",
    "answers.parquet",
    "report.html",
    "figures",
)
"""What of a run's folder a tracker keeps a copy of."""


def artifacts(folder: Path) -> list[Path]:
    """The files and folders of `ARTIFACTS` that the run has."""
    return [folder / name for name in ARTIFACTS if (folder / name).exists()]


def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; any other is left alone."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
