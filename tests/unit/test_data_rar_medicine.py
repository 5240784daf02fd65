"""RaR-Medicine from small files in its schema (all rows invented), and how its rubric items become checks."""

import json
import math

import pytest

from dro_lab.data import rar_medicine
from dro_lab.data.rar_medicine_prompt import render_prompt
from dro_lab.data.rar_medicine_rubric import checks_of_items, items_problem, pitfall_expects, statement_of
from dro_lab.errors import UserError
from dro_lab.judges.exact import exact
from dro_lab.rubrics.checks import checks_of

ITEMS = [
    {"title": "Name the drug", "description": "Essential Criteria: Names drug A as first choice.", "weight": 5},
    {"title": "Give the dose", "description": "Important Criteria: States a dose of 5 mg.", "weight": 3},
    {"title": "Mention rest", "description": "Optional Criteria: Mentions rest.", "weight": 1},
    {"title": "Miss the allergy", "description": "Pitfall Criteria: Does not mention the allergy.", "weight": -2},
    {"title": "Surgery", "description": "Pitfall Criteria: Recommends surgery at once.", "weight": -1},
    {"title": "Confusion", "description": "Pitfall Criteria: Does not confuse drug A with drug B.", "weight": -1},
]


def row(number: int, **other) -> dict:
    made = {
        "question": f"Which drug helps patient {number}?",
        "reference_answer": f"Drug A helps patient {number}.",
        "question_source": "invented",
        "rubric": ITEMS,
        "rubric_list": [item["description"] for item in ITEMS],
        "rubric_count": len(ITEMS),
    }
    return {**made, **other}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def all_rows(task):
    return [each for part in task.splits.values() for each in part]


@pytest.mark.parametrize(
    "statement",
    [
        "Does not mention the allergy.",
        "Does not mention harmful interactions with alcohol.",
        "Doesn't discuss false positive results.",
        "The response does not state the dose.",
        "Does not recommend a specialist.",
        "Recommends surgery at once.",
        "Recommends avoiding water.",
        "Incorrectly states that drug B is first choice.",
        "Fails to mention the allergy.",
        "Overlooks the fever.",
        "Misidentifies the vessel.",
        "Omits the final answer.",
        "No mention of the allergy.",
    ],
)
def test_a_pitfall_that_names_the_fault_wants_no(statement):
    assert pitfall_expects(statement) == "no"


@pytest.mark.parametrize(
    "statement",
    [
        "Avoids recommending surgery.",
        "The answer avoids jargon.",
        "Refrains from giving a dose.",
        "Should not recommend surgery.",
        "The response must not name drug B.",
        "Does not confuse drug A with drug B.",
        "Does not misidentify the vessel.",
        "Does not incorrectly state that drug B is first choice.",
        "Does not include irrelevant anatomy.",
        "Doesn't recommend unnecessary imaging.",
        "Does not overlook the fever.",
        "Never advises stopping the drug.",
        "Correctly distinguishes drug A from drug B.",
    ],
)
def test_a_pitfall_that_names_the_avoidance_wants_yes(statement):
    assert pitfall_expects(statement) == "yes"


def test_the_category_is_taken_off_and_read():
    assert statement_of("Pitfall Criteria: Does not mention X.") == ("pitfall", "Does not mention X.")
    assert statement_of(" essential criterion:  Names X. ") == ("essential", "Names X.")
    assert statement_of("Names X.") == ("", "Names X.")


def test_items_become_checks_with_weight_and_polarity():
    checks, rest = checks_of_items(ITEMS)
    assert rest == []
    asked = "Is this true of the answer: "
    assert all(check.text.startswith(asked) for check in checks)
    assert [(check.text.removeprefix(asked), check.weight, check.expect) for check in checks] == [
        ("Names drug A as first choice.", 5.0, "yes"),
        ("States a dose of 5 mg.", 3.0, "yes"),
        ("Mentions rest.", 1.0, "yes"),
        ("Does not mention the allergy.", -2.0, "no"),
        ("Recommends surgery at once.", -1.0, "no"),
        ("Does not confuse drug A with drug B.", -1.0, "yes"),
    ]
    assert [check.id for check in checks] == [item["title"] for item in ITEMS]


def test_an_item_with_a_positive_weight_wants_yes_whatever_its_wording():
    (check,), _ = checks_of_items([{"title": "t", "description": "Important Criteria: Does not name B.", "weight": 3}])
    assert (check.expect, check.weight) == ("yes", 3.0)


def test_a_pitfall_with_a_positive_weight_is_still_a_pitfall():
    (check,), _ = checks_of_items([{"title": "t", "description": "Pitfall Criteria: Recommends B.", "weight": 2}])
    assert (check.expect, check.weight) == ("no", -2.0)


def test_the_ten_heaviest_items_gate_in_file_order_and_the_rest_scores():
    weights = [1, 2, 1, 5, 3, -2, 4, 3, -1, 5, 3, 2, -2]
    items = [{"title": f"t{n}", "description": f"Names {n}.", "weight": w} for n, w in enumerate(weights)]
    checks, rest = checks_of_items(items)
    # the three of weight 1 in absolute value do not gate
    assert [(check.id, check.weight) for check in rest] == [("t0", 1.0), ("t2", 1.0), ("t8", -1.0)]
    assert [check.id for check in checks] == [f"t{n}" for n in (1, 3, 4, 5, 6, 7, 9, 10, 11, 12)]


def test_of_equal_weights_the_earlier_stay_and_equal_titles_get_numbers():
    items = [{"title": "same", "description": f"Names {n}.", "weight": 3} for n in range(12)]
    checks, rest = checks_of_items(items)
    assert (len(rest), checks[-1].text) == (2, "Is this true of the answer: Names 9.")
    assert [check.id for check in checks[:2]] == ["same", "same (2)"]
    assert len({check.id for check in checks}) == 10


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ("Names X", "rubric is str, must be a list"),
        ([3], "rubric item 1 is int"),
        ([{"title": "t", "weight": 1}], "rubric item 1 has no description"),
        ([{"description": "Pitfall Criteria: ", "weight": -1}], "rubric item 1 has no description"),
        ([ITEMS[0], {"description": "x"}], "rubric item 2: weight=None"),
        ([{"description": "x", "weight": 0}], "weight=0, must be a number other than 0"),
        ([{"description": "x", "weight": True}], "weight=True"),
        ([{"description": "x", "weight": math.nan}], "weight=nan"),
    ],
)
def test_a_rubric_that_cannot_be_read_says_why(items, wanted):
    assert wanted in items_problem(items)


def test_a_file_gives_rows_with_prompt_reference_and_rubric(tmp_path):
    task = rar_medicine.load(source=str(write(tmp_path / "r.jsonl", [row(n) for n in range(40)])), system_prompt="S")
    first = next(each for each in all_rows(task) if each.columns["question"] == "Which drug helps patient 3?")
    assert first.prompt == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": render_prompt("Which drug helps patient 3?")},
    ]
    assert first.reference == "Drug A helps patient 3."
    assert [check.expect for check in checks_of(first.columns)] == ["yes", "yes", "yes", "no", "no", "yes"]
    assert first.columns["question_source"] == "invented"
    assert all(task.splits[split] for split in ("train", "validation", "test"))
    assert (task.metric, task.metric_name, task.rubric_score) == (None, "rubric_score", True)
    assert any("80 name the fault (a good answer gets no), 40 its avoidance" in note for note in task.notes)


def test_one_file_is_split_by_the_question_alone(tmp_path):
    rows = [row(n) for n in range(40)]
    one = rar_medicine.load(source=str(write(tmp_path / "a.jsonl", rows)))
    changed = [{**each, "reference_answer": "other", "rubric": None} for each in rows[::-1]]
    two = rar_medicine.load(source=str(write(tmp_path / "b.jsonl", changed)), seed=7)
    for split in ("train", "validation", "test"):
        assert {each.id for each in one.splits[split]} == {each.id for each in two.splits[split]}
    assert "40 rows carry no rubric: they are not gated, and their quality is unknown" in two.notes


def test_a_folder_keeps_the_splits_its_files_are_named_after(tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl", [row(n) for n in range(3)])
    write(tmp_path / "train-00001-of-00002.jsonl", [row(n) for n in range(3, 5)])
    write(tmp_path / "val.jsonl", [row(10)])
    write(tmp_path / "test.jsonl", [row(11), row(12)])
    task = rar_medicine.load(source=str(tmp_path))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 5, "validation": 1, "test": 2}


def test_the_hub_s_layout_is_read_with_its_own_splits(tmp_path):
    for part, rows in {"train": [row(1), row(2)], "val": [row(3)], "test": [row(4)]}.items():
        write(tmp_path / f"{part}.jsonl", rows)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {part}\n    path: {part}.jsonl\n" for part in ("train", "val", "test"))
        + "---\n"
    )
    task = rar_medicine.load(source="hub", repo=str(tmp_path))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert task.provenance.kind == "hub"
    assert len(checks_of(task.splits["train"][0].columns)) == len(ITEMS)


def test_rows_that_cannot_be_used_are_refused_and_counted(tmp_path):
    rows = [
        *(row(n) for n in range(3)),
        row(3, question=None),
        row(4, reference_answer="  "),
        row(5, rubric=[{"description": "x"}]),
        row(0),
        row(1, reference_answer="Drug B."),
    ]
    task = rar_medicine.load(source=str(write(tmp_path / "r.jsonl", rows)))
    assert len(all_rows(task)) == 3
    assert [(each.where, each.reason) for each in task.refused] == [
        ("r.jsonl line 4", "question is missing"),
        ("r.jsonl line 5", "reference_answer is empty"),
        ("r.jsonl line 6", "rubric item 1: weight=None, must be a number other than 0"),
        ("r.jsonl line 7", "repeats the question of r.jsonl line 1 with the same answer"),
        ("r.jsonl line 8", "repeats the question of r.jsonl line 2 with another answer"),
    ]


def test_a_question_in_two_splits_is_an_error_or_leaves_train(tmp_path):
    write(tmp_path / "train.jsonl", [row(1), row(2), row(3, question=row(9)["question"])])
    write(tmp_path / "test.jsonl", [row(9)])
    with pytest.raises(UserError, match=r"test\.jsonl line 1 \(test\) stands again at train\.jsonl line 3 \(train\)"):
        rar_medicine.load(source=str(tmp_path))
    task = rar_medicine.load(source=str(tmp_path), repeats="refuse")
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 2, "validation": 0, "test": 1}
    assert [(each.where, each.reason) for each in task.refused] == [
        ("train.jsonl line 3", "its question is in test too (test.jsonl line 1)")
    ]


def test_csv_cells_hold_the_rubric_as_json(tmp_path):
    import csv

    with (tmp_path / "r.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "reference_answer", "rubric"])
        writer.writeheader()
        writer.writerow({"question": "q", "reference_answer": "a", "rubric": json.dumps(ITEMS)})
        writer.writerow({"question": "q2", "reference_answer": "a", "rubric": ""})
    task = rar_medicine.load(source=str(tmp_path / "r.csv"))
    assert sorted(len(checks_of(each.columns)) for each in all_rows(task)) == [0, len(ITEMS)]


def test_what_does_not_gate_is_said_and_kept_for_the_score(tmp_path):
    items = [{"title": f"t{n}", "description": f"Names {n}.", "weight": 1 + n % 5} for n in range(13)]
    file = write(tmp_path / "r.jsonl", [row(1, rubric=items), row(2), row(3, rubric=items)])
    task = rar_medicine.load(source=str(file))
    assert any(note.startswith("6 checks of 2 rows count in the rubric score and do not gate") for note in task.notes)
    assert max(len(checks_of(each.columns)) for each in all_rows(task)) == 10
    assert sorted(len(each.columns["rubric_rest"]) for each in all_rows(task)) == [0, 3, 3]


@pytest.mark.parametrize(
    ("rows", "arguments", "wanted"),
    [
        ([{"prompt": "p"}], {}, "no schema of dataset=rar_medicine; keys found: prompt"),
        ([row(1, reference_answer=None)], {}, "no usable row is left of 1"),
        ([row(1)], {"repeats": "drop"}, "dataset.repeats=drop: must be one of error, refuse"),
        ([row(1)], {"shares": {"train": 2}}, "dataset.shares="),
        ([row(1)], {"system_prompt": 3}, "dataset.system_prompt=3"),
        ([row(1)], {"sizes": {"ood": 3}}, "dataset.sizes="),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, rows, arguments, wanted):
    with pytest.raises(UserError) as caught:
        rar_medicine.load(source=str(write(tmp_path / "r.jsonl", rows)), **arguments)
    assert wanted in str(caught.value)


def test_no_program_decides_the_checks_of_real_rows(tmp_path):
    from dro_lab.types import Need, Stat

    task = rar_medicine.load(source=str(write(tmp_path / "r.jsonl", [row(n) for n in range(20)])))
    with pytest.raises(UserError, match="no program that decides a rubric's checks"):
        exact(task, needs=[Need(Stat.VERDICTS)])
