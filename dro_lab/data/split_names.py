"""Which split a file or a hub's part is, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from dro_lab.data.splits import SPLITS

SPLIT_WORDS = {**{split: split for split in SPLITS}, "dev": "validation", "valid": "validation", "val": "validation"}
"""The names of splits that are understood."""


def split_named(name: str) -> str | None:
    """The one split that a name speaks of: "train", "dev.json", "test-00000-of-00001.parquet"; None: none, or two."""
    found = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", PurePath(name).stem.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def splits_named(names: Iterable[str]) -> dict[str, str] | None:
    """The split of every name, where all of them speak of one; else None, and the rows' own split rule applies."""
    named = {name: split_named(name) for name in names}
    known = {name: split for name, split in named.items() if split is not None}
    return known if known and len(known) == len(named) else None
