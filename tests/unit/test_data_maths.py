"""The mathematics data sets in each of their schemas, from small files and folders in the hub's layout."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dro_lab.data import maths, maths_records
from dro_lab.data.sources import Record
from dro_lab.data.twins.knobs import dataset_name
from dro_lab.errors import UserError

CONF = Path(__file__).parents[2] / "conf/dataset"
NAMES = ("gsm8k", "math", "aime24", "aime25", "deepscaler")


def gsm(number: int, *, answer: str | None = None) -> dict:
    return {"question": f"What is {number} + 1?", "answer": answer or f"{number}+1=<<{number}+1>>.\n#### {number + 1}"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


def load(path, **keys):
    return maths.load(name="gsm8k", source=str(path), **keys)


# ------------------------------------------------------------------------------------------------ schemas


def test_gsm8k_rows_take_the_number_behind_the_hashes(tmp_path):
    task = load(write(tmp_path / "train.jsonl", [gsm(1), gsm(5000, answer="x\n#### $5,001")]))
    rows = sorted(all_rows(task), key=lambda row: len(row.reference))
    assert [row.reference for row in rows] == ["\\boxed{2}", "\\boxed{5001}"]
    assert rows[0].prompt == [
        {
            "role": "system",
            "content": "Solve the problem. Reason step by step, then give the final answer in the form "
            "\\boxed{ANSWER}.",
        },
        {"role": "user", "content": "What is 1 + 1?"},
    ]
    assert rows[0].columns == {"question": "What is 1 + 1?", "answer": "2", "solution": gsm(1)["answer"]}
    assert (task.name, task.metric_name, task.provenance.kind) == ("gsm8k", "accuracy", "file")
    assert task.metric("it is \\boxed{2}", rows[0]) == 1.0
    assert task.corpus_metric(["2", "who could know that for sure"], rows) == {"unparsable_share": 0.5}


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"answer": "\\frac{1}{2}"}, "\\frac{1}{2}"),
        ({"answer": " 204 "}, "204"),
        ({"answer": 204}, "204"),
        ({"answer": 204.0}, "204"),
        ({"answer": 0.5}, "0.5"),
        ({"answer": "so \\boxed{7}"}, "7"),
        ({"solution": "first \\boxed{1}, at last $\\boxed{\\frac{1}{\\sqrt{2}}}$."}, "\\frac{1}{\\sqrt{2}}"),
        ({"answer": None, "solution": "\\boxed{3}"}, "3"),
        ({"answer": "4", "solution": "\\boxed{3}"}, "4"),
    ],
)
def test_problems_take_their_answer_or_the_last_box_of_their_solution(tmp_path, fields, answer):
    task = load(write(tmp_path / "test.jsonl", [{"problem": "p", **fields}]))
    (row,) = all_rows(task)
    assert row.columns["answer"] == answer
    assert row.reference == f"\\boxed{{{answer}}}"


def test_columns_may_be_capitalised(tmp_path):
    """As in a published copy of AIME 2024."""
    row = {"ID": "2024-I-4", "Problem": "How many?", "Solution": "It is \\boxed{204}.", "Answer": 204}
    (loaded,) = all_rows(load(write(tmp_path / "test.jsonl", [row])))
    assert (loaded.id, loaded.reference, loaded.columns["answer"]) == ("2024-I-4", "\\boxed{204}", "204")


def test_level_subject_and_id_are_kept_where_they_are_there(tmp_path):
    rows = [
        {"problem": "a", "answer": "1", "level": 5, "subject": "Algebra", "unique_id": "test/1.json"},
        {"problem": "b", "solution": "\\boxed{2}", "level": "Level 3", "type": "Geometry", "id": 60},
        {"problem": "c", "answer": "3", "level": "Level ?"},
    ]
    found = all_rows(load(write(tmp_path / "test.jsonl", rows)))
    assert [row.columns.get("level") for row in found] == [5, 3, "Level ?"]
    assert [row.columns.get("subject") for row in found] == ["Algebra", "Geometry", None]
    assert [row.id for row in found[:2]] == ["test/1.json", "60"]
    assert len(found[2].id) == 16


def test_a_parquet_file_and_a_list_of_rows_are_read(tmp_path):
    import pandas

    pandas.DataFrame([gsm(n) for n in range(3)]).to_parquet(tmp_path / "test.parquet")
    (tmp_path / "train.json").write_text(json.dumps([gsm(n) for n in range(10, 30)]))
    task = load(tmp_path, validation_share=0)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 20, "validation": 0, "test": 3}


# ------------------------------------------------------------------------------------------------ templates and prompts


@pytest.mark.parametrize(
    ("name", "reference", "told", "answer"),
    [
        ("boxed", "\\boxed{2}", "in the form \\boxed{ANSWER}.", "\\boxed{2}"),
        ("hash", "#### 2", "in the form #### ANSWER.", "#### 2"),
        ("plain", "2", "then give the final answer alone.", "2"),
        ("I say: ANS!", "I say: 2!", "in the form I say: ANSWER!.", "5 or 6? I say: 2! Not 7."),
    ],
)
def test_the_reference_stands_in_the_template_and_the_policy_is_told_it(tmp_path, name, reference, told, answer):
    task = load(write(tmp_path / "train.jsonl", [gsm(1)]), answer_template=name)
    (row,) = all_rows(task)
    assert row.reference == reference
    assert row.prompt[0]["content"].endswith(told)
    assert task.metric(row.reference, row) == 1.0
    assert task.metric(answer, row) == 1.0
    assert task.corpus_metric([row.reference], [row]) == {"unparsable_share": 0.0}


def test_the_system_prompt_is_the_users_or_none(tmp_path):
    file = write(tmp_path / "train.jsonl", [gsm(1)])
    assert all_rows(load(file, system_prompt="Add."))[0].prompt[0] == {"role": "system", "content": "Add."}
    assert [message["role"] for message in all_rows(load(file, system_prompt=None))[0].prompt] == ["user"]


# ------------------------------------------------------------------------------------------------ splits


def test_validation_is_cut_from_train_by_the_problem_alone(tmp_path):
    rows = [gsm(n) for n in range(400)]
    first = load(write(tmp_path / "train.jsonl", rows), validation_share=0.1)
    again = load(write(tmp_path / "train.jsonl", rows[::-1]), validation_share=0.1, seed=5)
    assert {row.id for row in first.splits["validation"]} == {row.id for row in again.splits["validation"]}
    assert 20 <= len(first.splits["validation"]) <= 60
    ids = [row.id for row in all_rows(first)]
    assert len(set(ids)) == len(ids) == 400
    assert first.splits["test"] == []
    assert "the source has no test rows" in first.notes


def test_a_validation_split_of_the_source_is_kept(tmp_path):
    write(tmp_path / "train.jsonl", [gsm(n) for n in range(50)])
    write(tmp_path / "dev.jsonl", [gsm(n) for n in range(50, 53)])
    write(tmp_path / "test.jsonl", [gsm(n) for n in range(60, 64)])
    task = load(tmp_path)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 50, "validation": 3, "test": 4}


def test_a_file_whose_name_tells_no_split_is_cut_in_three(tmp_path):
    task = load(write(tmp_path / "rows.jsonl", [gsm(n) for n in range(200)]))
    assert all(task.splits[split] for split in ("train", "validation", "test"))
    assert sum(map(len, task.splits.values())) == 200


def test_a_training_problem_that_is_tested_too_leaves_training_and_is_counted(tmp_path):
    write(tmp_path / "train.jsonl", [gsm(1), gsm(2), {"question": "What  is 3 + 1?\n", "answer": "#### 4"}])
    write(tmp_path / "test.jsonl", [gsm(3)])
    task = load(tmp_path, validation_share=0)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 2, "validation": 0, "test": 1}
    assert [(row.where, row.reason) for row in task.refused] == [
        ("train.jsonl line 3", "its problem is in test too (test.jsonl line 1)")
    ]


def test_a_repeated_problem_counts_once(tmp_path):
    rows = [gsm(1), gsm(1), gsm(1, answer="#### 3")]
    task = load(write(tmp_path / "train.jsonl", rows))
    assert len(all_rows(task)) == 1
    assert [row.reason for row in task.refused] == [
        "repeats the problem of train.jsonl line 1 with the same answer",
        "repeats the problem of train.jsonl line 1 with another answer",
    ]


# ------------------------------------------------------------------------------------------------ the hub


def test_each_split_comes_from_its_own_repository_configuration_and_split(monkeypatch):
    asked = []

    def read(repo, *, revision, files, config, key):
        asked.append((repo, revision, config, key))
        rows = [Record(f"{split} row 1", gsm(len(asked) * 10 + n)) for n, split in enumerate(("train", "test"))]
        return {"train": rows[:1], "test": rows[1:]}, f"commit of {repo}", None

    monkeypatch.setattr(maths_records.hub, "read", read)
    hub = {
        "train": {"repo": "a/math", "revision": "main", "config": ["algebra", "geometry"]},
        "validation": None,
        "test": {"repo": "b/aime", "revision": "v1", "split": "train"},
    }
    task = maths.load(name="math", source="hub", hub=hub, validation_share=0)
    assert asked == [
        ("a/math", "main", "algebra", "dataset.hub.train"),
        ("a/math", "commit of a/math", "geometry", "dataset.hub.train"),  # one commit for all configurations
        ("b/aime", "v1", None, "dataset.hub.test"),
    ]
    assert [row.columns["answer"] for row in task.splits["train"]] == ["11", "21"]
    assert [row.columns["answer"] for row in task.splits["test"]] == ["31"]
    assert task.provenance.location == "a/math + b/aime"
    assert task.provenance.revision == "commit of a/math + commit of b/aime"
    assert str(task.provenance) == "math (hub: a/math + b/aime, commit of a/math + commit of b/aime)"


def test_a_repository_that_gives_two_splits_is_read_once(monkeypatch):
    asked = []
    parts = {split: [Record(f"{split} row 1", gsm(n))] for n, split in enumerate(("train", "test"))}
    monkeypatch.setattr(maths_records.hub, "read", lambda *a, **k: asked.append(a) or (parts, "c" * 40, None))
    spec = {"repo": "openai/gsm8k", "config": "main"}
    task = maths.load(name="gsm8k", source="hub", hub={"train": spec, "test": spec}, validation_share=0)
    assert asked == [("openai/gsm8k",)]
    assert task.provenance.revision == "c" * 40
    assert [len(task.splits[split]) for split in ("train", "test")] == [1, 1]


def test_folders_in_the_hubs_layout_are_read(tmp_path):
    for name, rows in (("a", [gsm(n) for n in range(40)]), ("b", [gsm(n) for n in range(50, 55)])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", rows)
    hub = {"train": {"repo": str(tmp_path / "a")}, "test": {"repo": str(tmp_path / "b"), "split": "train"}}
    task = maths.load(name="math", source="hub", hub=hub)
    assert len(task.splits["test"]) == 5
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 40
    assert task.splits["validation"]
    assert len(task.provenance.sha256) == 64


# ------------------------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_names_its_set_and_a_readable_hub_spec(name):
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert conf["name"] == name
    assert dataset_name(conf) == "maths"
    assert conf["twin"]["preset"] == ("long" if name.startswith("aime") else "default")
    parts = maths_records.check_hub(conf["hub"])
    assert "test" in parts
    assert ("train" in parts) is not name.startswith("aime")


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_carries_the_sets_own_name(name):
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    conf.pop("_target_")
    conf["sizes"] = {"train": 4, "validation": 2, "test": 2, "ood": 2}
    task = maths.load(**conf)
    assert task.name == task.provenance.dataset == name
    assert {split: len(rows) for split, rows in task.splits.items()} == conf["sizes"]
    for row in all_rows(task):
        assert task.metric(row.reference, row) == 1.0
        assert [message["role"] for message in row.prompt] == ["user"]
    rows = task.splits["train"]
    assert task.corpus_metric([row.reference for row in rows], rows) == {"unparsable_share": 0.0}


def test_the_twin_takes_no_other_template():
    with pytest.raises(UserError, match=r"dataset\.answer_template=hash: the twin's policy.*dataset\.source=hub"):
        maths.load(name="gsm8k", answer_template="hash")
