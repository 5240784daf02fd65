"""FinQA: answer a question about a page of a financial report, from its text and its table.

Source: Chen et al., "FinQA" (EMNLP 2021), MIT licence. Three schemas are read:

- official JSON: ``pre_text, post_text, table, id, filename, qa{question, answer, exe_ans, ...}``; one file, or a folder
  with train.json, dev.json and test.json (or one ``*train*.json``, ``*dev*.json``, ``*test*.json`` each);
- the hub copy `dreamerdeo/finqa`: ``id, pre_text, post_text, table, question, answer``, which lacks ``exe_ans``: the
  truth is then read from the answer's text ("34.7%" is 0.347);
- packed rows: ``question, context, exe_ans`` or ``answer``, and ``table`` where there is one.

A single file is split by ``filename`` (the report's page), where there is none by the page's table or text. The metric
is `dro_lab.data.metrics.numeric_accuracy`. Annotators' answers sometimes contradict the executed program ("-3.2%"
beside -16.0): the reference is ``qa.answer`` where that agrees with ``exe_ans`` under the metric, else ``exe_ans``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.data import hub, sources
from dro_lab.data.finqa_text import agreed_reference, clean_answer, page_prompt, table_text, true_value
from dro_lab.data.metrics import numeric_accuracy
from dro_lab.data.rows import check_text_key, content_id, conversation, duplicate_id, finish, text_problem, unique
from dro_lab.data.rows import unknown_schema as unknown_schema_error
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.errors import UserError
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPLIT_WORDS = {"train": "train", "dev": "validation", "validation": "validation", "valid": "validation", "test": "test"}
SCHEMA = (
    "pre_text, post_text, table, filename and qa (official); or question, answer, pre_text, post_text, table (hub); "
    "or question, context and exe_ans or answer (packed)"
)
NOTE = (
    "accuracy reads one number from the answer's text (2% tolerance, percent forms x, x/100, 100x; yes/no exact); it "
    "is not FinQA's official execution accuracy, which runs a program"
)


def load(
    *,
    source: str = "twin",
    repo: str = "dreamerdeo/finqa",
    revision: str | None = None,
    files: str | Sequence[str] | None = None,
    config: str | None = None,
    max_prompt_chars: int | None = None,
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> Task:
    """Load FinQA.

    Args:
        source: ``hub``, or a file or folder in one of the schemas above.
        repo, revision, files, config: the hub's repository, commit, data files and configuration.
        max_prompt_chars: cut the page's text, the sentences farthest from the table first, until the prompt has at most
            so many characters; None cuts nothing. Table and question are never cut.
        system_prompt: goes before the user's message.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the reports' pages by split, where the source is one file.
        sizes: cap on the rows by split, None = all.
        seed: unused; rows, their order and their splits depend on the data alone.

    Raises:
        UserError: unknown source, unreadable file, unknown schema, an id on two rows, no usable row, hub not reachable.
    """
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    if max_prompt_chars is not None and (type(max_prompt_chars) is not int or max_prompt_chars < 1):
        raise UserError(
            f"dataset.max_prompt_chars={max_prompt_chars!r}: must be null (no cutting) or a whole number of at least "
            f"1. Next: e.g. dataset.max_prompt_chars=2000."
        )
    if source == "twin":
        raise UserError(
            "dataset.source=twin: dataset=finqa has no procedural twin. Allowed: hub, or the path of a file or folder "
            "in FinQA's schema. Next: dataset.source=PATH or dataset.source=hub, or dataset=pararev for a twin."
        )
    shares = check_shares(shares)
    notes = [NOTE]
    if source == "hub":
        parts, commit, digest = hub.read(repo, revision=revision, files=files, config=config, has_twin=False)
        provenance = Provenance(dataset="finqa", kind="hub", location=repo, revision=commit, sha256=digest)
    else:
        parts, digest, more = _read_path(sources.resolve(source, dataset="finqa", words=("hub",)))
        notes += more
        provenance = Provenance(dataset="finqa", kind="file", location=str(source), sha256=digest)
    found = {part: _rows(records, str(source), system_prompt, max_prompt_chars) for part, records in parts.items()}
    splits, more = _split(found, shares)
    _check_ids(splits, str(source))
    return finish(
        name="finqa",
        provenance=provenance,
        splits=splits,
        sizes=sizes,
        metric=numeric_accuracy,
        metric_name="accuracy",
        answer_marker=answer_marker,
        refused=[row for part in found.values() for row in part.refused],
        notes=[*notes, *more, *_counts(found)],
    )


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of one part with what was refused and how many prompts and references were changed."""

    rows: list[Row]
    refused: list[RefusedRow]
    cut: int
    replaced: int


def _read_path(path: Path) -> tuple[dict[str, list[sources.Record]], str, list[str]]:
    """Records by split word; one part named "" where the path is a single file."""
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


def _rows(records: Sequence[sources.Record], source: str, system_prompt: str | None, limit: int | None) -> Found:
    found: list[tuple[str, Row]] = []
    refused: list[RefusedRow] = []
    cut = replaced = 0
    for record in records:
        page = _page(record, source)
        if isinstance(page, str):
            refused.append(RefusedRow(where=record.where, reason=page))
            continue
        prompt, was_cut = page_prompt(page["pre"], page["table"], page["post"], page["question"], limit=limit)
        if limit is not None and len(prompt) > limit:
            reason = f"table and question alone make {len(prompt)} characters > dataset.max_prompt_chars={limit}"
            refused.append(RefusedRow(where=record.where, reason=reason))
            continue
        reference = agreed_reference(page["answer"], page["truth"])
        cut += was_cut
        replaced += bool(page["answer"]) and reference != page["answer"]
        columns = {key: page[key] for key in ("question", "answer", "filename", "source_id", "program")}
        row = Row(
            id=page["id"],
            prompt=conversation(prompt, system_prompt=system_prompt),
            reference=reference,
            columns={**columns, "exe_ans": page["truth"]},
        )
        found.append((record.where, row))
    kept, repeats = unique(found, file=source, merge=False)
    return Found([row for _, row in kept], [*refused, *repeats], cut, replaced)


def _page(record: sources.Record, source: str) -> dict[str, Any] | str:
    """The fields of one row, whichever schema it has; a text says why the row is refused."""
    fields = record.fields
    qa = fields.get("qa")
    packed = "context" in fields
    known = isinstance(qa, Mapping) or packed or {"question", "pre_text"} <= set(fields)
    if not known:
        if "qa" in fields:
            return f"qa is {type(qa).__name__}, must be an object"
        raise unknown_schema_error(source, record.where, fields, SCHEMA, dataset="finqa")
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
    truth = true_value(inner.get("exe_ans", answer))
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
        "program": inner.get("program"),
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _split(found: Mapping[str, Found], shares: Mapping[str, float]) -> tuple[dict[str, list[Row]], list[str]]:
    if len(found) > 1 and set(found) <= set(SPLIT_WORDS):
        splits = {SPLIT_WORDS[part]: part_found.rows for part, part_found in found.items()}
        pages = [{str(row.columns["source_id"]) for row in rows} for rows in splits.values()]
        shared = len(set().union(*pages)) != sum(map(len, pages))
        missing = [split for split in SPLITS if not splits.get(split)]
        return splits, [
            *(["some reports' pages stand in more than one of the source's splits"] if shared else []),
            *([f"the source has no {' and no '.join(missing)} rows"] if missing else []),
        ]
    rows = [row for part in found.values() for row in part.rows]
    return split_by_source(rows, source_of=lambda row: str(row.columns["source_id"]), shares=shares)


def _check_ids(splits: Mapping[str, Sequence[Row]], source: str) -> None:
    seen: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            if seen.setdefault(row.id, split) != split:
                raise UserError(duplicate_id(row.id, f"split {seen[row.id]}", f"split {split}", file=source))


def _counts(found: Mapping[str, Found]) -> list[str]:
    cut, replaced = sum(part.cut for part in found.values()), sum(part.replaced for part in found.values())
    notes = []
    if replaced:
        notes.append(
            f"{replaced} references are exe_ans, since the annotator's answer is not one number within 2% of it"
        )
    if cut:
        notes.append(
            f"{cut} prompts were cut to dataset.max_prompt_chars: sentences farthest from the table left first"
        )
    unjudged = sum(row.columns["exe_ans"] is None for part in found.values() for row in part.rows)
    if unjudged:
        notes.append(f"{unjudged} rows have an answer that is neither a number nor yes or no: their accuracy is nan")
    return notes
