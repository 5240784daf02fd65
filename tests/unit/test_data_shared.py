"""The loaders on published rows, where a checkout has them beside it (``../shared/data``)."""

import math
from pathlib import Path

import pytest

from dro_lab.data import finqa, pararev

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def need(*parts: str) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the published rows are not here ({path})")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("official_schema_train_100.json", 100),
        ("official_schema_dev_200.json", 200),
        ("packed_dev.jsonl", 883),
        ("packed_train_subset.jsonl", 518),
    ],
)
def test_every_published_finqa_row_is_read_and_its_reference_counts_as_right(name, count):
    task = finqa.load(source=str(need("finqa", name)))
    rows = all_rows(task)
    assert (len(rows), len(task.refused)) == (count, 0)
    assert all(task.splits.values())
    assert all(task.metric(row.reference, row) == 1.0 for row in rows)
    assert all(task.metric("I do not know", row) == 0.0 for row in rows)


def test_the_finqa_folder_keeps_its_splits():
    task = finqa.load(source=str(need("finqa")))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 100, "validation": 200, "test": 0}
    pages = [{row.columns["filename"] for row in task.splits[split]} for split in ("train", "validation")]
    assert ("some reports' pages stand in more than one of the source's splits" in task.notes) == bool(
        pages[0] & pages[1]
    )


def test_cutting_keeps_table_and_question():
    task = finqa.load(source=str(need("finqa", "official_schema_dev_200.json")), max_prompt_chars=1500)
    rows = all_rows(task)
    assert len(rows) + len(task.refused) == 200
    assert len(rows) > 150
    assert all(len(row.prompt[-1]["content"]) <= 1500 for row in rows)
    assert all(row.columns["question"].strip() in row.prompt[-1]["content"] for row in rows)


def test_the_129_judgements_are_44_pairs_and_no_article_stands_in_two_splits():
    task = pararev.load(source=str(need("pararev")))
    rows = all_rows(task)
    assert (len(rows), len(task.refused)) == (44, 85)
    assert all(task.splits.values())
    owners = [{row.columns["id_source"] for row in part} for part in task.splits.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert {row.columns["id_source"] for row in rows} == {row.id.split(".")[0] for row in rows}
    for row in rows:
        assert task.metric(row.reference, row) == 1.0
        assert 0 < task.metric(row.columns["paragraph"], row) <= 1.0
        assert not math.isnan(task.metric("", row))
