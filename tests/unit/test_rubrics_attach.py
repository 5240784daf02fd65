"""Rubric files: what they hold, how they reach the rows, how they are corrupted, and what is refused."""

import json
from dataclasses import replace

import pytest

from dro_lab.errors import UserError
from dro_lab.gating.rubric import check, prepare
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.rubrics.corrupt import corrupt, irrelevant
from dro_lab.rubrics.file import Entry, Header, content_key, read
from dro_lab.types import MAX_CHECKS, Check, Provenance, Row, Task

HEADER = Header(dataset="mine", judge="openai", model="m", template="t1", command="the command")


def row_of(number: int, *, checks: int = 2) -> Row:
    rubric = as_column([Check(id=f"c{v}", text=f"Does it say {number}.{v}?") for v in range(checks)])
    prompt = [{"role": "user", "content": f"question {number}"}]
    return Row(id=f"r{number}", prompt=prompt, reference=f"answer {number}", columns={"rubric": rubric})


def bare(number: int) -> Row:
    return replace(row_of(number), columns={})


def task_of(train, **fields) -> Task:
    splits = {"train": train, **fields.pop("splits", {})}
    where = Provenance(dataset="mine", kind="file", location="mine.jsonl")
    return Task(name="mine", provenance=where, splits=splits, metric=None, metric_name="none", **fields)


def file_of(path, rows, *, header=HEADER, text="Is it right?"):
    entries = [
        Entry(key=content_key(row, header.template), id=row.id, checks=[Check(id="c", text=text)]) for row in rows
    ]
    head = {name: getattr(header, name) for name in header.__slots__}
    path.write_text("\n".join([json.dumps(head), *(entry.line() for entry in entries)]) + "\n", encoding="utf-8")
    return str(path)


def texts(task, split="train"):
    return [[check.text for check in checks_of(row.columns)] for row in task.splits[split]]


def test_rows_bring_their_rubrics_and_bare_rows_are_counted():
    task = prepare(task_of([row_of(1), bare(2), row_of(3, checks=0)]))
    assert task.notes == ("gating=rubric: 2 of 3 training rows have no rubric: not gated",)


def test_a_files_rubrics_reach_their_rows_by_content(tmp_path):
    path = file_of(tmp_path / "f.jsonl", [bare(1)])
    task = prepare(task_of([replace(row_of(1), id="renamed"), row_of(2)]), rubrics={"file": path})
    assert texts(task) == [["Is it right?"], []]
    assert task.notes == ("gating=rubric: 1 of 2 training rows have no rubric: not gated",)


def test_held_out_rows_keep_the_rubric_that_is_their_metric(tmp_path):
    path = file_of(tmp_path / "f.jsonl", [bare(1), bare(2)])
    splits = {"validation": [row_of(2), row_of(3)]}
    gated = prepare(task_of([row_of(1)], splits=splits), rubrics={"file": path})
    assert texts(gated, "validation") == [["Is it right?"], ["Does it say 3.0?", "Does it say 3.1?"]]
    scored = prepare(task_of([row_of(1)], splits=splits, rubric_score=True), rubrics={"file": path})
    assert texts(scored, "validation")[0] == ["Does it say 2.0?", "Does it say 2.1?"]


def test_content_decides_the_key():
    row = bare(1)
    keys = {
        content_key(row, "t1"),
        content_key(row, "t2"),
        content_key(replace(row, reference="other"), "t1"),
        content_key(replace(row, prompt=[{"role": "user", "content": "other"}]), "t1"),
    }
    assert len(keys) == 4
    assert content_key(replace(row, id="other", columns={"x": 1}), "t1") == content_key(row, "t1")


def line(**fields) -> str:
    return json.dumps(fields)


GOOD_HEADER = line(rubrics=1, dataset="mine", judge="openai", model="m", template="t1", command="the command")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["is empty", "python -m dro_lab.rubrics"]),
        (["{"], ["line 1", "is not JSON"]),
        ([line(key="k", checks=[])], ["no header of a rubric file"]),
        (["[1]"], ["line 1", "is a list"]),
        ([GOOD_HEADER.replace('"rubrics": 1', '"rubrics": 9')], ["rubrics=9", "reads 1"]),
        ([GOOD_HEADER, '{"key": "k", "che'], ["line 2", "is not JSON"]),
        ([GOOD_HEADER, line(checks=[])], ["line 2", "no `key`"]),
        ([GOOD_HEADER, line(key="k", checks=[{"id": "a"}])], ["line 2", "check 1", "no `text`"]),
        ([GOOD_HEADER, line(key="k", checks=["ok?"] * 11)], ["line 2", "11 checks", "at most 10"]),
        ([GOOD_HEADER, line(key="k", checks=[{"text": "ok?", "expect": "maybe"}])], ["expect='maybe'"]),
        ([GOOD_HEADER, *[line(key="k", id="r1", checks=[])] * 2], ["line 3", "r1 has a rubric already"]),
        ([GOOD_HEADER.replace("mine", "theirs")], ["rubrics of the data set theirs", "this run's is mine"]),
        ([GOOD_HEADER, line(key="k", checks=["ok?"])], ["none of its 1 rubrics fits", "the command"]),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, lines, words):
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as error:
        prepare(task_of([bare(1)]), rubrics={"file": str(path)})
    assert all(word in str(error.value) for word in [*words, f"gating.rubrics.file={path}"]), str(error.value)


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0c", "\ud800"])
def test_what_is_written_of_a_reply_is_read_again_whatever_it_holds(tmp_path, char):
    """Also what Python, but not JSON, takes for the end of a line, and what UTF-8 cannot hold."""
    said = f"Is it{char}right?"
    head = json.dumps({name: getattr(HEADER, name) for name in HEADER.__slots__})
    entry = Entry(
        key="k",
        id=f"r{char}1",
        checks=[Check(id="c", text=said)],
        dropped=[{"check": {"text": said}, "reason": "is no question"}],
        reply=said,
    )
    (tmp_path / "f.jsonl").write_text(f"{head}\n{entry.line()}\n", encoding="utf-8")
    (found,) = read(tmp_path / "f.jsonl").entries.values()
    assert (found.id, found.checks[0].text, found.reply) == (f"r{char}1", said, said)
    assert found.dropped[0]["check"]["text"] == said


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "absent.jsonl")


def test_a_file_without_any_check_is_refused(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text(GOOD_HEADER + "\n" + line(key=content_key(bare(1), "t1"), checks=[]), encoding="utf-8")
    with pytest.raises(UserError, match="has no check for any of the 1 training rows"):
        prepare(task_of([bare(1)]), rubrics={"file": str(path)})


def test_rows_without_any_rubric_are_refused():
    with pytest.raises(UserError) as error:
        prepare(task_of([bare(1), bare(2)]))
    assert "there is no rubric in any of the 2 training rows" in str(error.value)
    assert "gating.rubrics.file=FILE" in str(error.value)


def test_a_row_whose_rubric_is_none_is_named():
    broken = replace(row_of(7), columns={"rubric": "Is it right?"})
    with pytest.raises(UserError, match="train row r7: `rubric` is a str"):
        prepare(task_of([row_of(1), broken]))


@pytest.mark.parametrize(
    ("rubrics", "words"),
    [
        ({"corrupt": "mix"}, "gating.rubrics.corrupt=mix: must be one of none, shuffle, negate, irrelevant"),
        ({"share": 0}, "gating.rubrics.share=0: must be a share above 0"),
        ({"share": 1.1}, "gating.rubrics.share=1.1"),
        ({"seed": -1}, "gating.rubrics.seed=-1"),
        ({"path": "x"}, "gating.rubrics.path: unknown key; allowed are file, corrupt, share, seed"),
        ("x.jsonl", "gating.rubrics=x.jsonl: must hold keys"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rubrics, words):
    with pytest.raises(UserError) as error:
        check(rubrics=rubrics)
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------------ corruption

ROWS = [row_of(number) for number in range(10)]


def said(rows):
    return [tuple(check.text for check in checks_of(row.columns)) for row in rows]


def test_shuffle_gives_other_rows_rubrics_and_keeps_them_all():
    rows, count = corrupt(ROWS, "shuffle", share=1.0, seed=0)
    assert count == 10
    assert sorted(said(rows)) == sorted(said(ROWS))
    assert all(a != b for a, b in zip(said(rows), said(ROWS), strict=True))


def test_shuffling_one_row_takes_the_rubric_of_another():
    rows, count = corrupt(ROWS, "shuffle", share=0.1, seed=0)
    assert count == 1
    changed = [(a, b) for a, b in zip(said(rows), said(ROWS), strict=True) if a != b]
    assert len(changed) == 1
    assert changed[0][0] in said(ROWS)


def test_negate_turns_the_expected_answer():
    rows, _ = corrupt(ROWS, "negate", share=1.0, seed=0)
    assert {check.expect for row in rows for check in checks_of(row.columns)} == {"no"}
    twice, _ = corrupt(rows, "negate", share=1.0, seed=0)
    assert [row.columns for row in twice] == [row.columns for row in ROWS]


def test_irrelevant_checks_are_as_many_and_ask_about_something_else():
    rows, _ = corrupt(ROWS, "irrelevant", share=1.0, seed=0)
    assert all(len(checks_of(row.columns)) == 2 for row in rows)
    assert not set(said(rows)) & set(said(ROWS))
    assert len({check.text for check in irrelevant(MAX_CHECKS)}) == MAX_CHECKS


def test_a_share_is_corrupted_and_the_seed_chooses():
    def changed(seed, share=0.3):
        rows, count = corrupt(ROWS, "irrelevant", share=share, seed=seed)
        places = [place for place, (a, b) in enumerate(zip(rows, ROWS, strict=True)) if a is not b]
        assert len(places) == count
        return places

    assert len(changed(0)) == 3
    assert changed(0) == changed(0)
    assert any(changed(seed) != changed(0) for seed in range(1, 5))
    assert len(changed(0, share=0.001)) == 1


def test_rows_without_a_rubric_are_not_corrupted():
    rows, count = corrupt([bare(1), row_of(2), row_of(3)], "irrelevant", share=1.0, seed=0)
    assert count == 2
    assert rows[0].columns == {}


def test_corruption_touches_training_rows_only_and_is_noted():
    task = prepare(task_of(ROWS, splits={"test": ROWS}), rubrics={"corrupt": "negate", "share": 0.5, "seed": 3})
    assert task.notes == (
        "gating.rubrics.corrupt=negate: the rubrics of 5 of 10 training rows are wrong on purpose (share 0.5, seed 3)",
    )
    assert list(task.splits["test"]) == ROWS
