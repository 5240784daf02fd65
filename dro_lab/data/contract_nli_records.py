"""ContractNLI's files as pairs of a contract and a hypothesis, whichever schema they are in; nothing is prompted here.

Official JSON: ``{documents: [{id, file_name, text, spans: [[start, end), ...], annotation_sets: [{annotations:
{"nda-11": {choice, spans}}}]}], labels: {"nda-11": {hypothesis}}}``; ``spans`` of an annotation number the document's.
Pairs (the hub copy `kiddothe2b/contract-nli`, or a table of yours): ``premise, hypothesis, label``, where label is a
name or the hub's number (0 contradiction, 1 entailment, 2 neutral); they have no numbered spans and no evidence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_lab.data import sources
from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED
from dro_lab.data.rows import content_id, text_problem, unknown_schema
from dro_lab.data.splits import SPLITS
from dro_lab.errors import UserError
from dro_lab.types import RefusedRow

SPLIT_WORDS = {"train": "train", "dev": "validation", "validation": "validation", "valid": "validation", "test": "test"}
SCHEMA = "documents and labels (official JSON), or premise, hypothesis and label (the hub copy, tables)"
LABEL_NAMES = {
    **{label.lower(): label for label in LABELS},
    "0": "Contradiction",
    "1": "Entailment",
    "2": NOT_MENTIONED,
    "neutral": NOT_MENTIONED,
    "not mentioned": NOT_MENTIONED,
    "not_mentioned": NOT_MENTIONED,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One contract and one hypothesis. ``evidence`` None: the data have no numbered spans, ``texts`` are passages."""

    where: str
    document_id: str
    file_name: str | None
    texts: Sequence[str]  # the contract's spans in order; the same object for all pairs of a document
    hypothesis_id: str
    hypothesis: str
    label: str
    evidence: tuple[int, ...] | None


Found = tuple[list[Pair], list[RefusedRow]]


def known_label(value: object, *, where: str) -> str:
    """One of the three labels. Raises `UserError` for any other value: the file is not of this data set."""
    text = str(value).strip().lower() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if text not in LABEL_NAMES:
        raise UserError(
            f"{where}: the label is {value!r}. Allowed: {', '.join(LABELS)} (or contradiction, entailment, neutral; 0, "
            f"1, 2 as in the hub copy). Next: correct that label, or delete the row."
        )
    return LABEL_NAMES[text]


# ------------------------------------------------------------------------------------------------ files


def read_path(path: Path) -> tuple[dict[str, Found], str, list[str]]:
    """Pairs by split ("" where the path is one file), the hash of the bytes, and notes."""
    if path.is_file():
        return {"": read_file(path)}, sources.file_sha256(path), []
    chosen, unread = split_files(path)
    notes = [f"split files: {', '.join(f'{split} = {file.name}' for split, file in chosen.items())}"]
    if unread:
        notes.append(f"files not read in {path.name}: {', '.join(unread)}")
    return (
        {split: read_file(file) for split, file in chosen.items()},
        sources.files_sha256(list(chosen.values())),
        notes,
    )


def split_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each split: ``train.json``, ``dev.json``, ``test.json``, else the one file whose name says so."""
    present = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    named: dict[str, list[Path]] = {}
    for file in present:
        words = re.split(r"[^a-z]+|(?<=[a-z])(?=[0-9])", file.stem.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if file.suffix.lower() in sources.SUFFIXES and len(splits) == 1:
            named.setdefault(splits.pop(), []).append(file)
    chosen: dict[str, Path] = {}
    for split in SPLITS:
        files = [file for file in named.get(split, ()) if file.stem.lower() in SPLIT_WORDS] or named.get(split, [])
        if len(files) > 1:
            raise UserError(
                f"dataset.source={folder}: {files[0].name} and {files[1].name} both look like the {split} split. "
                f"Allowed: one file a split. Next: name them train.json, dev.json, test.json, or give one file."
            )
        if files:
            chosen[split] = files[0]
    if not chosen:
        raise UserError(
            f"dataset.source={folder}: no ContractNLI split in this folder; it holds "
            f"{', '.join(p.name for p in present[:10]) or 'no files'}. Expected: train.json, dev.json, test.json. "
            f"Next: give the folder that holds them, or one file."
        )
    return chosen, [p.name for p in present if p not in chosen.values()]


def read_file(path: Path) -> Found:
    """The pairs of one file. Raises `UserError` where it follows neither schema, or has a label of another set."""
    whole = _whole_json(path)
    if whole is not None:
        return official_pairs(whole, file=path.name)
    return plain_pairs(list(sources.records(path)), file=str(path))


def _whole_json(path: Path) -> Mapping[str, Any] | None:
    """The file's one object if it is official JSON; None leaves all other files, and broken ones, to `sources`."""
    if path.suffix.lower() != ".json":
        return None
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and ("documents" in data or "labels" in data) else None


# ------------------------------------------------------------------------------------------------ official JSON


def official_pairs(data: Mapping[str, Any], *, file: str) -> Found:
    """One pair a document and hypothesis; documents and annotations that cannot be used are refused."""
    documents, labels = data.get("documents"), data.get("labels")
    if not isinstance(documents, list) or not isinstance(labels, dict):
        raise unknown_schema(file, "its one object", data, SCHEMA, dataset="contract_nli")
    pairs: list[Pair] = []
    refused: list[RefusedRow] = []
    for number, document in enumerate(documents, start=1):
        where = f"{file} document {number}"
        problem = _document_problem(document)
        if problem:
            refused.append(RefusedRow(where=where, reason=problem))
            continue
        where += f" (id {document['id']})"
        texts = [document["text"][start:end] for start, end in document["spans"]]
        for key, annotation in document["annotation_sets"][0]["annotations"].items():
            pair = _official_pair(document, texts, str(key), annotation, labels.get(key), where=f"{where} {key}")
            if isinstance(pair, Pair):
                pairs.append(pair)
            else:
                refused.append(RefusedRow(where=f"{where} {key}", reason=pair))
    return pairs, refused


def _document_problem(document: object) -> str | None:
    if not isinstance(document, dict):
        return f"is {type(document).__name__}, must be an object"
    if isinstance(document.get("id"), bool) or not isinstance(document.get("id"), str | int) or document["id"] == "":
        return "has no id"
    if problem := text_problem(document.get("text")):
        return f"text {problem}"
    spans, sets = document.get("spans"), document.get("annotation_sets")
    if not isinstance(spans, list) or not spans:
        return "spans must be a list of [start, end)"
    length = len(document["text"])
    for number, span in enumerate(spans):
        fits = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
        if not fits or not 0 <= span[0] < span[1] <= length:
            return f"span {number} is {span!r}, must be [start, end) within the text's {length} characters"
    first = sets[0] if isinstance(sets, list) and sets else None
    if not isinstance(first, dict) or not isinstance(first.get("annotations"), dict) or not first["annotations"]:
        return "has no annotations, so its labels are not known"
    return None


def _official_pair(
    document: Mapping[str, Any], texts: Sequence[str], key: str, annotation: object, label: object, *, where: str
) -> Pair | str:
    if not isinstance(label, dict) or text_problem(label.get("hypothesis")):
        return f"labels has no hypothesis under {key!r}"
    if not isinstance(annotation, dict) or annotation.get("choice") is None:
        return "has no choice, so its label is not known"
    choice, numbers = known_label(annotation["choice"], where=where), annotation.get("spans")
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < len(texts) for n in numbers):
        return f"evidence {numbers!r} must list span numbers from 0 to {len(texts) - 1}"
    if (choice == NOT_MENTIONED) != (not numbers):
        return f"evidence must be empty if and only if the label is NotMentioned; it is {numbers} with {choice}"
    return Pair(
        where=where,
        document_id=str(document["id"]),
        file_name=document.get("file_name"),
        texts=texts,
        hypothesis_id=key,
        hypothesis=str(label["hypothesis"]),
        label=choice,
        evidence=tuple(sorted(set(numbers))),
    )


# ------------------------------------------------------------------------------------------------ pairs


def plain_pairs(records: Sequence[sources.Record], *, file: str) -> Found:
    """Pairs of ``premise, hypothesis, label``; the premise's lines (its sentences, if it is one line) are passages."""
    pairs: list[Pair] = []
    refused: list[RefusedRow] = []
    passages: dict[str, list[str]] = {}
    for record in records:
        fields = record.fields
        if not {"premise", "hypothesis"} <= set(fields):
            raise unknown_schema(file, record.where, fields, SCHEMA, dataset="contract_nli")
        bad = next((key for key in ("premise", "hypothesis") if text_problem(fields[key])), None)
        if bad is not None or fields.get("label") is None:
            reason = f"{bad} {text_problem(fields[bad])}" if bad else "has no label"
            refused.append(RefusedRow(where=record.where, reason=reason))
            continue
        premise, hypothesis = str(fields["premise"]), str(fields["hypothesis"])
        pairs.append(
            Pair(
                where=record.where,
                document_id=content_id(premise),
                file_name=None,
                texts=passages.setdefault(premise, list(_passages(premise))),
                hypothesis_id=content_id(hypothesis),
                hypothesis=hypothesis,
                label=known_label(fields["label"], where=f"{file} ({record.where})"),
                evidence=None,
            )
        )
    return pairs, refused


def _passages(premise: str) -> Iterator[str]:
    lines = [line for line in premise.splitlines() if line.strip()]
    for line in lines if len(lines) > 1 else re.split(r"(?<=[.;:])\s+", premise.strip()):
        yield line.strip()
