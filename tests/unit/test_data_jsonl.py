"""A user's own rows."""

import csv
import json
from functools import partial

import pytest

from dro_lab.data import jsonl
from dro_lab.data.metrics import exact_match
from dro_lab.errors import UserError
from dro_lab.judges.exact import exact
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Question
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Need, Row, Stat


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


def test_texts_and_message_lists_become_prompts_and_other_columns_are_kept(tmp_path):
    chat = [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]
    rows = [
        {"prompt": "p1", "reference": "r1", "id": 7, "rubric": ["a"], "rank": 3},
        {"prompt": chat, "reference": "r2", "id": "x"},
    ]
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", rows)), system_prompt="S")
    found = {row.id: row for row in all_rows(task)}
    assert found["7"].prompt == [{"role": "system", "content": "S"}, {"role": "user", "content": "p1"}]
    assert [check.text for check in checks_of(found["7"].columns)] == ["a"]
    assert found["7"].columns["rank"] == 3
    assert found["x"].columns == {}
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


# ------------------------------------------------------------------------------------------------ rubrics

RUBRIC = ["Names A?", {"id": "b", "text": "Names B?", "weight": -2, "expect": "no", "predicate": {"kind": "has"}}]
CHECKS = (
    Check(id="check-1", text="Names A?"),
    Check(id="b", text="Names B?", weight=-2.0, expect="no", predicate={"kind": "has"}),
)


def has(answer, row, check, *, word=None):
    """A user's program: does the answer hold the word?"""
    if check.predicate is None:
        return None
    return (word or row.columns["word"]) in answer


def scaled(answer, row, *, scale):
    return scale * len(answer)


class Longer:
    """A metric that is made once and called often."""

    def __init__(self, least):
        self.least = least

    def __call__(self, answer, row):
        return float(len(answer) >= self.least)


def test_a_rubric_holds_texts_or_objects_whatever_the_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": "p", "reference": "r", "rubric": RUBRIC}, {"prompt": "q", "reference": "r", "rubric": None}]
    sources = [write(tmp_path / "d.jsonl", rows), tmp_path / "d.csv", tmp_path / "d.parquet"]
    with sources[1].open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "reference", "rubric"])
        writer.writeheader()
        writer.writerow({**rows[0], "rubric": json.dumps(RUBRIC)})
        writer.writerow({**rows[1], "rubric": ""})
    table = [{**rows[0], "rubric": [{"id": None, "text": "Names A?", "weight": None}, {"id": "b", "text": "Names B?"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), sources[2])
    for source in sources[:2]:
        found = {row.prompt[0]["content"]: checks_of(row.columns) for row in all_rows(jsonl.load(source=str(source)))}
        assert found == {"p": CHECKS, "q": ()}
    (row,) = all_rows(jsonl.load(source=str(sources[2])))
    assert checks_of(row.columns) == (Check(id="check-1", text="Names A?"), Check(id="b", text="Names B?"))


@pytest.mark.parametrize(
    ("rubric", "wanted"),
    [
        (3, "`rubric` is a int, must be a list"),
        ("Names A?", "is a text that is no JSON"),
        ([{"weight": 1}], "check 1 of `rubric` has no `text`"),
        (["a", {"text": "b", "points": 2}], "check 2 of `rubric` has the unknown key 'points'"),
        ([{"text": "a", "expect": "maybe"}], "expect='maybe', must be yes or no"),
        ([{"text": "a", "weight": "high"}], "weight='high', must be a number"),
        ([{"text": "a", "id": "x"}, {"text": "b", "id": "x"}], "two checks with the id 'x'"),
        (["a"] * 11, "has 11 checks, at most 10"),
    ],
)
def test_a_rubric_that_is_none_is_an_error_with_file_and_line(tmp_path, rubric, wanted):
    file = write(
        tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}, {"prompt": "q", "reference": "r", "rubric": rubric}]
    )
    with pytest.raises(UserError) as caught:
        jsonl.load(source=str(file))
    assert wanted in str(caught.value)
    assert f"{file} (d.jsonl line 2)" in str(caught.value)


def test_a_program_of_the_user_s_decides_the_checks_for_the_exact_judge(tmp_path):
    rows = [{"prompt": "p", "reference": "r", "rubric": RUBRIC, "word": "B"}]
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", rows)), check_program=f"{__name__}.has")
    judge = exact(task, needs=[Need(Stat.VERDICTS)])
    (row,) = all_rows(task)
    asked = [Question(row=row, answer=answer, check=check) for answer in ("A B", "A") for check in CHECKS]
    assert judge.verdicts(asked) == [UNKNOWN, YES, UNKNOWN, NO]


def test_a_program_that_answers_otherwise_is_named():
    decide = jsonl.verdicts_of(lambda answer, row, check: "yes", "mine")
    with pytest.raises(UserError, match=r"dataset\.check_program=mine: gave 'yes' for row r, check 'b'"):
        decide("a", Row(id="r", prompt=[], reference=""), CHECKS[1])


def test_without_a_program_gates_are_refused_and_without_a_metric_the_verifier(tmp_path):
    task = jsonl.load(source=str(write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}])), metric=None)
    with pytest.raises(UserError, match="no program that decides"):
        exact(task, needs=[Need(Stat.VERDICTS)])
    with pytest.raises(UserError, match="no metric, so its answers cannot be verified"):
        exact(task, needs=[Need(Stat.VERIFIER)])


def test_a_bound_function_has_its_name(tmp_path):
    file = str(write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}]))
    task = jsonl.load(source=file, metric=partial(scaled, scale=0.25))
    assert task.metric_name == "scaled"
    assert task.metric("ab", all_rows(task)[0]) == 0.5


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"metric": "dro_lab.nothing.x"}, "dataset.metric='dro_lab.nothing.x': not a function that can be imported"),
        ({"metric": "dro_lab.data.metrics.TOLERANCE"}, "it is a float"),
        (
            {"metric": "dro_lab.data.metrics.final_number"},
            "final_number takes (text), but is called with (answer, row)",
        ),
        ({"check_program": "dro_lab.data.metrics.exact_match"}, "is called with (answer, row, check)"),
        ({"check_program": "no.such"}, "dataset.check_program='no.such': not a function"),
        ({"source": "twin"}, "neither a twin nor a copy on the hub: it needs its path"),
        ({"source": None}, "it needs its path"),
    ],
)
def test_wrong_keys_are_one_clear_error(tmp_path, keys, wanted):
    file = str(write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}]))
    with pytest.raises(UserError) as caught:
        jsonl.load(**{"source": file, **keys})
    assert wanted in str(caught.value)
    assert "dataset.source=twin" not in str(caught.value)  # a scale may have set it: the user did not write it


# ------------------------------------------------------------------------------------------------ files by split


def test_a_folder_s_files_may_name_the_splits(tmp_path):
    for name, count in {"train.jsonl": 5, "dev.jsonl": 2, "test.jsonl": 1}.items():
        write(tmp_path / name, [{"prompt": f"{name} {n}", "reference": "r"} for n in range(count)])
    task = jsonl.load(source=str(tmp_path))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 5, "validation": 2, "test": 1}
    assert "splits as named: validation = dev.jsonl, test = test.jsonl, train = train.jsonl" in task.notes


def test_the_rows_own_split_goes_before_the_files_names(tmp_path):
    write(tmp_path / "train.jsonl", [{"prompt": "a", "reference": "r", "split": "test"}])
    write(tmp_path / "test.jsonl", [{"prompt": "b", "reference": "r", "split": "train"}])
    task = jsonl.load(source=str(tmp_path))
    assert [row.prompt[0]["content"] for row in task.splits["train"]] == ["b"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"id": 1}, r"test\.jsonl line 1 \(split test\) and again at train\.jsonl line 1"),
        ({}, r"train\.jsonl line 1 \(split train\) repeats the row at test\.jsonl line 1 \(split test\)"),
    ],
)
def test_a_row_in_train_and_in_evaluation_is_an_error(tmp_path, ids, said):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / name, [{"prompt": "p", "reference": "r", **ids}])
    with pytest.raises(UserError, match=said):
        jsonl.load(source=str(tmp_path))


def test_pairs_of_one_paragraph_cannot_stand_on_both_sides_in_pararev(tmp_path):
    from dro_lab.data import pararev

    pair = {"id_paragraph": "a.b.0", "id_source": "a", "parag_1": "x", "parag_2": "y", "instruction": "i"}
    write(tmp_path / "train.jsonl", [pair])
    write(tmp_path / "test.jsonl", [{**pair, "parag_2": "z"}])
    with pytest.raises(UserError, match=r"the id 'a\.b\.0' stands at test\.jsonl line 1 and again at train\.jsonl"):
        pararev.load(source=str(tmp_path))


def test_no_loader_finishes_with_an_id_in_two_splits():
    from dro_lab.data.rows import check_disjoint

    row = Row(id="x", prompt=[], reference="r")
    with pytest.raises(UserError, match=r"dataset\.source=S: the id 'x' stands in train and in test"):
        check_disjoint({"train": [row], "validation": [], "test": [row]}, source="S")


# ------------------------------------------------------------------------------------------------ from the command line


def composed(overrides):
    from dro_lab.build import load_task
    from dro_lab.data.__main__ import compose

    return load_task(compose(["dataset=jsonl", *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        [f"dataset.metric._target_={__name__}.scaled", "dataset.metric.scale=0.5"],
        [f"dataset.metric={{_target_: {__name__}.scaled, scale: 0.5}}"],
    ],
)
def test_keys_of_the_metric_are_bound(tmp_path, overrides):
    file = write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}])
    task = composed([f"dataset.source={file}", *overrides])
    assert (task.metric("abc", all_rows(task)[0]), task.metric_name) == (1.5, "scaled")


def test_the_other_ways_to_name_functions(tmp_path):
    rows = [{"prompt": "p", "reference": "r", "rubric": RUBRIC, "word": "B"}]
    source = f"dataset.source={write(tmp_path / 'd.jsonl', rows)}"
    default = composed([source])
    assert (default.metric_name, default.check_program) == ("reference_overlap", None)
    assert composed([source, "dataset.metric=null"]).metric is None
    assert composed([source, "dataset.metric=dro_lab.data.metrics.exact_match"]).metric is exact_match
    made = composed([source, f"dataset.metric={{_target_: {__name__}.Longer, least: 2}}"])
    assert (made.metric("abc", all_rows(made)[0]), made.metric_name) == (1.0, "Longer")
    for chosen in (
        [f"dataset.check_program={__name__}.has"],
        [f"dataset.check_program._target_={__name__}.has", "dataset.check_program.word=B"],
        [f"dataset.check_program={{_target_: {__name__}.has, word: B}}"],
    ):
        task = composed([source, *chosen])
        assert task.check_program("A B", all_rows(task)[0], CHECKS[1]) == YES


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["dataset.metric._target_=no.such"], "dataset.metric._target_=no.such: cannot be imported"),
        ([f"dataset.metric._target_={__name__}.scaled"], "dataset.metric.scale: is required by scaled"),
        (
            [f"dataset.metric={{_target_: {__name__}.scaled, scal: 1}}"],
            "dataset.metric.scal: unknown key; scaled takes scale",
        ),
        (["dataset.metric._target_=dro_lab.data.metrics.final_number"], "final_number takes (text)"),
        (["dataset.check_program._target_=dro_lab.data.metrics.exact_match"], "(answer, row, check)"),
        (
            [f"dataset.metric={{_target_: {__name__}.Longer, most: 2}}"],
            "dataset.metric.most: unknown key; Longer takes least",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_one_clear_error(tmp_path, overrides, wanted):
    file = write(tmp_path / "d.jsonl", [{"prompt": "p", "reference": "r"}])
    with pytest.raises(UserError) as caught:
        composed([f"dataset.source={file}", *overrides])
    assert wanted in str(caught.value)


def test_without_a_source_the_message_does_not_speak_of_a_key_that_nobody_wrote():
    with pytest.raises(UserError) as caught:
        composed(["scale=laptop"])
    assert "dataset=jsonl reads your own file" in str(caught.value)
    assert "dataset.source=PATH" in str(caught.value)
    assert "twin:" not in str(caught.value)
    assert "=twin" not in str(caught.value)
