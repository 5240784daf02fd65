"""A user's own rows."""

import json

import pytest

from dro_lab.data import jsonl
from dro_lab.data.metrics import exact_match


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


def test_texts_and_message_lists_become_prompts_and_other_columns_are_kept(tmp_path):
    chat = [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]
    rows = [
        {"prompt": "p1", "reference": "r1", "id": 7, "rubric": ["a"]},
        {"prompt": chat, "reference": "r2", "id": "x"},
    ]
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", rows)), system_prompt="S")
    found = {row.id: row for row in all_rows(task)}
    assert found["7"].prompt == [{"role": "system", "content": "S"}, {"role": "user", "content": "p1"}]
    assert found["7"].columns == {"rubric": ["a"]}
    assert found["x"].prompt == chat


def test_a_split_column_decides_the_splits(tmp_path):
    names = ["train", "dev", "test", "valid", "validation", "val"]
    rows = [{"prompt": f"p{n}", "reference": "r", "split": name} for n, name in enumerate(names)]
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", rows)))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 1, "validation": 4, "test": 1}


def test_without_ids_the_content_makes_them_and_they_decide_the_split(tmp_path):
    rows = [{"prompt": f"p{n}", "reference": "r"} for n in range(60)]
    one = jsonl.load(source=str(write(tmp_path / "a.jsonl", rows)))
    two = jsonl.load(source=str(write(tmp_path / "b.jsonl", rows[::-1])))
    for split in ("train", "validation", "test"):
        assert {row.id for row in one.splits[split]} == {row.id for row in two.splits[split]}
        assert one.splits[split]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\r\n"])
def test_only_line_feeds_end_a_line(tmp_path, separator):
    rows = [{"prompt": f"a{separator}b{n}", "reference": "r"} for n in range(3)]
    assert len(all_rows(jsonl.load(source=str(write(tmp_path / "d.jsonl", rows))))) == 3


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_problem(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "reference": "r"}\r\n\r\n{"prompt": "q", "reference": "r"}\r\n')
    assert len(all_rows(jsonl.load(source=str(file)))) == 2


def test_the_metric_is_a_dotted_path_a_function_or_none(tmp_path):
    file = str(write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}]))
    named = jsonl.load(source=file, metric="dro_lab.data.metrics.exact_match")
    assert (named.metric, named.metric_name) == (exact_match, "exact_match")
    assert jsonl.load(source=file, metric=exact_match).metric is exact_match
    none = jsonl.load(source=file, metric=None)
    assert (none.metric, none.metric_name) == (None, "none")
    default = jsonl.load(source=file)
    assert default.metric_name == "reference_overlap"
    assert "not a judgement" in default.notes[0]


def test_sizes_cap_the_splits_and_say_so(tmp_path):
    rows = [{"prompt": f"p{n}", "reference": "r", "split": "train"} for n in range(9)]
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", rows)), sizes={"train": 4})
    assert len(task.splits["train"]) == 4
    assert "dataset.sizes.train=4 leaves out 5 of 9 rows" in task.notes
