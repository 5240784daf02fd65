"""A report's page, read as a reader does, and records for it that hold what a page must survive."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """The text of a page in reading order, its tags, and ``data``: what its script shows, by name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, Any] = {}
        self.script = ""
        self._hidden = False
        self._source: str | None = None
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._hidden = tag in ("style", "script")
        self._source = (attributes.get("id") or "") if tag == "script" else None
        self.tags.append((tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        self._hidden, self._source = False, None

    def handle_data(self, data: str) -> None:
        if self._source is None:
            self.text += "" if self._hidden else data
        elif self._source:
            self.data[self._source.removeprefix("data-")] = json.loads(data)
        else:
            self.script += data

    def column(self, table: str, name: str) -> list[Any]:
        """A column of an embedded table; texts as texts."""
        content = self.data[table]
        texts = ("prompt", "reasoning", "answer", "reference", "reason", *content["choices"])
        values = content["columns"][name]
        return [content["strings"][value] for value in values] if name in texts and name != "run" else values
