"""ParaRev: revise a paragraph of a scientific article as an instruction asks.

Source: Jourdan et al., "ParaRev" (WRAICOGS 2025), hub `taln-ls2n/pararev`, CC BY-NC-SA 4.0; 641 of its 48,203 pairs
carry instructions, up to two each (``annot_1``, ``annot_2``). Also read: the pairs that people judged in ParaReval
(``original_paragraph, reference_paragraph, instruction``; several judgements of one pair are one row), and tables with
a plain ``instruction`` column. The procedural twin comes from `dro_lab.data.twins.pararev`.

There is no official split: whole sources (``id_source``) go to a split by the hash of their id, so that no article has
paragraphs on both sides. Where only ``id_paragraph`` exists ("vrvf56Ug_C.PgzrILJ_er.00": source version, revised
version, number) the source is the part before the first dot; without either, the original paragraph is its own source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dro_lab.data import hub, sources
from dro_lab.data.metrics import reference_overlap
from dro_lab.data.rows import check_text_key, content_id, conversation, finish, text_problem, unique, unknown_schema
from dro_lab.data.splits import check_shares, split_by_source
from dro_lab.data.twins.load import load_twin
from dro_lab.errors import UserError
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
BEFORE = ("parag_1", "parag-1", "original_paragraph")
AFTER = ("parag_2", "parag-2", "reference_paragraph")
ANNOTATIONS = ("annot_1", "annot_2")
SCHEMA = (
    "parag_1 and parag_2 (or parag-1 and parag-2) with id_paragraph, id_source and annot_1/annot_2 or instruction; "
    "or original_paragraph, reference_paragraph, instruction"
)
NOTE = (
    "reference_overlap is surface similarity to the one reference revision. It is not a judgement of the revision and "
    "not the paper's measure (win rate); a good revision in other words scores low"
)


def load(
    *,
    source: str = "twin",
    repo: str = "taln-ls2n/pararev",
    revision: str | None = None,
    files: str | Sequence[str] | None = None,
    config: str | None = None,
    instruction: str | None = None,
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    twin: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Load ParaRev or its twin.

    Args:
        source: ``twin``, ``hub``, or a file or folder (.json, .jsonl, .csv, .parquet) in one of the schemas above.
        repo, revision, files, config: the hub's repository, commit, data files and configuration.
        instruction: for pairs that carry none of their own; None refuses and counts them.
        system_prompt: goes before the user's message.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the sources by split (real data).
        sizes: cap on the rows by split, None = all; the twin makes exactly so many (`dro_lab.data.twins.load.SIZES`).
        twin: the twin's knobs (``preset`` and others).
        seed: draws the twin's training rows; its held-out rows and all real rows do not depend on it.

    Raises:
        UserError: unknown source, unreadable file, unknown schema, no usable row, hub not reachable.
    """
    for key, value in (("instruction", instruction), ("system_prompt", system_prompt)):
        check_text_key(key, value)
    check_text_key("answer_marker", answer_marker, optional=False)
    shares = check_shares(shares)
    if source == "twin":
        if instruction is not None:
            raise UserError(
                f"dataset.instruction={instruction!r}: the twin's rows carry their own instructions. Allowed with "
                f"dataset.source=hub or a path. Next: leave it out, or set dataset.source."
            )
        return load_twin(
            "pararev", twin, sizes=sizes, system_prompt=system_prompt, answer_marker=answer_marker, seed=seed
        )
    if source == "hub":
        rows, commit, digest = hub.read(repo, revision=revision, files=files, config=config)
        loaded = hub.merged(rows, repo)
        provenance = Provenance(dataset="pararev", kind="hub", location=repo, revision=commit, sha256=digest)
    else:
        loaded = sources.read(sources.resolve(source, dataset="pararev", words=("twin", "hub")))
        provenance = Provenance(dataset="pararev", kind="file", location=str(loaded.path), sha256=loaded.sha256)
    rows_, refused = _rows(loaded, instruction=instruction, system_prompt=system_prompt)
    splits, notes = split_by_source(rows_, source_of=lambda row: str(row.columns["id_source"]), shares=shares)
    return finish(
        name="pararev",
        provenance=provenance,
        splits=splits,
        sizes=sizes,
        metric=reference_overlap,
        metric_name="reference_overlap",
        answer_marker=answer_marker,
        refused=refused,
        notes=[*_notes(rows_, loaded), *notes],
    )


def _rows(
    loaded: sources.Loaded, *, instruction: str | None, system_prompt: str | None
) -> tuple[list[Row], list[RefusedRow]]:
    from dro_lab.data.pararev_prompt import render_prompt

    found: list[tuple[str, Row]] = []
    refused: list[RefusedRow] = []
    for record in loaded.records:
        before, after = _first(record.fields, BEFORE), _first(record.fields, AFTER)
        if before is None or after is None:
            raise unknown_schema(str(loaded.path), record.where, record.fields, SCHEMA, dataset="pararev")
        problem = _problem(record.fields, before, after)
        if problem:
            refused.append(RefusedRow(where=record.where, reason=problem))
            continue
        for suffix, asked, columns in _requests(record, refused, instruction):
            paragraph, concerns = str(record.fields[before]), record.fields.get("concerns")
            if concerns and not isinstance(concerns, str):
                concerns = "; ".join(concerns)
            prompt = render_prompt(paragraph, asked, concerns or None)
            row = Row(
                id=_paragraph_id(record.fields, paragraph) + suffix,
                prompt=conversation(prompt, system_prompt=system_prompt),
                reference=str(record.fields[after]),
                columns={
                    "id_source": _source_id(record.fields, paragraph),
                    "paragraph": paragraph,
                    "instruction": asked,
                    **columns,
                },
            )
            found.append((record.where, row))
    kept, repeats = unique(found, file=str(loaded.path), merge=True)
    return [row for _, row in kept], [*refused, *repeats]


def _requests(
    record: sources.Record, refused: list[RefusedRow], instruction: str | None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The instructions of one pair: ``(suffix of the row's id, instruction, columns)``; what is missing is refused."""
    fields = record.fields
    own = [(name, _annotation(fields[name])) for name in ANNOTATIONS if fields.get(name)]
    asked = [(name, note) for name, note in own if text_problem(note.get("instruction")) is None]
    for name, note in asked:
        columns = {"labels": list(note.get("annotation") or []), "annotator": note.get("annotator")}
        yield f"#{name}", str(note["instruction"]), columns
    for name, note in own:
        if asked and text_problem(note.get("instruction")) is not None:
            reason = f"{name}: instruction {text_problem(note.get('instruction'))}"
            refused.append(RefusedRow(where=record.where, reason=reason))
    if asked:
        return
    columns = {"labels": list(fields.get("labels") or [])} if not isinstance(fields.get("labels"), str) else {}
    suffix = f"#{fields['pararev_annot']}" if fields.get("pararev_annot") else ""
    if text_problem(fields.get("instruction")) is None:
        yield suffix, str(fields["instruction"]), columns
    elif instruction is not None:
        yield suffix, instruction, columns
    else:
        refused.append(RefusedRow(where=record.where, reason="no instruction (give one with dataset.instruction=TEXT)"))


def _annotation(value: object) -> Mapping[str, Any]:
    # A csv cell holds the annotation as JSON text.
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields), None)


def _problem(fields: Mapping[str, Any], before: str, after: str) -> str | None:
    for key in (before, after):
        if problem := text_problem(fields[key]):
            return f"{key} {problem}"
    for key in ("id_paragraph", "id_source"):
        if fields.get(key) is not None and (problem := text_problem(fields[key])):
            return f"{key} {problem}"
    concerns = fields.get("concerns")
    if concerns and not (isinstance(concerns, str) or all(isinstance(c, str) for c in concerns)):
        return "concerns must be a text or a list of texts"
    return None


def _paragraph_id(fields: Mapping[str, Any], paragraph: str) -> str:
    return str(fields.get("id_paragraph") or content_id(paragraph))


def _source_id(fields: Mapping[str, Any], paragraph: str) -> str:
    if fields.get("id_source"):
        return str(fields["id_source"])
    if fields.get("id_paragraph"):
        return str(fields["id_paragraph"]).split(".")[0]
    return content_id(paragraph)


def _notes(rows: Sequence[Row], loaded: sources.Loaded) -> list[str]:
    notes = [NOTE]
    if sample := rows[:: max(1, len(rows) // 100)]:
        copied = sum(reference_overlap(str(row.columns["paragraph"]), row) for row in sample) / len(sample)
        notes.append(f"handing back the paragraph unrevised scores {copied:.2f} on average ({len(sample)} rows)")
    if loaded.unread:
        notes.append(f"files not read in {Path(loaded.path).name}: {', '.join(loaded.unread)}")
    return notes
