"""Replies of an endpoint on disk: a line of JSON each, under the hash of what was asked. A re-run asks nothing again.

The file holds replies and hashes, neither texts that were asked nor keys. Several processes may write to it at a time:
each reply is one append. Lines that cannot be read (a process was killed while writing) are skipped and counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError


def key_of(**parts: Any) -> str:
    """The hash of everything that a reply depends on."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return sha256(canonical.encode()).hexdigest()


class ReplyCache:
    """Replies by key. ``folder`` None keeps nothing beyond this object.

    Raises:
        UserError: the folder cannot be made, or the file cannot be read or written.
    """

    def __init__(self, folder: Path | None, *, model: str) -> None:
        self.damaged = 0
        self._replies: dict[str, Mapping[str, Any]] = {}
        self._file = None if folder is None else folder / f"openai-{sha256(model.encode()).hexdigest()[:16]}.jsonl"
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab+") as file:
                file.seek(0)
                self._read(file.read())
        except OSError as error:
            raise UserError(
                f"judge.cache_dir={folder}: the cache cannot be used ({error.strerror or error}); give a folder that "
                "you may write to, or null to keep no replies"
            ) from error

    def _read(self, data: bytes) -> None:
        for line in data.splitlines():
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key, text, failure = entry["key"], entry["text"], entry["failure"]
            except (ValueError, KeyError, TypeError, RecursionError):
                self.damaged += 1
                continue
            if isinstance(key, str) and isinstance(text, str | None) and isinstance(failure, str):
                self._replies[key] = entry
            else:
                self.damaged += 1

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was replied: an entry with ``text`` and ``failure``."""
        return self._replies.get(key)

    def put(self, key: str, *, text: str | None, failure: str) -> None:
        """Keep a reply, now and on disk."""
        entry = {"key": key, "text": text, "failure": failure}
        self._replies[key] = entry
        if self._file is None:
            return
        # a line that another process left half-written must not swallow this one: begin on a line of its own
        data = b"\n" + json.dumps(entry).encode() + b"\n"
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
