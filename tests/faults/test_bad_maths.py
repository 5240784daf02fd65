"""Mathematics data that cannot be used: one message each, which names the key, or the file and the row."""

import json

import pytest

from dro_lab.data import maths
from dro_lab.data.__main__ import main
from dro_lab.data.fit import fit_rows
from dro_lab.errors import UserError
from tests.cli_fixture import run_main, small_run
from tests.tiny import TEMPLATES, byte_tokenizer

GOOD = {"question": "What is 1 + 1?", "answer": "#### 2"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "answer": "She has 5 apples in all, as shown."}, "answer is a text without #### or"),
        ({"question": "q", "answer": "He has four."}, "answer is a text without #### or"),
        ({"question": "q", "answer": "I don't know!"}, "answer is a text without #### or"),
        ({"question": "q", "answer": "5\n#### "}, "nothing stands behind #### in answer"),
        ({"question": "q", "answer": "####"}, "nothing stands behind #### in answer"),
        ({"question": "q", "answer": ""}, "no final answer: answer is empty"),
        ({"question": "q", "answer": None}, "no final answer: neither answer nor solution"),
        ({"question": "q"}, "no final answer: neither answer nor solution"),
        ({"problem": "p", "answer": "  "}, "no final answer: answer is empty"),
        ({"problem": "p", "answer": ["5"]}, "no final answer: answer is list, must be a string"),
        ({"problem": "p", "answer": True}, "no final answer: answer is bool, must be a string"),
        ({"problem": "p", "answer": "\\boxed{}"}, "the last \\boxed{} of answer is empty"),
        ({"problem": "p", "solution": "It is 5."}, "the solution holds no closed \\boxed{}"),
        ({"problem": "p", "solution": "\\boxed{5"}, "the solution holds no closed \\boxed{}"),
        ({"problem": "p", "solution": "\\boxed{5} or \\boxed{ }"}, "the last \\boxed{} of solution is empty"),
        ({"problem": "p", "answer": "\ud800"}, "answer holds a lone surrogate at character 0"),
        ({"problem": "", "answer": "5"}, "problem is empty"),
        ({"problem": None, "question": 5, "answer": "5"}, "question is int, must be a string"),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_row_without_a_final_answer_or_problem_is_refused_with_file_and_line(tmp_path, row, reason):
    task = maths.load(name="gsm8k", source=str(write(tmp_path / "train.jsonl", [GOOD, row])))
    (refused,) = task.refused
    assert refused.where == "train.jsonl line 2"
    assert reason in refused.reason
    assert sum(map(len, task.splits.values())) == 1


def test_where_no_row_is_left_the_reasons_are_one_message(tmp_path):
    rows = [{"question": f"q{n}", "answer": "I do not know this one"} for n in range(3)]
    with pytest.raises(UserError, match=r"no usable row is left of 3.*3 x no final answer: answer is a text without"):
        maths.load(name="gsm8k", source=str(write(tmp_path / "train.jsonl", rows)))


def test_rows_of_another_schema_are_named_with_their_keys(tmp_path):
    file = write(tmp_path / "train.jsonl", [{"prompt": "p", "reference": "r"}])
    with pytest.raises(
        UserError, match=r"train\.jsonl \(?.*line 1.*keys found: prompt, reference.*question and answer"
    ):
        maths.load(name="gsm8k", source=str(file))


def test_one_id_on_two_problems_is_an_error_within_and_across_splits(tmp_path):
    first, second = {"id": 7, "problem": "a", "answer": "1"}, {"id": 7, "problem": "b", "answer": "2"}
    file = write(tmp_path / "train.jsonl", [first, second])
    with pytest.raises(UserError, match=r"the id '7' stands at train.jsonl line 1 and again at train.jsonl line 2"):
        maths.load(name="math", source=str(file))
    write(tmp_path / "train.jsonl", [first])
    write(tmp_path / "test.jsonl", [second])
    with pytest.raises(UserError, match=r"the id '7' stands at test.jsonl line 1 and again at train.jsonl line 1"):
        maths.load(name="math", source=str(tmp_path))


@pytest.mark.parametrize("value", ["box", "", "ANS and ANS", None, 5, "the answer"])
@pytest.mark.tried("bad inputs")
def test_an_unknown_template_names_the_key_and_the_choices(tmp_path, value):
    file = write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(UserError, match=r"dataset\.answer_template=.*boxed .*hash .*plain .*ANS exactly once.*Next"):
        maths.load(name="gsm8k", source=str(file), answer_template=value)
    with pytest.raises(UserError, match=r"dataset\.answer_template="):
        maths.load(name="gsm8k", answer_template=value)  # the twin too


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"validation_share": 1.5}, r"dataset\.validation_share=1\.5"),
        ({"validation_share": "x"}, r"dataset\.validation_share=x"),
        ({"shares": {"train": 2}}, r"dataset\.shares="),
        ({"sizes": {"train": -1}}, r"dataset\.sizes="),
        ({"system_prompt": 5}, r"dataset\.system_prompt=5"),
        ({"answer_marker": None}, r"dataset\.answer_marker=None"),
        ({"source": "hbu"}, r"dataset\.source=hbu.*twin, hub"),
        ({"source": "nowhere.jsonl"}, r"dataset\.source=nowhere\.jsonl"),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_key_out_of_range_is_named(tmp_path, keys, wanted):
    file = write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(UserError, match=wanted):
        maths.load(**{"name": "gsm8k", "source": str(file), **keys})


@pytest.mark.parametrize(
    ("hub", "wanted"),
    [
        (None, r"dataset\.hub=None"),
        ({}, r"dataset\.hub=\{\}: must be at least one split"),
        ({"train": None}, r"must be at least one split"),
        ({"ood": {"repo": "a/b"}}, r"dataset\.hub\.ood=.*train, validation, test"),
        ({"train": "a/b"}, r"dataset\.hub\.train=a/b: must be null, or keys among repo, revision"),
        ({"train": {"repo": "a/b", "spilt": "x"}}, r"dataset\.hub\.train=.*keys among repo"),
        ({"train": {"revision": "main"}}, r"dataset\.hub\.train\.repo=None"),
        ({"train": {"repo": "a/b", "split": 3}}, r"dataset\.hub\.train\.split=3"),
        ({"train": {"repo": "a/b", "config": []}}, r"dataset\.hub\.train\.config=\[\]"),
        ({"train": {"repo": "a/b", "config": [1]}}, r"dataset\.hub\.train\.config=\[1\]"),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_wrong_hub_entry_is_named(hub, wanted):
    with pytest.raises(UserError, match=wanted):
        maths.load(name="math", source="hub", hub=hub)


def test_a_split_or_file_that_the_repository_lacks_is_named(tmp_path):
    write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(UserError, match=r"dataset\.hub\.test\.split=test: must be one that .* its splits are train"):
        maths.load(name="gsm8k", source="hub", hub={"test": {"repo": str(tmp_path)}})
    with pytest.raises(UserError, match=r"nope\.jsonl.*dataset\.hub\.test\.repo, dataset\.hub\.test\.revision"):
        maths.load(name="gsm8k", source="hub", hub={"test": {"repo": str(tmp_path), "files": "nope.jsonl"}})


def test_a_reference_longer_than_the_context_is_refused_with_its_length(tmp_path):
    rows = [GOOD, {"question": "Write it out.", "answer": f"#### {'1' * 300}"}]
    task = maths.load(name="gsm8k", source=str(write(tmp_path / "train.jsonl", rows)), system_prompt=None)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATES["open"]
    (refused,) = fit_rows(task, tokenizer, context=256, max_completion=20).refused
    assert "too long: prompt" in refused.reason
    assert "reference 308" in refused.reason
    assert "> context 256" in refused.reason


def test_the_command_shows_the_refused_rows_and_ends_with_two_for_a_wrong_key(tmp_path, capsys):
    rows = [GOOD, {"question": "And now?", "answer": "who knows what that could be"}]
    file = write(tmp_path / "train.jsonl", rows)
    assert main(["dataset=gsm8k", f"dataset.source={file}", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["dataset"] == "gsm8k"
    assert seen["corpus_metric"] is True
    assert [row["where"] for row in seen["refused"]] == ["train.jsonl line 2"]
    assert main(["dataset=gsm8k", f"dataset.source={file}", "dataset.answer_template=box"]) == 2
    assert "dataset.answer_template=box" in capsys.readouterr().err


def test_a_run_says_before_anything_else_which_rows_it_refused(policy, own_folder):
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)]
    write(own_folder / "train.jsonl", [*rows[:4], {"question": "And now?", "answer": "####"}])
    write(own_folder / "dev.jsonl", rows[4:])
    keys = ["dataset=gsm8k", f"dataset.source={own_folder}", "reward=verifier", "steps=0", "report=false"]
    ended = run_main(small_run(policy, keys))
    assert ended.code == 0, ended.err
    told = ended.out.index("1 rows were refused, 1 of them like train.jsonl line 5: no final answer")
    assert told < ended.out.index("quality (accuracy")
