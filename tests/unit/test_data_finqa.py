"""FinQA in each of its schemas, from small files."""

import json
import math

import pytest

from dro_lab.data import finqa
from dro_lab.data.sources import Record


def page(number: int, *, answer="34.7%", exe_ans=0.34719, question="what share?", **extra) -> dict:
    return {
        "id": f"X/2010/page_{number}.pdf-1",
        "filename": f"X/2010/page_{number}.pdf",
        "pre_text": ["before one .", f"before two {number} ."],
        "post_text": ["after ."],
        "table": [["", "2010"], ["sales", "$ 12"]],
        "qa": {"question": question, "answer": answer, "exe_ans": exe_ans, "program": "divide(1, 2)"},
        **extra,
    }


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


def test_the_prompt_is_text_table_text_question_and_the_reference_the_agreeing_answer(tmp_path):
    task = finqa.load(source=str(write(tmp_path / "f.json", [page(1)])), system_prompt="Compute.")
    (row,) = all_rows(task)
    assert row.prompt == [
        {"role": "system", "content": "Compute."},
        {
            "role": "user",
            "content": "before one . before two 1 .\n\n | 2010\nsales | $ 12\n\nafter .\n\nQuestion: what share?",
        },
    ]
    assert (row.id, row.reference, row.columns["exe_ans"]) == ("X/2010/page_1.pdf-1", "34.7%", 0.34719)
    assert task.metric("it is 0.35", row) == 1.0
    assert task.metric("it is 0.4", row) == 0.0


def test_a_contradicting_answer_gives_way_to_the_executed_program_and_is_counted(tmp_path):
    rows = [page(1), page(2, answer="-3.2%", exe_ans=-16.0), page(3, answer="no", exe_ans="no")]
    task = finqa.load(source=str(write(tmp_path / "f.json", rows)))
    assert {row.reference for row in all_rows(task)} == {"34.7%", "-16", "no"}
    assert any(note.startswith("1 references are exe_ans") for note in task.notes)
    assert all(task.metric(row.reference, row) == 1.0 for row in all_rows(task))


def test_a_folder_of_official_splits_keeps_them(tmp_path):
    write(tmp_path / "train.json", [page(1), page(2)])
    write(tmp_path / "dev.json", [page(3)])
    write(tmp_path / "test.json", [page(4)])
    write(tmp_path / "train_old.json", [page(9)])
    task = finqa.load(source=str(tmp_path))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert "files not read" in " ".join(task.notes)
    assert "train_old.json" in " ".join(task.notes)


def test_a_folder_of_files_whose_names_tell_the_split_is_read_too(tmp_path):
    write(tmp_path / "official_schema_train_100.json", [page(1)])
    write(tmp_path / "official_schema_dev_200.json", [page(2)])
    task = finqa.load(source=str(tmp_path))
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [1, 1, 0]
    assert "the source has no test rows" in task.notes


def test_a_single_file_is_split_by_report_page(tmp_path):
    rows = [page(n // 3, id=f"id{n}", question=f"question {n}?") for n in range(90)]
    task = finqa.load(source=str(write(tmp_path / "f.json", rows)))
    owners = [{row.columns["filename"] for row in part} for part in task.splits.values()]
    assert all(owners)
    assert sum(map(len, owners)) == 30


def test_packed_rows_are_read(tmp_path):
    packed = [
        {
            "idx": 0,
            "question": "q?",
            "context": "fact ;",
            "table": [["a", "b"]],
            "program": "add(1, 2)",
            "exe_ans": 3.0,
        },
        {"train_index": 8, "question": "q?", "context": "fact .", "answer": "96.55172"},
    ]
    rows = {row.id: row for row in all_rows(finqa.load(source=str(write(tmp_path / "f.json", packed))))}
    assert rows["0"].prompt[0]["content"] == "fact ;\n\na | b\n\nQuestion: q?"
    assert rows["0"].reference == "3"
    assert rows["8"].reference == "96.55172"
    assert rows["8"].columns["exe_ans"] == 96.55172


def test_the_hub_schema_takes_the_truth_from_the_answers_text(tmp_path):
    flat = {key: page(1)[key] for key in ("pre_text", "post_text", "table")}
    rows = [
        {**flat, "id": "a", "question": "one?", "answer": "34.7%"},
        {**flat, "id": "b", "question": "two?", "answers": "101 stores"},
    ]
    task = finqa.load(source=str(write(tmp_path / "f.json", rows)))
    found = {row.id: row for row in all_rows(task)}
    assert found["a"].columns["exe_ans"] == pytest.approx(0.347)
    assert task.metric("0.347", found["a"]) == 1.0
    assert math.isnan(task.metric("101", found["b"]))
    assert any(note.startswith("1 rows have an answer that is neither") for note in task.notes)


def test_malformed_rows_are_refused_with_their_reason(tmp_path):
    bad = [
        page(2, question=""),
        page(3, answer="", exe_ans=None),
        page(4, table="no table"),
        page(5, pre_text="one text"),
        page(6, post_text=[1]),
        page(7, qa="nothing"),
        page(1),
    ]
    task = finqa.load(source=str(write(tmp_path / "f.json", [page(1), *bad])))
    assert len(all_rows(task)) == 1
    assert [(r.where, r.reason) for r in task.refused] == [
        ("f.json row 2", "question is empty"),
        ("f.json row 3", "exe_ans=None and answer='': neither gives an answer"),
        ("f.json row 4", "table must be a list of rows of texts"),
        ("f.json row 5", "pre_text must be a list of texts"),
        ("f.json row 6", "post_text must be a list of texts"),
        ("f.json row 7", "qa is str, must be an object"),
        ("f.json row 8", "repeats f.json row 1 (same prompt and reference)"),
    ]


def test_the_same_question_under_two_ids_stays_two_rows(tmp_path):
    task = finqa.load(source=str(write(tmp_path / "f.json", [page(1), page(1, id="other")])))
    assert sorted(row.id for row in all_rows(task)) == ["X/2010/page_1.pdf-1", "other"]


def test_cutting_is_off_unless_configured_and_then_counted_and_refused_where_it_cannot_help(tmp_path):
    rows = [page(1, pre_text=["long " * 50, "near ."]), page(2, pre_text=["s ."], table=[["cell " * 100]])]
    file = str(write(tmp_path / "f.json", rows))
    assert not any("prompts were cut" in note for note in finqa.load(source=file).notes)
    task = finqa.load(source=file, max_prompt_chars=120)
    (row,) = all_rows(task)
    assert row.prompt[0]["content"] == "near .\n\n | 2010\nsales | $ 12\n\nafter .\n\nQuestion: what share?"
    assert any(note.startswith("1 prompts were cut to dataset.max_prompt_chars") for note in task.notes)
    assert [(r.where, r.reason) for r in task.refused] == [
        ("f.json row 2", "table and question alone make 522 characters > dataset.max_prompt_chars=120")
    ]


def test_a_hub_split_called_dev_is_the_validation_split(monkeypatch):
    parts = {split: [Record(f"{split} row 1", page(n))] for n, split in enumerate(("train", "dev"))}
    monkeypatch.setattr(finqa.hub, "read", lambda repo, **_: (parts, "f" * 40, None))
    task = finqa.load(source="hub", revision="main")
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 1, "validation": 1, "test": 0}
    assert str(task.provenance) == f"finqa (hub: dreamerdeo/finqa, {'f' * 40})"
