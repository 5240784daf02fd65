"""Mathematics with a final answer that a program can check: GSM8K, MATH, AIME 2024 and 2025, DeepScaleR.

One loader for all: ``conf/dataset/{gsm8k,math,aime24,aime25,deepscaler}.yaml`` differ in the name, in where the hub has
the splits, and in the twin's preset. Three schemas are read, on the hub and in files:

- ``question, answer`` (GSM8K, Cobbe et al. 2021): the final number stands behind the last ``####``;
- ``problem, answer`` (MATH-500, AIME, DeepScaleR): the answer is the final answer;
- ``problem, solution`` (MATH, Hendrycks et al. 2021): the final answer is in the last ``\\boxed{}`` of the solution.

The reference is the final answer in the data set's answer template (``\\boxed{72}``; REPRO, arXiv 2512.01925): the
policy is scored on it after its reasoning. The metric is `dro_lab.data.maths_verifier.maths_accuracy`. Rows without a
final answer are refused and counted. A problem counts once: one that stands in a held-out split and in the training
rows too is taken out of training and counted. The procedural twin of them all: `dro_lab.data.twins.maths`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from dro_lab.checks import number
from dro_lab.data import sources
from dro_lab.data.maths_answers import TEMPLATES, Template, template
from dro_lab.data.maths_records import Parts, problem_of, read_hub, read_path
from dro_lab.data.maths_verifier import figures, maths_accuracy
from dro_lab.data.rows import check_text_key, content_id, conversation, duplicate_id, finish
from dro_lab.data.splits import SPLITS, check_shares, split_by_source
from dro_lab.data.twins.load import load_twin
from dro_lab.errors import UserError
from dro_lab.types import Provenance, RefusedRow, Row, Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
HELD_OUT_FIRST = ("test", "validation", "train", "")
NOTE = "accuracy is math-verify's, on the last boxed answer, else the last expression; unreadable answers are wrong"


def load(
    *,
    name: str,
    hub: Mapping[str, Any] | None = None,
    source: str = "twin",
    answer_template: str = "boxed",
    system_prompt: str | None = "auto",
    answer_marker: str = "",
    validation_share: float = 0.05,
    shares: Mapping[str, float] = SHARES,
    sizes: Mapping[str, int | None] | None = None,
    twin: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Load one of the mathematics data sets, or their twin.

    Args:
        name: of the data set; the task's name.
        hub: by split, where the hub has it: ``{repo, revision, config, files, split}`` or None; ``config`` may be a
            list.
        source: ``twin``, ``hub``, or a file or folder (.jsonl, .json, .parquet) in one of the schemas above.
        answer_template: ``boxed``, ``hash``, ``plain``, or a text that holds ANS once: the form of the reference.
        system_prompt: goes before the problem; ``auto``: real rows are told to reason and to end in the template, the
            twin's are not.
        answer_marker: stands between the closed reasoning and the answer.
        validation_share: of the training rows, cut off by the hash of the problem where the source has no validation
            split.
        shares: of the problems by split, where the source names no splits.
        sizes: cap on the rows by split, None = all; the twin makes exactly so many (`dro_lab.data.twins.load.SIZES`).
        twin: the twin's knobs (``preset`` and others).
        seed: draws the twin's training rows; its held-out rows and all real rows do not depend on it.

    Raises:
        UserError: unknown source or template, unreadable file, unknown schema, an id on two rows, no usable row, hub
            not reachable, a key out of range.
    """
    form = template(answer_template)
    check_text_key("name", name, optional=False)
    check_text_key("system_prompt", system_prompt)
    check_text_key("answer_marker", answer_marker, optional=False)
    number("dataset.validation_share", validation_share, low=0, high=0.99, todo="0.05 keeps 5% of the training rows")
    shares = check_shares(shares)
    own_prompt = None if system_prompt == "auto" else system_prompt
    if source == "twin":
        if form != template("boxed"):
            raise UserError(
                f"dataset.answer_template={answer_template}: the twin's policy was taught boxed, {TEMPLATES['boxed']}. "
                f"Others are allowed with dataset.source=hub or a path. Next: leave it out, or set dataset.source."
            )
        task = load_twin(
            "maths", twin, sizes=sizes, system_prompt=own_prompt, answer_marker=answer_marker, seed=seed, title=name
        )
        return replace(task, corpus_metric=figures)
    if find_spec("math_verify") is None:
        raise UserError(
            f"dataset={name}: the package math-verify, which checks the answers, is not installed. "
            f"Next: pip install math-verify."
        )
    if source == "hub":
        parts, kind = read_hub(hub), "hub"
    else:
        parts, kind = read_path(sources.resolve(source, dataset=name, words=("twin", "hub"))), "file"
    found = _found(parts, form, instruction(form) if system_prompt == "auto" else own_prompt)
    splits, notes = _split(found, validation_share, shares)
    # A user's own template has to be found in answers; partial objects without arguments would not compare as equal.
    metric, corpus = (partial(f, form=form) if form.own else f for f in (maths_accuracy, figures))
    task = finish(
        name=name,
        provenance=Provenance(
            dataset=name,
            kind=kind,  # type: ignore[arg-type]
            location=parts.location,
            revision=parts.revision,
            sha256=parts.sha256,
        ),
        splits=splits,
        sizes=sizes,
        metric=metric,  # type: ignore[arg-type]
        metric_name="accuracy",
        answer_marker=answer_marker,
        refused=found.refused,
        notes=[NOTE, *parts.notes, *notes],
    )
    return replace(task, corpus_metric=corpus)  # type: ignore[arg-type]


def instruction(form: Template) -> str:
    """What ``system_prompt="auto"`` tells a policy about real rows."""
    shape = form.filled("ANSWER").strip()
    last = "the final answer alone" if shape == "ANSWER" else f"the final answer in the form {shape}"
    return f"Solve the problem. Reason step by step, then give {last}."


@dataclass(slots=True)
class Found:
    """What was read: ``(where, row)`` by split ("" where none is named), and what was refused."""

    rows: dict[str, list[tuple[str, Row]]] = field(default_factory=dict)
    refused: list[RefusedRow] = field(default_factory=list)


def _found(parts: Parts, form: Template, system_prompt: str | None) -> Found:
    """Rows with their prompts, held-out splits first: a later row whose problem was seen is refused."""
    found = Found()
    problems: dict[str, tuple[str, str, str]] = {}
    ids: dict[str, str] = {}
    for split in (split for split in HELD_OUT_FIRST if split in parts.records):
        kept = found.rows.setdefault(split, [])
        for record in parts.records[split]:
            read = problem_of(record, parts.location)
            if isinstance(read, str):
                found.refused.append(RefusedRow(where=record.where, reason=read))
                continue
            columns = read["columns"]
            content = content_id(" ".join(columns["question"].split()))
            if content in problems:
                reason = _repeat(*problems[content], split, columns["answer"])
                found.refused.append(RefusedRow(where=record.where, reason=reason))
                continue
            row = Row(
                id=read["id"] or content,
                prompt=conversation(columns["question"].strip(), system_prompt=system_prompt),
                reference=form.filled(columns["answer"]),
                columns=columns,
            )
            if row.id in ids:
                raise UserError(duplicate_id(row.id, ids[row.id], record.where, file=parts.location))
            ids[row.id] = record.where
            problems[content] = split, record.where, columns["answer"]
            kept.append((record.where, row))
    return found


def _repeat(split: str, where: str, answer: str, here: str, given: str) -> str:
    if split != here:
        return f"its problem is in {split} too ({where})"
    return f"repeats the problem of {where} with {'the same' if answer == given else 'another'} answer"


def _split(
    found: Found, validation_share: float, shares: Mapping[str, float]
) -> tuple[dict[str, list[Row]], list[str]]:
    rows = {split: [row for _, row in part] for split, part in found.rows.items()}
    if "" in rows:
        return split_by_source(rows[""], source_of=_problem, shares=shares)
    notes: list[str] = []
    if rows.get("train") and not rows.get("validation") and validation_share:
        cut, notes = split_by_source(
            rows["train"],
            source_of=_problem,
            shares={"train": 1 - validation_share, "validation": validation_share, "test": 0},
        )
        rows |= {"train": cut["train"], "validation": cut["validation"]}
        notes = [*notes, f"validation: {len(cut['validation'])} of the training rows, by the hash of the problem"]
    missing = [split for split in SPLITS if not rows.get(split)]
    return rows, [*notes, *([f"the source has no {' and no '.join(missing)} rows"] if missing else [])]


def _problem(row: Row) -> str:
    return " ".join(str(row.columns["question"]).split())
