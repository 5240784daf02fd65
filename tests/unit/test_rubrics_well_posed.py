"""A row's own check that its reference fails is ill-posed: it is left out where a program can tell, and counted."""

from __future__ import annotations

from dro_lab.gating.rubric import prepare
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Provenance, Row, Task

TEXTS = ["Does it say 3?", "Is the fault named?", "Is it long?", "Who knows?"]
RUBRIC = [
    {"id": "met", "text": TEXTS[0]},
    {"id": "fault", "text": TEXTS[1], "expect": "no"},
    {"id": "failed", "text": TEXTS[2]},
    {"id": "unknown", "text": TEXTS[3]},
]


def program(answer: str, row: Row, check: Check) -> int:
    """The literal answers; a short reference that names the fault fails two checks."""
    return {"met": 1, "fault": int("fault" in answer), "failed": int(len(answer) > 20), "unknown": -1}[check.id]


def task(*references: str, kind="file", **fields) -> Task:
    rows = [
        Row(id=str(n), prompt=[{"role": "user", "content": "q"}], reference=text, columns={"rubric": RUBRIC})
        for n, text in enumerate(references)
    ]
    where = Provenance(dataset="mine", kind=kind, location="mine")
    return Task(
        name="mine",
        provenance=where,
        splits={"train": rows, "validation": rows},
        metric=None,
        metric_name="none",
        **{"check_program": program, **fields},
    )


def kept(made: Task, split: str = "train") -> list[list[str]]:
    return [[check.id for check in checks_of(row.columns)] for row in made.splits[split]]


def test_checks_that_the_reference_fails_are_left_out_counted_and_said():
    made = prepare(task("short", "a fault", "a long answer without any"))
    assert kept(made) == [["met", "fault", "unknown"], ["met", "unknown"], ["met", "fault", "failed", "unknown"]]
    assert made.notes == ("gating=rubric: 3 checks of training rows were left out: their own reference fails them",)


def test_held_out_rows_keep_theirs():
    assert kept(prepare(task("short")), "validation") == [["met", "fault", "failed", "unknown"]]


def test_without_a_program_nothing_is_judged():
    made = prepare(task("short", check_program=None))
    assert len(kept(made)[0]) == 4
    assert made.notes == ()


def test_a_rubric_that_is_wrong_on_purpose_is_corrupted_after_that():
    made = prepare(task("short"), rubrics={"corrupt": "negate"})
    assert kept(made) == [["met", "fault", "unknown"]]
    assert [check.expect for check in checks_of(made.splits["train"][0].columns)] == ["no", "yes", "no"]
