"""ContractNLI: does a contract entail a hypothesis, contradict it, or not mention it, and which spans prove it?

Source: Koreeda and Manning, "ContractNLI: A Dataset for Document-level Natural Language Inference for Contracts"
(Findings of EMNLP 2021), CC BY 4.0; 607 contracts, 17 hypotheses each. Schemas: `dro_lab.data.contract_nli_records`.
The twin comes from `dro_lab.data.twins.contract_nli`.

One row a pair. The prompt numbers the contract's spans as the data do, counted from 0 over the whole contract, so that
numbers in an answer are the annotation's own whether or not the prompt was cut. The reference is the annotation as JSON
(`dro_lab.data.contract_nli_answer`), with all its evidence: a span that the cut left out stays in it, and is counted.
Prompts over ``max_prompt_chars`` are cut to the spans nearest to the hypothesis (`dro_lab.data.contract_nli_spans`).
Pairs without numbered spans (the hub copy) ask for the label alone, and evidence figures do not exist for them.

Official files keep their split; one file is split by contract, by the hash of its id. A contract in two splits is an
error. The row's metric is whether the label is right; `dro_lab.data.contract_nli_metrics` has the official figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dro_lab.checks import whole
from dro_lab.data import hub, sources
from dro_lab.data.contract_nli_answer import write
from dro_lab.data.contract_nli_checks import decide, format_columns
from dro_lab.data.contract_nli_metrics import corpus_metric, label_right
from dro_lab.data.contract_nli_prompt import GAP, render_prompt, render_whole
from dro_lab.data.contract_nli_records import SPLIT_WORDS, Found, Pair, plain_pairs, read_path
from dro_lab.data.contract_nli_spans import Contract, choose
from dro_lab.data.rows import check_text_key, conversation, duplicate_id, finish, unique
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.data.twins.load import load_twin
from dro_lab.errors import UserError
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
NOTE = "label_accuracy is the share of answers that can be read and have the right label; evidence is not judged in it"


def load(
    *,
    source: str = "twin",
    repo: str = "kiddothe2b/contract-nli",
    revision: str | None = None,
    files: str | Sequence[str] | Mapping[str, Any] | None = None,
    config: str | None = None,
    max_prompt_chars: int | None = 12000,
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    twin: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Load ContractNLI or its twin.

    Args:
        source: ``twin``, ``hub``, or a file or folder in one of the schemas.
        repo, revision, files, config: the hub's repository, commit, data files and configuration.
        max_prompt_chars: most characters of the user's message; None cuts nothing.
        system_prompt: goes before the user's message.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the contracts by split, where the source is one file.
        sizes: cap on the rows by split, None = all; the twin makes exactly so many.
        twin: the twin's knobs (``preset`` and others).
        seed: draws the twin's training rows; its held-out rows and all real rows do not depend on it.

    Raises:
        UserError: unknown source, unreadable file, unknown schema, a label that is not one of three, a contract in two
            splits, no usable row, hub not reachable.
    """
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    if max_prompt_chars is not None:
        whole("dataset.max_prompt_chars", max_prompt_chars, low=1, todo="null cuts nothing, 12000 is the default")
    shares = check_shares(shares)
    if source == "twin":
        return load_twin(
            "contract_nli",
            twin,
            sizes=sizes,
            system_prompt=system_prompt,
            answer_marker=answer_marker,
            seed=seed,
            corpus_metric=corpus_metric,
        )
    if source == "hub":
        rows, commit, digest = hub.read(repo, revision=revision, files=files, config=config)
        found = {part: plain_pairs(records, file=f"{repo} {part}") for part, records in rows.items()}
        parts = {SPLIT_WORDS.get(part, part): pairs for part, pairs in found.items()}
        notes: list[str] = []
        provenance = Provenance(dataset="contract_nli", kind="hub", location=repo, revision=commit, sha256=digest)
    else:
        parts, digest, notes = read_path(sources.resolve(source, dataset="contract_nli", words=("twin", "hub")))
        provenance = Provenance(dataset="contract_nli", kind="file", location=str(source), sha256=digest)
    splits, refused, more = _splits(
        parts, str(provenance.location), shares=shares, limit=max_prompt_chars, system_prompt=system_prompt
    )
    task = finish(
        name="contract_nli",
        provenance=provenance,
        splits=splits,
        sizes=sizes,
        metric=label_right,
        metric_name="label_accuracy",
        answer_marker=answer_marker,
        refused=refused,
        notes=[NOTE, *notes, *more],
    )
    return replace(task, corpus_metric=corpus_metric, check_program=decide)


def _splits(
    parts: Mapping[str, Found],
    source: str,
    *,
    shares: Mapping[str, float],
    limit: int | None,
    system_prompt: str | None,
) -> tuple[dict[str, list[Row]], list[RefusedRow], list[str]]:
    refused = [row for _, part in parts.values() for row in part]
    splits: dict[str, list[Row]] = {}
    for split, (pairs, _) in parts.items():
        rows, more = rows_of(pairs, limit=limit, system_prompt=system_prompt)
        kept, repeats = unique(rows, file=source, merge=False)
        splits[split] = [row for _, row in kept]
        refused += [*more, *repeats]
    every = [row for rows_ in splits.values() for row in rows_]
    notes = _cut_notes(every, limit)
    if set(splits) <= set(SPLITS):
        _check_contracts(splits, source)
        missing = [split for split in SPLITS if not splits.get(split)]
        if missing:
            notes.append(f"the source has no {' and no '.join(missing)} rows")
        return splits, refused, notes
    by_source, more_notes = split_by_source(every, source_of=lambda row: str(row.columns["document_id"]), shares=shares)
    return by_source, refused, [*notes, *more_notes]


def rows_of(
    pairs: Sequence[Pair], *, limit: int | None, system_prompt: str | None = None
) -> tuple[list[tuple[str, Row]], list[RefusedRow]]:
    """``(where, row)`` of every pair, and the pairs of which not one span fits into the prompt."""
    rows: list[tuple[str, Row]] = []
    refused: list[RefusedRow] = []
    contracts: dict[int, Contract] = {}
    for pair in pairs:
        contract = contracts.setdefault(id(pair.texts), Contract.of(pair.texts))
        shown = choose(contract, pair.hypothesis, limit=limit)
        if not shown:
            reason = f"not one span fits beside the hypothesis into dataset.max_prompt_chars={limit}"
            refused.append(RefusedRow(where=pair.where, reason=reason))
            continue
        columns = {
            "document_id": pair.document_id,
            "file_name": pair.file_name,
            "hypothesis_id": pair.hypothesis_id,
            "hypothesis": pair.hypothesis,
            "label": pair.label,
            "evidence": None if pair.evidence is None else list(pair.evidence),
            "shown": shown,
            "left_out": len(pair.texts) - len(shown),
            **format_columns(spans=None if pair.evidence is None else len(pair.texts)),
        }
        row = Row(
            id=f"{pair.document_id}/{pair.hypothesis_id}",
            prompt=conversation(_prompt(pair, shown), system_prompt=system_prompt),
            reference=write(pair.label, pair.evidence),
            columns=columns,
        )
        rows.append((pair.where, row))
    return rows, refused


def _prompt(pair: Pair, shown: Sequence[int]) -> str:
    if pair.evidence is not None:
        return render_prompt([(number, pair.texts[number]) for number in shown], pair.hypothesis)
    lines: list[str] = []
    for place, number in enumerate(shown):
        if number != (shown[place - 1] + 1 if place else 0):
            lines.append(GAP)
        lines.append(pair.texts[number])
    return render_whole("\n".join(lines), pair.hypothesis)


def _check_contracts(splits: Mapping[str, Sequence[Row]], source: str) -> None:
    seen: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            contract = str(row.columns["document_id"])
            if seen.setdefault(contract, split) != split:
                raise UserError(
                    duplicate_id(contract, f"split {seen[contract]}", f"split {split}", file=f"{source} (contracts)")
                )


def _cut_notes(rows: Sequence[Row], limit: int | None) -> list[str]:
    """What the cut left out, and how much annotated evidence went with it (counted after the fact)."""
    cut = [row for row in rows if row.columns["left_out"]]
    notes = []
    if cut:
        spans = sum(row.columns["left_out"] for row in cut)
        notes.append(
            f"{len(cut)} of {len(rows)} prompts were cut to dataset.max_prompt_chars={limit}: the spans nearest to the "
            f"hypothesis by BM25 stayed with their neighbours, {spans} spans were left out"
        )
        lost = [len(set(row.columns["evidence"]) - set(row.columns["shown"])) for row in cut if row.columns["evidence"]]
        total = sum(len(row.columns["evidence"] or ()) for row in rows)
        if total:
            notes.append(f"{sum(lost)} of {total} evidence spans were left out, in {sum(map(bool, lost))} rows")
    if any(row.columns["spans"] is None for row in rows):
        notes.append("rows without numbered spans ask for the label alone; evidence figures do not exist for them")
    return notes
