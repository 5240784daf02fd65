"""FinQA in each of its schemas, from small files."""

import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dro_lab.data import finqa, finqa_checks
from dro_lab.data.sources import Record
from dro_lab.errors import UserError
from dro_lab.gating import schema as schema_gate
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Row

CONF = Path(__file__).parents[2] / "conf"


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


# ------------------------------------------------------------------------------------------------ programs as answers


def test_answers_may_be_programs_and_rows_without_one_are_refused(tmp_path):
    bare = page(2)
    del bare["qa"]["program"]
    broken = page(3)
    broken["qa"]["program"] = "root(4, 2)"
    good = page(1, exe_ans=0.5)
    task = finqa.load(source=str(write(tmp_path / "f.json", [good, bare, broken])), answer_as="program")
    (row,) = all_rows(task)
    assert row.reference == "divide(1, 2)"
    assert [refused.reason for refused in task.refused] == [
        "no program (dataset.answer_as=program needs one in every row)",
        "program 'root(4, 2)': 'root(4, 2)' does not begin with an operation (add, subtract, multiply, divide, exp, "
        "greater, table_max, table_min, table_sum, table_average)",
    ]
    answers = ["divide(1, 2)", "divide(1.005, 2)", "divide(2, 1)", "divide(1, 0)", "0.5"]
    assert [task.metric(answer, row) for answer in answers] == [1, 1, 0, 0, 1]
    assert task.corpus_metric(answers, [row] * 5) == {"execution_accuracy": 0.2, "program_share": 0.8}
    assert [[task.check_program(answer, row, check) for check in checks_of(row.columns)] for answer in answers] == [
        [1, 1],
        [1, 1],
        [1, 1],
        [0, 1],
        [0, 0],
    ]
    assert schema_gate.verdicts("It is divide(1, 2).", row) == {"dro_lab.data.finqa_checks.is_a_program": 1}


def test_execution_accuracy_is_measured_where_an_answer_contains_a_program(tmp_path):
    task = finqa.load(source=str(write(tmp_path / "f.json", [page(1, exe_ans=0.5)])))
    (row,) = all_rows(task)
    assert task.corpus_metric(["so divide(1, 2)", "0.5"], [row, row])["execution_accuracy"] == 0.5
    assert math.isnan(task.corpus_metric(["0.5"], [row])["execution_accuracy"])
    hub_row = {**page(2), **page(2)["qa"]}
    del hub_row["qa"], hub_row["exe_ans"]
    (rounded,) = all_rows(finqa.load(source=str(write(tmp_path / "hub.json", [hub_row]))))
    assert not rounded.columns["executed"]
    assert math.isnan(task.corpus_metric(["divide(1, 2)"], [rounded])["execution_accuracy"])


def test_the_yaml_tells_real_rows_how_to_answer_and_the_twins_nothing(tmp_path):
    path = str(write(tmp_path / "f.json", [page(1)]))
    for answer_as in finqa.ANSWERS:
        (row,) = all_rows(finqa.load(source=path, system_prompt="auto", answer_as=answer_as))
        assert row.prompt[0] == {"role": "system", "content": finqa.SYSTEM_PROMPTS[answer_as]}
    twin = finqa.load(source="twin", system_prompt="auto", sizes={"train": 2, "validation": 1, "test": 1, "ood": 1})
    assert {message["role"] for row in all_rows(twin) for message in row.prompt} == {"user"}
    assert OmegaConf.load(CONF / "dataset/finqa.yaml").system_prompt == "auto"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"answer_as": "words"}, ["dataset.answer_as=words", "number, program"]),
        ({"answer_as": "program"}, ["dataset.answer_as=program", "the twin", "dataset.source=hub"]),
        ({"max_prompt_chars": 50}, ["dataset.max_prompt_chars=50", "leave it out"]),
        ({"max_prompt_chars": 0}, ["dataset.max_prompt_chars=0", "at least 1"]),
        ({"system_prompt": 3}, ["dataset.system_prompt=3", "text or null"]),
        ({"twin": {"preset": "hard"}}, ["dataset.twin.preset=hard", "default, numbers"]),
        ({"twin": {"error_rat": 0.1}}, ["dataset.twin.error_rat=0.1", "error_rate"]),
        ({"twin": {"steps_max": 20}}, ["dataset.twin.steps_max=20", "[1, 10]"]),
        ({"twin": {"error_rate": "much"}}, ["dataset.twin.error_rate=much", "a number"]),
        ({"twin": 7}, ["dataset.twin=7", "dataset.twin.preset=NAME"]),
        ({"sizes": {"ood": -1}}, ["dataset.sizes", "at least 0"]),
    ],
)
def test_bad_keys_are_one_clear_message(keys, words):
    with pytest.raises(UserError) as caught:
        finqa.load(source="twin", **keys)
    for word in words:
        assert word in str(caught.value)


def test_a_program_source_without_programs_says_so(tmp_path):
    file = write(tmp_path / "f.json", [{"question": "q?", "context": "c", "answer": "3"}])
    with pytest.raises(UserError, match=r"no usable row is left of 1.*no program \(dataset.answer_as=program"):
        finqa.load(source=str(file), answer_as="program")


def test_an_id_in_training_and_evaluation_is_an_error(tmp_path):
    write(tmp_path / "train.json", [page(1)])
    write(tmp_path / "dev.json", [page(1, question="another?")])
    with pytest.raises(UserError, match=r"the id 'X/2010/page_1.pdf-1' stands at split train and again at split valid"):
        finqa.load(source=str(tmp_path))


# ------------------------------------------------------------------------------------------------ checks on the form

FORM = [
    # answer, states a number, in percent, in millions, below zero, zero or above, yes or no, alone
    ("34.7%", 1, 1, 0, 0, 1, 0, 1),
    ("-3 percent.", 1, 1, 0, 1, 0, 0, 1),
    ("$ 2.33 million", 1, 0, 1, 0, 1, 0, 1),
    ("$1,234.5 millions", 1, 0, 1, 0, 1, 0, 1),
    ("(12.4)", 1, 0, 0, 1, 0, 0, 1),
    ("-4 million", 1, 0, 1, 1, 0, 0, 1),
    ("0", 1, 0, 0, 0, 1, 0, 1),
    ("The answer is 5%", 1, 1, 0, 0, 1, 0, 0),
    ("5% or 6%", 1, 1, 0, 0, 1, 0, 0),
    ("per cent", 0, 0, 0, 0, 0, 0, 0),
    ("Yes.", 0, 0, 0, 0, 0, 1, 1),
    ("yes and no", 0, 0, 0, 0, 0, 0, 0),
    ("no, it is not", 0, 0, 0, 0, 0, 1, 0),
    ("nothing", 0, 0, 0, 0, 0, 0, 0),
    ("", 0, 0, 0, 0, 0, 0, 0),
]
PREDICATES = [
    {"kind": "is_a_number"},
    {"kind": "has_unit", "unit": "%"},
    {"kind": "has_unit", "unit": "million"},
    {"kind": "has_sign", "sign": "-"},
    {"kind": "has_sign", "sign": "+"},
    {"kind": "is_yes_or_no"},
    {"kind": "stands_alone"},
]


@pytest.mark.parametrize(("answer", "verdicts"), [(answer, verdicts) for answer, *verdicts in FORM])
def test_checks_on_the_form_of_an_answer(answer, verdicts):
    row = Row(id="a", prompt=[], reference="x")
    checks = [Check(id=str(n), text="?", predicate=predicate) for n, predicate in enumerate(PREDICATES)]
    assert [finqa_checks.decide(answer, row, check) for check in checks] == verdicts
    assert finqa_checks.decide(answer, row, Check(id="x", text="?")) == -1
    assert finqa_checks.decide(answer, row, Check(id="x", text="?", predicate={"kind": "rhymes"})) == -1


def test_a_check_that_the_reference_fails_is_left_out_and_counted(tmp_path):
    rows = [
        page(1, question="what percent of sales?"),
        page(2, question="what percent of sales?", answer="", exe_ans=-0.5),
        page(3, question="is it more?", answer="yes", exe_ans="yes"),
        page(4, question="what was the total, in millions?", answer="12 million", exe_ans=12),
    ]
    task = finqa.load(source=str(write(tmp_path / "f.json", rows)))
    by_id = {row.id[-7]: row for row in all_rows(task)}
    assert {key: [check.id for check in checks_of(row.columns)] for key, row in by_id.items()} == {
        "1": ["number", "unit", "sign", "alone"],
        "2": ["number", "sign", "alone"],
        "3": ["yes_or_no", "alone"],
        "4": ["number", "unit", "sign", "alone"],
    }
    assert [by_id[key].columns["sign"] for key in "1234"] == ["+", "-", "", "+"]
    assert by_id["2"].columns["predicates"] == ["is_a_number", "has_sign", "stands_alone"]
    assert "1 checks of the rows' rubrics were left out, since the row's own reference fails them" in task.notes
    for row in all_rows(task):
        assert all(task.check_program(row.reference, row, check) == 1 for check in checks_of(row.columns))
        assert set(schema_gate.verdicts(row.reference, row).values()) == {1}


@pytest.mark.parametrize(
    ("question", "unit"),
    [
        ("what is the percentage change?", "%"),
        ("what percent is that?", "%"),
        ("what was the growth , in % ?", "%"),
        ("what was the total in millions?", "million"),
        ("what was the total ( in billions ) ?", "billion"),
        ("in thousands , what is the sum?", "thousand"),
        ("what portion of sales is that?", ""),
        ("how many millionaires invest in it?", ""),
    ],
)
def test_the_unit_that_a_question_asks_for(question, unit):
    assert finqa_checks.asked_unit(question) == unit
