"""Your own data: any file of rows with a ``prompt`` and a ``reference``.

``prompt`` is a text (one user message) or a list of messages ``{"role": "system"|"user"|"assistant", "content": text}``
that ends with the user's; ``reference`` is the answer to learn from. Optional: ``id`` (else made from the content),
``split`` (``train``, ``validation``, ``test``; else the files of a folder may be named after them; else rows are split
by the hash of their id) and ``rubric`` (at most ten checks, each a text or an object with the fields of
`dro_lab.types.Check`; a csv cell holds them as JSON). Other columns are kept and reach rewards, gates and metrics as
``row.columns``. A row that cannot be used is an error naming its line.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dro_lab.components import check_takes
from dro_lab.data import sources
from dro_lab.data.rows import check_text_key, content_id, conversation, duplicate_id, finish, text_problem
from dro_lab.data.split_names import SPLIT_WORDS, splits_named
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.types import Check, CheckProgram, Provenance, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
ROLES = ("system", "user", "assistant")
OWN = ("prompt", "reference", "id", "split", "rubric")


def load(
    *,
    source: str | None = None,
    metric: str | Callable[..., float] | None = "dro_lab.data.metrics.reference_overlap",
    check_program: str | Callable[..., int] | None = None,
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> Task:
    """Load a file (.jsonl, .json, .csv, .parquet) or a folder of such files.

    Args:
        source: the path.
        metric: a function ``(answer, row) -> quality in [0, 1]``, or its dotted path; None: no quality is computed.
        check_program: a function ``(answer, row, check) -> 1 yes, 0 no, -1 unknown``, or its dotted path: decides the
            rubric's checks for ``judge=exact``, so that gates need no model.
        system_prompt: goes before prompts that have no system message of their own.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the rows by split, where neither rows nor files name one.
        sizes: cap on the rows by split, None = all.
        seed: unused; rows, their order and their splits depend on the data alone.

    Raises:
        UserError: no such file, an unreadable one, a row without prompt or reference, an id used twice, a rubric
            that is none, a function that cannot be imported.
    """
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    if source is None or source in ("twin", "hub"):
        raise UserError(
            "dataset=jsonl reads your own file, and has neither a twin nor a copy on the hub: it needs its path. "
            "Allowed: a .jsonl, .json, .csv or .parquet file of rows with `prompt` and `reference`, or a folder of "
            "these. Next: dataset.source=PATH."
        )
    shares = check_shares(shares)
    quality, metric_name = load_function("metric", metric, takes=("answer", "row"))
    program, program_name = load_function("check_program", check_program, takes=("answer", "row", "check"))
    loaded = sources.read(sources.resolve(source, dataset="jsonl", words=()))
    splits, notes = _rows(loaded, system_prompt=system_prompt, shares=shares)
    if metric_name == "reference_overlap":
        notes.insert(0, "reference_overlap is surface similarity to the reference, not a judgement of the answer")
    if loaded.unread:
        notes.append(f"files not read in {loaded.path.name}: {', '.join(loaded.unread)}")
    task = finish(
        name="jsonl",
        provenance=Provenance(dataset="jsonl", kind="file", location=str(loaded.path), sha256=loaded.sha256),
        splits=splits,
        sizes=sizes,
        metric=quality,
        metric_name=metric_name,
        answer_marker=answer_marker,
        refused=(),
        notes=notes,
    )
    return task if program is None else replace(task, check_program=verdicts_of(program, program_name))


def load_function(
    key: str, function: str | Callable[..., Any] | None, *, takes: Sequence[str]
) -> tuple[Callable[..., Any] | None, str]:
    """The function that ``dataset.KEY`` names, and its name ("none" for none).

    Raises:
        UserError: the dotted path leads to no function, or to one of other arguments.
    """
    if function is None:
        return None, "none"
    if callable(function):
        named = getattr(function, "func", function)  # a partial has no name of its own
        return function, str(getattr(named, "__name__", type(named).__name__))
    module, _, name = str(function).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError(f"it is a {type(found).__name__}")
    except Exception as error:  # importing a user's module can fail in any way
        raise UserError(
            f"dataset.{key}={function!r}: not a function that can be imported ({type(error).__name__}: {error}). "
            f"Allowed: a dotted path such as dro_lab.data.metrics.exact_match, or null. Next: check the path; a "
            f"package of yours must be installed or on PYTHONPATH."
        ) from error
    check_takes(f"dataset.{key}={function}", found, takes=takes)
    return found, name


def verdicts_of(program: Callable[..., Any], name: str) -> CheckProgram:
    """The user's program with its answers as verdicts: true and false count as yes and no, None as unknown."""

    def decide(answer: str, row: Row, check: Check) -> int:
        said = program(answer, row, check)
        if said is None:
            return UNKNOWN
        if said not in (YES, NO, UNKNOWN):
            raise UserError(
                f"dataset.check_program={name}: gave {said!r} for row {row.id}, check {check.id!r}; must be 1 (yes), 0 "
                "(no) or -1 (unknown). Mend its return value."
            )
        return int(said)

    return decide


def _rows(
    loaded: sources.Loaded, *, system_prompt: str | None, shares: Mapping[str, float]
) -> tuple[dict[str, list[Row]], list[str]]:
    rows: list[Row] = []
    split_of: dict[str, str] = {}
    seen: dict[str, str] = {}
    unsplit = ""
    own = any("split" in record.fields for record in loaded.records)
    named = splits_named(loaded.files) if loaded.path.is_dir() and not own else None
    for name, records in loaded.files.items():
        file = str(loaded.path / name if loaded.path.is_dir() else loaded.path)
        for record in records:
            row, split = _row(record, file=file, system_prompt=system_prompt)
            split = split or (named[name] if named else None)
            if row.id in seen and "id" not in record.fields:
                raise UserError(
                    f"{file}: {_at(record, split)} repeats the row at {seen[row.id]} (same prompt and reference). "
                    "Allowed: each row once in all splits. Next: delete one, or give each an `id` of its own."
                )
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
    notes = [f"splits as named: {', '.join(f'{split} = {name}' for name, split in named.items())}"] if named else []
    if missing:
        what = "files' own splits have" if named else "rows' own split has"
        notes.append(f"the {what} no {' and no '.join(missing)} rows")
    return splits, notes


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
    if split is not None and (not isinstance(split, str) or split not in SPLIT_WORDS):
        raise wrong("`split`", f"is {split!r}", ", ".join(SPLIT_WORDS))
    columns: dict[str, Any] = {key: value for key, value in fields.items() if key not in OWN}
    try:
        if checks := checks_of({"rubric": _rubric(fields.get("rubric"))}):
            columns["rubric"] = as_column(checks)
    except ValueError as error:
        allowed = "a list of at most 10 checks, each a text or an object with `text`"
        raise wrong("its rubric", f"cannot be read: {error}", allowed) from error
    row_id = str(own_id) if own_id is not None else content_id(repr(messages), fields["reference"])
    row = Row(id=row_id, prompt=messages, reference=fields["reference"], columns=columns)
    return row, SPLIT_WORDS[split] if split else None


def _rubric(value: object) -> object:
    """The rubric as its file means it: JSON text in a csv cell, null fields (of a table's missing keys) left out."""
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"`rubric` is a text that is no JSON ({error})") from error
    if not isinstance(value, list):
        return value
    return [{k: v for k, v in each.items() if v is not None} if isinstance(each, dict) else each for each in value]


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
