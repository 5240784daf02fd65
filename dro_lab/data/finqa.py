"""FinQA: answer a question about a page of a financial report, from its text and its table.

Source: Chen et al., "FinQA" (EMNLP 2021), MIT licence. Three schemas are read:

- official JSON: ``pre_text, post_text, table, id, filename, qa{question, answer, program, exe_ans, ...}``; one file, or
  a folder with train.json, dev.json and test.json (or one ``*train*.json``, ``*dev*.json``, ``*test*.json`` each);
- the hub copy `dreamerdeo/finqa`: ``id, pre_text, post_text, table, question, answer``, which lacks ``program`` and
  ``exe_ans``: the truth is then read from the answer's text ("34.7%" is 0.347);
- packed rows: ``question, context, exe_ans`` or ``answer``, and ``table`` where there is one.

A single file is split by ``filename`` (the report's page), where there is none by the page's table or text. The metric
is `dro_lab.data.metrics.numeric_accuracy`; official figures are in `dro_lab.data.finqa_metrics`. Annotators' answers
sometimes contradict the executed program ("-3.2%" beside -16.0): the reference is ``qa.answer`` where that agrees with
``exe_ans`` under the metric, else ``exe_ans``. Rows carry a rubric on the answer's form (`dro_lab.data.finqa_checks`);
checks that the row's own reference fails are left out and counted. The procedural twin: `dro_lab.data.twins.finqa`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dro_lab.checks import choice
from dro_lab.data import finqa_checks, hub, sources
from dro_lab.data.finqa_metrics import figures, program_accuracy
from dro_lab.data.finqa_program import ProgramError, parse
from dro_lab.data.finqa_records import SPLIT_WORDS, page_of, read_path
from dro_lab.data.finqa_text import agreed_reference, page_prompt
from dro_lab.data.metrics import numeric_accuracy
from dro_lab.data.rows import check_text_key, conversation, duplicate_id, finish, unique
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.data.twins.load import load_twin
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import as_column
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
ANSWERS = ("number", "program")
SYSTEM_PROMPTS = {
    "number": "Work out the answer to the question from the report. Answer with the number alone, or with yes or no.",
    "program": (
        "Write the program that answers the question from the report, and nothing else: steps such as "
        "subtract(5829, 5735), divide(#0, 5735), where #0 is the first step's result. Operations: add, subtract, "
        "multiply, divide, exp, greater (yes or no), each on two numbers, constants such as const_100 or results; "
        "table_max, table_min, table_sum, table_average, as in table_sum(row name, none)."
    ),
}
"""What ``system_prompt="auto"`` puts before real rows, by ``answer_as``."""
NOTES = {
    "number": (
        "accuracy reads one number from the answer's text (2% tolerance, percent forms x, x/100, 100x; yes/no exact); "
        "it is not FinQA's official execution accuracy, which runs a program"
    ),
    "program": (
        "accuracy runs the answer's program (2% tolerance, percent forms x, x/100, 100x; yes/no exact); FinQA's "
        "official execution_accuracy wants the executed result exactly"
    ),
}


def load(
    *,
    source: str = "twin",
    repo: str = "dreamerdeo/finqa",
    revision: str | None = None,
    files: str | Sequence[str] | None = None,
    config: str | None = None,
    answer_as: str = "number",
    max_prompt_chars: int | None = None,
    system_prompt: str | None = None,
    answer_marker: str = "",
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    twin: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Load FinQA or its twin.

    Args:
        source: ``twin``, ``hub``, or a file or folder in one of the schemas above.
        repo, revision, files, config: the hub's repository, commit, data files and configuration.
        answer_as: ``number``: answers are numbers, yes or no. ``program``: answers are programs, the reference is the
            row's own; rows without one are refused and counted.
        max_prompt_chars: cut the page's text, the sentences farthest from the table first, until the prompt has at most
            so many characters; None cuts nothing. Table and question are never cut.
        system_prompt: goes before the user's message; ``auto``: the one of `SYSTEM_PROMPTS` for real rows, none for the
            twin, whose policy was not taught any.
        answer_marker: stands between the closed reasoning and the answer.
        shares: share of the reports' pages by split, where the source is one file.
        sizes: cap on the rows by split, None = all; the twin makes exactly so many (`dro_lab.data.twins.load.SIZES`).
        twin: the twin's knobs (``preset`` and others).
        seed: draws the twin's training rows; its held-out rows and all real rows do not depend on it.

    Raises:
        UserError: unknown source, unreadable file, unknown schema, an id on two rows, no usable row, hub not reachable,
            a key out of range.
    """
    choice("dataset.answer_as", answer_as, ANSWERS, todo="number is the paper's, program the official form")
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    if max_prompt_chars is not None and (type(max_prompt_chars) is not int or max_prompt_chars < 1):
        raise UserError(
            f"dataset.max_prompt_chars={max_prompt_chars!r}: must be null (no cutting) or a whole number of at least "
            f"1. Next: e.g. dataset.max_prompt_chars=2000."
        )
    shares = check_shares(shares)
    own_prompt = None if system_prompt == "auto" else system_prompt
    if source == "twin":
        if answer_as != "number" or max_prompt_chars is not None:
            key, value = ("answer_as", answer_as) if answer_as != "number" else ("max_prompt_chars", max_prompt_chars)
            raise UserError(
                f"dataset.{key}={value}: the twin's pages are short and its policy answers with numbers. Allowed with "
                f"dataset.source=hub or a path. Next: leave it out, or set dataset.source."
            )
        return load_twin(
            "finqa",
            twin,
            sizes=sizes,
            system_prompt=own_prompt,
            answer_marker=answer_marker,
            seed=seed,
        )
    settings = Settings(
        answer_as, max_prompt_chars, SYSTEM_PROMPTS[answer_as] if system_prompt == "auto" else own_prompt
    )
    notes = [NOTES[answer_as]]
    if source == "hub":
        parts, commit, digest = hub.read(repo, revision=revision, files=files, config=config)
        provenance = Provenance(dataset="finqa", kind="hub", location=repo, revision=commit, sha256=digest)
    else:
        parts, digest, more = read_path(sources.resolve(source, dataset="finqa", words=("twin", "hub")))
        notes += more
        provenance = Provenance(dataset="finqa", kind="file", location=str(source), sha256=digest)
    found = {part: _rows(records, str(source), settings) for part, records in parts.items()}
    splits, more = _split(found, shares)
    _check_ids(splits, str(source))
    task = finish(
        name="finqa",
        provenance=provenance,
        splits=splits,
        sizes=sizes,
        metric=numeric_accuracy if answer_as == "number" else program_accuracy,
        metric_name="accuracy",
        answer_marker=answer_marker,
        refused=[row for part in found.values() for row in part.refused],
        notes=[*notes, *more, *_counts(found)],
    )
    corpus_metric = partial(figures, programs_asked=answer_as == "program")
    return replace(task, corpus_metric=corpus_metric, check_program=finqa_checks.decide)


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows are put."""

    answer_as: str
    limit: int | None
    system_prompt: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of one part with what was refused and how many prompts, references and rubrics were changed."""

    rows: list[Row]
    refused: list[RefusedRow]
    cut: int
    replaced: int
    ill_posed: int


def _rows(records: Sequence[sources.Record], source: str, settings: Settings) -> Found:
    found: list[tuple[str, Row]] = []
    refused: list[RefusedRow] = []
    cut = replaced = ill_posed = 0
    for record in records:
        page = page_of(record, source)
        if isinstance(page, str):
            refused.append(RefusedRow(where=record.where, reason=page))
            continue
        limit = settings.limit
        prompt, was_cut = page_prompt(page["pre"], page["table"], page["post"], page["question"], limit=limit)
        if limit is not None and len(prompt) > limit:
            reason = f"table and question alone make {len(prompt)} characters > dataset.max_prompt_chars={limit}"
            refused.append(RefusedRow(where=record.where, reason=reason))
            continue
        if settings.answer_as == "program" and (problem := _program_problem(page["program"])):
            refused.append(RefusedRow(where=record.where, reason=problem))
            continue
        number = agreed_reference(page["answer"], page["truth"])
        row, dropped = _with_rubric(
            Row(
                id=page["id"],
                prompt=conversation(prompt, system_prompt=settings.system_prompt),
                reference=number if settings.answer_as == "number" else page["program"],
                columns={
                    **{key: page[key] for key in ("question", "answer", "filename", "source_id", "program", "table")},
                    "exe_ans": page["truth"],
                    "executed": page["executed"],
                },
            ),
            settings.answer_as,
        )
        cut += was_cut
        replaced += settings.answer_as == "number" and bool(page["answer"]) and number != page["answer"]
        ill_posed += dropped
        found.append((record.where, row))
    kept, repeats = unique(found, file=source, merge=False)
    return Found([row for _, row in kept], [*refused, *repeats], cut, replaced, ill_posed)


def _program_problem(program: str | None) -> str | None:
    if program is None:
        return "no program (dataset.answer_as=program needs one in every row)"
    try:
        parse(program)
    except ProgramError as error:
        return f"program {program!r}: {error}"
    return None


def _with_rubric(row: Row, answer_as: str) -> tuple[Row, int]:
    """The row with its rubric and what `gating=schema` reads, and how many checks its reference fails (left out)."""
    truth = row.columns["exe_ans"]
    if answer_as == "program":
        checks, columns = finqa_checks.program_rubric(), finqa_checks.PROGRAM_COLUMNS
    elif truth is None:
        return row, 0
    else:
        unit = finqa_checks.asked_unit(str(row.columns["question"]))
        checks, columns = finqa_checks.rubric(truth, unit=unit), finqa_checks.columns(truth, unit)
    met, dropped = finqa_checks.well_posed(checks, row)
    kinds = {str((check.predicate or {}).get("kind")) for check in met}
    columns = {**columns, "predicates": [name for name in columns["predicates"] if name.rpartition(".")[2] in kinds]}
    return replace(row, columns={**row.columns, **columns, "rubric": as_column(met)}), dropped


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
    if ill_posed := sum(part.ill_posed for part in found.values()):
        notes.append(f"{ill_posed} checks of the rows' rubrics were left out, since the row's own reference fails them")
    unjudged = sum(row.columns["exe_ans"] is None for part in found.values() for row in part.rows)
    if unjudged:
        notes.append(f"{unjudged} rows have an answer that is neither a number nor yes or no: their accuracy is nan")
    return notes
