"""The static filter: which training rows a prefilter's file leaves, and the files that it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.filtering import static as module
from dro_lab.filtering.static import prepare, static
from dro_lab.prefilter.file import FORMAT, Judged, content_of, write
from dro_lab.types import Provenance, Rewards, Row, Task, TokenStats
from tests.tiny_step import groups_of

ROWS = [
    Row(id=f"r{n}", prompt=[{"role": "user", "content": f"question {n}"}], reference=f"answer {n}") for n in range(6)
]
PROVENANCE = Provenance(dataset="pararev", kind="file", location="some.json", sha256="0" * 64)
TASK = Task(
    name="pararev",
    provenance=PROVENANCE,
    splits={"train": ROWS, "validation": [], "test": []},
    metric=None,
    metric_name="none",
)
WHY = {"r1": "top", "r4": "rest", "r5": "top"}


def judged(row, **changes):
    why = WHY.get(row.id)
    made = Judged(id=row.id, content=content_of(row), sigma_bar=0.1, quality=None, kept=why is not None, why=why)
    return replace(made, **changes)


def header(**changes):
    made = {
        "provenance": asdict(PROVENANCE),
        "provenance_text": str(PROVENANCE),
        "policy": {"name": "a policy"},
        "settings": {},
        "sampling_hash": "s",
        "hash": "h",
        "seed": 0,
        "commit": None,
        "command": "",
        "rows": len(ROWS),
        "seconds": 1.0,
    }
    return {**made, **changes}


def a_file(tmp_path, rows=None, **changes):
    rows = [judged(row) for row in ROWS] if rows is None else rows
    write(tmp_path / "kept.jsonl", header(**{"rows": len(rows), **changes}), rows)
    return str(tmp_path / "kept.jsonl")


def test_training_takes_the_kept_rows_in_their_order_and_says_how_many(tmp_path):
    task = prepare(TASK, file=a_file(tmp_path))
    assert [row.id for row in task.splits["train"]] == ["r1", "r4", "r5"]
    assert task.notes[-1] == (
        "filtering=static trains on 3 of 6 rows (50.0%): 2 with the largest sigma_bar, 1 drawn from the rest, measured "
        "with a policy"
    )
    assert TASK.splits["train"] == ROWS


def test_rows_that_were_not_measured_do_not_train_and_are_counted(tmp_path):
    task = prepare(TASK, file=a_file(tmp_path, [judged(row) for row in ROWS[:2]]))
    assert [row.id for row in task.splits["train"]] == ["r1"]
    assert "4 rows were not measured and do not train" in task.notes[-1]


def test_every_group_is_kept():
    groups = groups_of(2, 3)
    result = static(groups, TokenStats(), Rewards(outcome_PG=torch.zeros(2, 3)), file="anything")
    assert result.keep_PG.all()
    assert list(result.reasons_P) == ["", ""]
    assert module.needs(file="x") == frozenset()


def test_ids_with_line_separators_survive_the_file(tmp_path):
    odd = replace(ROWS[0], id="a\u2028b\x85c")
    task = replace(TASK, splits={"train": [odd]})
    kept = prepare(task, file=a_file(tmp_path, [judged(odd, kept=True, why="top")]))
    assert kept.splits["train"] == [odd]


def refused(tmp_path, match, rows=None, text=None, task=TASK, **changes):
    file = a_file(tmp_path, rows, **changes)
    if text is not None:
        (tmp_path / "kept.jsonl").write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        prepare(task, file=file)
    assert str(caught.value).startswith("filtering.file")
    return str(caught.value)


def test_no_file():
    with pytest.raises(UserError, match=r"filtering\.file is not set.*python -m dro_lab\.prefilter dataset=pararev"):
        prepare(TASK)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"filtering\.file=.*nowhere\.jsonl: no such file\. Make it again"):
        prepare(TASK, file=str(tmp_path / "nowhere.jsonl"))


def test_a_file_of_another_data_set(tmp_path):
    other = asdict(replace(PROVENANCE, dataset="finqa"))
    refused(tmp_path, r"was made for dataset=finqa, this run has dataset=pararev", provenance=other)


def test_ids_that_are_no_training_rows(tmp_path):
    smaller = replace(TASK, splits={"train": ROWS[:4]})
    message = refused(tmp_path, r"2 of its 6 ids are no training rows of this run, the first is 'r4'", task=smaller)
    assert "seed" in message


def test_rows_whose_text_has_changed(tmp_path):
    changed = [*ROWS[:5], replace(ROWS[5], reference="another answer")]
    refused(
        tmp_path,
        r"1 of its rows have another prompt or reference now, the first is 'r5'",
        task=replace(TASK, splits={"train": changed}),
    )


def test_a_file_that_keeps_nothing(tmp_path):
    refused(tmp_path, r"keeps none of its 6 rows", [judged(row, kept=False, why=None) for row in ROWS])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"is no file of a prefilter"),
        ("{not json\n", r"is no file of a prefilter"),
        ('{"id": "r1"}\n', r"is no file of a prefilter"),
        ("[1]\n", r"is no file of a prefilter"),
        (json.dumps({"format": FORMAT}) + "\n", r"line 1: lacks provenance"),
        (json.dumps({"format": FORMAT, **header()}) + "\n", r"holds 0 rows, its first line says 6"),
        (json.dumps({"format": FORMAT, **header()}) + "\n{half", r"line 2: is no row of a prefilter"),
        (json.dumps({"format": FORMAT, **header()}) + '\n{"id": "r1"}', r"line 2: is no row of a prefilter"),
    ],
)
def test_damaged_files(tmp_path, text, match):
    refused(tmp_path, match, text=text)


def test_a_damaged_row(tmp_path):
    refused(tmp_path, r"line 2: has an id, sigma_bar or kept of the wrong kind", [judged(ROWS[0], sigma_bar="0.1")])
    refused(tmp_path, r"line 2: has an id", [judged(ROWS[0], sigma_bar=0.7)])
    refused(tmp_path, r"line 2: has an id", [judged(ROWS[0], kept="yes")])
    refused(tmp_path, r"line 3: the id 'r0' stands on line 2 already", [judged(ROWS[0])] * 2)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        prepare(TASK, file=str(tmp_path))


def test_a_file_that_is_no_path():
    with pytest.raises(UserError, match=r"filtering\.file=3: must be the path"):
        module.check(file=3)
