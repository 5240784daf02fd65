"""FinQA's files and rows in each of their schemas, as pages with a question; nothing is prompted here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dro_lab.data import sources
from dro_lab.data.finqa_text import clean_answer, table_text, true_value
from dro_lab.data.rows import content_id, text_problem, unknown_schema
from dro_lab.data.splits import SPLITS
from dro_lab.errors import UserError

SPLIT_WORDS = {"train": "train", "dev": "validation", "validation": "validation", "valid": "validation", "test": "test"}
SCHEMA = (
    "pre_text, post_text, table, filename and qa (official); or question, answer, pre_text, post_text, table (hub); "
    "or question, context and exe_ans or answer (packed)"
)


def read_path(path: Path) -> tuple[dict[str, list[sources.Record]], str, list[str]]:
    """Records by split word (one part named "" where the path is a single file), the files' hash, and notes.

    Raises:
        UserError: two files look like one split, or none looks like any.
    """
    if path.is_file():
        return {"": list(sources.records(path))}, sources.file_sha256(path), []
    present = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    chosen: dict[str, Path] = {}
    candidates = [p for p in present if p.name in ("train.json", "dev.json", "test.json")]
    for file in candidates or [p for p in present if p.suffix == ".json"]:
        found = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLIT_WORDS}
        for split in found if len(found) == 1 else ():
            if split in chosen:
                raise UserError(
                    f"dataset.source={path}: {chosen[split].name} and {file.name} both look like the {split} split. "
                    f"Allowed: one file a split. Next: name them train.json, dev.json, test.json, or give one file."
                )
            chosen[split] = file
    if not chosen:
        raise UserError(
            f"dataset.source={path}: no FinQA split in this folder; it holds "
            f"{', '.join(p.name for p in present[:10]) or 'no files'}. Expected: train.json, dev.json, test.json. "
            f"Next: give the folder that holds them, or one file."
        )
    chosen = {split: chosen[split] for split in SPLITS if split in chosen}
    unread = [p.name for p in present if p not in chosen.values()]
    notes = [f"split files: {', '.join(f'{split} = {file.name}' for split, file in chosen.items())}"]
    if unread:
        notes.append(f"files not read in {path.name}: {', '.join(unread)}")
    parts = {split: list(sources.records(file)) for split, file in chosen.items()}
    return parts, sources.files_sha256(list(chosen.values())), notes


def page_of(record: sources.Record, source: str) -> dict[str, Any] | str:
    """The fields of one row, whichever schema it has; a text says why the row is refused.

    ``truth`` is a number, "yes", "no" or None; ``executed`` says whether it is the row's ``exe_ans`` (True) or was read
    from the annotator's answer.

    Raises:
        UserError: the row follows no schema of FinQA.
    """
    fields = record.fields
    qa = fields.get("qa")
    packed = "context" in fields
    known = isinstance(qa, Mapping) or packed or {"question", "pre_text"} <= set(fields)
    if not known:
        if "qa" in fields:
            return f"qa is {type(qa).__name__}, must be an object"
        raise unknown_schema(source, record.where, fields, SCHEMA, dataset="finqa")
    inner: Mapping[str, Any] = qa if isinstance(qa, Mapping) else fields
    question, answer = inner.get("question"), inner.get("answer", inner.get("answers"))
    if problem := text_problem(question):
        return f"question {problem}"
    pre, post = ([fields["context"]], []) if packed else (fields.get("pre_text"), fields.get("post_text"))
    table = fields.get("table")
    if not isinstance(pre, list) or not all(map(_is_text, pre)):
        return "context must be a text" if packed else "pre_text must be a list of texts"
    if not isinstance(post, list) or not all(map(_is_text, post)):
        return "post_text must be a list of texts"
    table = [] if table is None else table
    if not isinstance(table, list) or not all(isinstance(line, list) and all(map(_is_text, line)) for line in table):
        return "table must be a list of rows of texts"
    executed = inner.get("exe_ans") is not None
    truth = true_value(inner["exe_ans"] if executed else answer)
    if truth is None and text_problem(answer):
        return f"exe_ans={inner.get('exe_ans')!r} and answer={answer!r}: neither gives an answer"
    filename = fields.get("filename")
    own_id = fields.get("id", fields.get("idx", fields.get("train_index")))
    content = table_text(table) or " ".join([*pre, *post])
    return {
        "id": str(own_id) if own_id not in (None, "") else content_id(content, str(question)),
        "pre": pre,
        "post": post,
        "table": table,
        "question": question,
        "answer": clean_answer(answer),
        "truth": truth,
        "filename": filename,
        "source_id": str(filename or content_id(content)),
        "program": program if isinstance(program := inner.get("program"), str) and program.strip() else None,
        "executed": executed,
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str)
