"""What MLflow accepts as names and values, and the tags that every run carries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dro_lab.types import Row, Task

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000
"""MLflow's limits in characters."""
CUT = " ... (whole in config.yaml)"


def clean(name: str) -> str:
    """``name`` with what MLflow refuses in a key replaced by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:MAX_NAME]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested ``config`` as parameters under dotted names; lists and values become text.

    A value longer than MLflow takes is cut and says so: the whole of it stands in the run's ``config.yaml``.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            text = str(value)
            flat[clean(name)] = text if len(text) <= MAX_PARAM else text[: MAX_PARAM - len(CUT)] + CUT
    return flat


def run_tags(environment: Mapping[str, Any], *, task: Task, reward: str, policy: str, seed: int) -> dict[str, str]:
    """The tags of a run, from the content of its ``env.json`` and from what it trains.

    ``data.sha256`` is that of the file, or of the files from the hub; a twin has none. ``data.rows_sha256``, which
    every run has, tells whether two runs saw the same rows.
    """
    provenance = task.provenance
    tags = {
        "git.commit": str(environment["git"]["commit"]),
        "git.dirty": str(environment["git"]["dirty"]),
        "data": str(provenance),
        "data.kind": provenance.kind,
        **({"data.sha256": provenance.sha256} if provenance.sha256 else {}),
        "data.rows_sha256": rows_sha256(task.splits),
        "reward": reward,
        "policy": policy,
        "seed": str(seed),
        "command": str(environment["command"]),
    }
    return tags | {f"version.{name}": str(found) for name, found in environment["versions"].items()}


def rows_sha256(splits: Mapping[str, Sequence[Row]]) -> str:
    """SHA-256 of the rows of all splits in order: identifier, prompt and reference, one JSON list a row."""
    digest = hashlib.sha256()
    for split, rows in splits.items():
        for row in rows:
            prompt = [dict(message) for message in row.prompt]
            digest.update(json.dumps([split, row.id, prompt, row.reference], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """``items`` in pieces of at most ``size``."""
    return [items[i : i + size] for i in range(0, len(items), size)]
