"""Where a run's rubrics come from: the rows themselves, or a file; and their corruption, where a study asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dro_lab.checks import choice, share, whole
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO
from dro_lab.judges.quality import met
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.rubrics.corrupt import CORRUPTIONS, Corruption, corrupt
from dro_lab.rubrics.file import RubricFile, content_key, read
from dro_lab.types import CheckProgram, Row, Task

WRITE = "python -m dro_lab.rubrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubrics:
    """The keys under ``gating.rubrics``."""

    file: str | None = None  # of `python -m dro_lab.rubrics`; None: what the rows carry
    corrupt: Corruption = "none"
    share: float = 1.0  # of the training rows with a rubric that is corrupted
    seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Rubrics:
        """From the configuration. Raises `UserError` for unknown keys and values that make no sense."""
        given, known = given or {}, [item.name for item in fields(cls)]
        if not isinstance(given, Mapping):
            raise UserError(f"gating.rubrics={given}: must hold keys and values; allowed are {', '.join(known)}")
        if unknown := sorted(set(given) - set(known)):
            raise UserError(f"gating.rubrics.{unknown[0]}: unknown key; allowed are {', '.join(known)}")
        made = cls(**given)
        choice("gating.rubrics.corrupt", made.corrupt, CORRUPTIONS, todo="none is the default, the rest are studies")
        share("gating.rubrics.share", made.share, todo="share of the training rows whose rubric is corrupted")
        whole("gating.rubrics.seed", made.seed, low=0, todo="chooses the rows that are corrupted")
        return made


def prepare_rubrics(task: Task, wanted: Rubrics) -> Task:
    """Attach, check and, where asked, corrupt the rubrics of a data set.

    A file's rubrics replace those of the training rows (a row that the file does not know is not gated, and counted);
    held-out rows take them where the file has one, unless their quality is itself the rubric score.

    Where the rows' own rubrics can be decided by the data set's program, training rows lose the checks that their
    reference fails: those are ill-posed (a file's were tried when it was written; a twin's are made for the reference).

    Raises:
        UserError: no training row has a rubric, a row's rubric cannot be read, or the file is of another data set.
    """
    if wanted.file:
        task = attach(task, read(wanted.file))
    for split, rows in task.splits.items():
        for row in rows:
            _checked(row, split)
    train, ill_posed = list(task.splits.get("train", ())), 0
    if not wanted.file and task.check_program is not None and task.provenance.kind != "twin":
        train, ill_posed = well_posed(train, task.check_program)
    gated = sum(bool(checks_of(row.columns)) for row in train)
    if not gated:
        found = f"gating.rubrics.file={wanted.file} has no check for" if wanted.file else "there is no rubric in"
        raise UserError(
            f"gating=rubric with dataset {task.name}: {found} any of the {len(train)} training rows. Write rubrics "
            f"with `{WRITE} dataset={task.name} judge=openai out=FILE` and give gating.rubrics.file=FILE, or choose "
            "gating=none"
        )
    notes = []
    if ill_posed:
        notes.append(
            f"gating=rubric: {ill_posed} checks of training rows were left out: their own reference fails them"
        )
    if gated < len(train):
        notes.append(f"gating=rubric: {len(train) - gated} of {len(train)} training rows have no rubric: not gated")
    rows, count = corrupt(train, wanted.corrupt, share=wanted.share, seed=wanted.seed)
    if count:
        notes.append(
            f"gating.rubrics.corrupt={wanted.corrupt}: the rubrics of {count} of {gated} training rows are wrong on "
            f"purpose (share {wanted.share:g}, seed {wanted.seed})"
        )
    return replace(task, splits={**task.splits, "train": rows}, notes=(*task.notes, *notes))


def well_posed(rows: Sequence[Row], program: CheckProgram) -> tuple[list[Row], int]:
    """The rows without the checks that their own reference fails, and how many those were; unknown ones stay."""
    kept, left_out = [], 0
    for row in rows:
        checks = checks_of(row.columns)
        good = [check for check in checks if met(program(row.reference, row, check), check) != NO]
        left_out += len(checks) - len(good)
        same = len(good) == len(checks)
        kept.append(row if same else replace(row, columns={**row.columns, "rubric": as_column(good)}))
    return kept, left_out


def attach(task: Task, source: RubricFile) -> Task:
    """The data set with a file's rubrics in its rows.

    Raises:
        UserError: the file's header names another data set, or none of its keys is a training row's.
    """
    name, header = f"gating.rubrics.file={source.path}", source.header
    if header.dataset != task.name:
        raise UserError(
            f"{name}: holds rubrics of the data set {header.dataset}, this run's is {task.name}; write this one's with "
            f"`{WRITE} dataset={task.name} judge={header.judge} out=FILE`"
        )
    splits, found = {}, 0
    for split, rows in task.splits.items():
        keep = split != "train" and task.rubric_score  # their quality is the score by their own rubric
        splits[split] = list(rows) if keep else [_with(row, source, split) for row in rows]
        if split == "train":
            found = sum(content_key(row, header.template) in source.entries for row in rows)
    if not found:
        raise UserError(
            f"{name}: none of its {len(source.entries)} rubrics fits a training row of {task.name} by content: "
            f"prompts, references or seed differ from what it was written for ({header.command}). "
            "Write it again with the same dataset.* keys as this run"
        )
    return replace(task, splits=splits)


def _with(row: Row, source: RubricFile, split: str) -> Row:
    entry = source.entries.get(content_key(row, source.header.template))
    if entry is None and split != "train":
        return row
    checks: Sequence[Any] = as_column(entry.checks) if entry else []
    return replace(row, columns={**row.columns, "rubric": checks})


def _checked(row: Row, split: str) -> int:
    """How many checks the row carries. Raises `UserError` where they cannot be read."""
    try:
        return len(checks_of(row.columns))
    except ValueError as error:
        raise UserError(
            f"gating=rubric: {split} row {row.id}: {error}; correct the row, or give gating.rubrics.file=FILE "
            f"(written by `{WRITE}`)"
        ) from error
