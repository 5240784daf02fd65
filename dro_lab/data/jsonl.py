"""Your own data: any file of rows with a ``prompt`` and a ``reference``.

``prompt`` is a text (one user message) or a list of messages ``{"role": "system"|"user"|"assistant", "content": text}``
that ends with the user's; ``reference`` is the answer to learn from. ``id`` is optional (made from the content), and
``split`` too (``train``, ``validation``, ``test``; without it rows are split by the hash of their id). Other columns
are kept and reach rewards, gates and metrics as ``row.columns``. A row that cannot be used is an error naming its line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from dro_lab.data import sources
from dro_lab.data.rows import check_text_key, content_id, conversation, duplicate_id, finish, text_problem
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.errors import UserError
from dro_lab.types import Metric, Provenance, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPLIT_NAMES = {**{split: split for split in SPLITS}, "dev": "validation", "valid": "validation", "val": "validation"}
ROLES = ("system", "user", "assistant")
OWN = ("prompt", "reference", "id", "split")


def load(
    *,
    source: str | None = None,
    metric: str | Callable[..., float] | None = "dro_lab.data.metrics.reference_overlap",
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> Task:
    """Load a file (.jsonl, .json, .csv, .parquet) or a folder of such files.

    Args:
        source: the path.
        metric: dotted path of a function ``(answer, row) -> quality in [0, 1]``; None: no quality is computed.
        system_prompt: goes before prompts that have no system message of their own.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the rows by split, where the rows carry no ``split``.
        sizes: cap on the rows by split, None = all.
        seed: unused; rows, their order and their splits depend on the data alone.

    Raises:
        UserError: no such file, an unreadable one, a row without prompt or reference, an id used twice, a metric that
            cannot be imported.
    """
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    if source is None or source in ("twin", "hub"):
        raise UserError(
            f"dataset.source={source}: dataset=jsonl reads your own file. Allowed: the path of a .jsonl, .json, .csv "
            f"or .parquet file of rows with `prompt` and `reference`. Next: dataset.source=PATH."
        )
    shares = check_shares(shares)
    function, metric_name = load_metric(metric)
    loaded = sources.read(sources.resolve(source, dataset="jsonl", words=()))
    splits, notes = _rows(loaded, system_prompt=system_prompt, shares=shares)
    if metric_name == "reference_overlap":
        notes.insert(0, "reference_overlap is surface similarity to the reference, not a judgement of the answer")
    if loaded.unread:
        notes.append(f"files not read in {loaded.path.name}: {', '.join(loaded.unread)}")
    return finish(
        name="jsonl",
        provenance=Provenance(dataset="jsonl", kind="file", location=str(loaded.path), sha256=loaded.sha256),
        splits=splits,
        sizes=sizes,
        metric=function,
        metric_name=metric_name,
        answer_marker=answer_marker,
        refused=(),
        notes=notes,
    )


def load_metric(metric: str | Callable[..., float] | None) -> tuple[Metric | None, str]:
    """The metric and its name. Raises `UserError` when the dotted path leads to no function."""
    if metric is None:
        return None, "none"
    if callable(metric):
        return metric, str(getattr(metric, "__name__", type(metric).__name__))
    module, _, name = str(metric).rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}")
        return function, name
    except Exception as error:  # importing a user's module can fail in any way
        raise UserError(
            f"dataset.metric={metric!r}: not a function that can be imported ({type(error).__name__}: {error}). "
            f"Allowed: a dotted path such as dro_lab.data.metrics.exact_match, or null. Next: check the path; a "
            f"package of yours must be installed or on PYTHONPATH."
        ) from error


def _rows(
    loaded: sources.Loaded, *, system_prompt: str | None, shares: Mapping[str, float]
) -> tuple[dict[str, list[Row]], list[str]]:
    rows: list[Row] = []
    split_of: dict[str, str] = {}
    seen: dict[str, str] = {}
    unsplit = ""
    for name, records in loaded.files.items():
        file = str(loaded.path / name if loaded.path.is_dir() else loaded.path)
        for record in records:
            row, split = _row(record, file=file, system_prompt=system_prompt)
            if row.id in seen:
                raise UserError(duplicate_id(row.id, seen[row.id], _at(record, split), file=file))
            seen[row.id] = _at(record, split)
            rows.append(row)
            if split:
                split_of[row.id] = split
            else:
                unsplit = unsplit or f"{file} ({record.where})"
    if split_of and unsplit:
        raise UserError(
            f"{unsplit}: no `split`, while other rows have one. Allowed: every row has a split, or none has. "
            f"Next: add {', '.join(SPLITS)} to that row."
        )
    if not split_of:
        return split_by_source(rows, source_of=lambda row: row.id, shares=shares)
    splits = {split: [row for row in rows if split_of[row.id] == split] for split in SPLITS}
    missing = [split for split in SPLITS if not splits[split]]
    return splits, [f"the rows' own split has no {' and no '.join(missing)} rows"] if missing else []


def _at(record: sources.Record, split: str | None) -> str:
    return record.where + (f" (split {split})" if split else "")


def _row(record: sources.Record, *, file: str, system_prompt: str | None) -> tuple[Row, str | None]:
    fields = record.fields

    def wrong(key: str, problem: str, allowed: str) -> UserError:
        return UserError(
            f"{file} ({record.where}): {key} {problem}. Allowed: {allowed}. Next: correct or delete that row."
        )

    for key in ("prompt", "reference"):
        if key not in fields:
            found = ", ".join(map(str, list(fields)[:20])) or "none"
            raise wrong(f"`{key}`", f"is missing (keys found: {found})", "rows with `prompt` and `reference`")
    if problem := text_problem(fields["reference"]):
        raise wrong("`reference`", problem, "a non-empty text")
    prompt = fields["prompt"]
    if isinstance(prompt, list):
        if problem := _messages_problem(prompt):
            raise wrong("`prompt`", problem, "a text, or messages with role and content that end with the user's")
        messages = [{"role": m["role"], "content": m["content"]} for m in prompt]
        if system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system_prompt})
    elif problem := text_problem(prompt):
        raise wrong("`prompt`", problem, "a non-empty text, or a list of messages")
    else:
        messages = list(map(dict, conversation(prompt, system_prompt=system_prompt)))
    own_id, split = fields.get("id"), fields.get("split")
    if own_id is not None and (isinstance(own_id, bool) or not isinstance(own_id, str | int) or own_id == ""):
        raise wrong("`id`", f"is {own_id!r}", "a non-empty text or a whole number, or no id at all")
    if split is not None and (not isinstance(split, str) or split not in SPLIT_NAMES):
        raise wrong("`split`", f"is {split!r}", ", ".join(SPLIT_NAMES))
    columns: dict[str, Any] = {key: value for key, value in fields.items() if key not in OWN}
    row_id = str(own_id) if own_id is not None else content_id(repr(messages), fields["reference"])
    row = Row(id=row_id, prompt=messages, reference=fields["reference"], columns=columns)
    return row, SPLIT_NAMES[split] if split else None


def _messages_problem(messages: list[Any]) -> str | None:
    if not messages:
        return "is an empty list"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            return f"message {number} has no role and content"
        if message["role"] not in ROLES:
            return f"message {number} has the role {message['role']!r} (known: {', '.join(ROLES)})"
        if message["role"] == "system" and number > 1:
            return f"message {number} is a system message, which must come first"
        if problem := text_problem(message["content"]):
            return f"message {number}: content {problem}"
    return None if messages[-1]["role"] == "user" else f"ends with the role {messages[-1]['role']!r}, not the user's"
