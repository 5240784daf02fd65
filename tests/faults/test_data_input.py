"""Bad data, one message each: it names the key or file and row, the value, what is allowed and what to do next."""

import json
from pathlib import Path

import pytest

from dro_lab.data import finqa, jsonl, pararev
from dro_lab.errors import UserError

GOOD = {"prompt": "p", "reference": "r"}
FINQA = {
    "id": "a",
    "filename": "f",
    "pre_text": [],
    "post_text": [],
    "table": [],
    "qa": {"question": "q", "answer": "1", "exe_ans": 1.0},
}
PAIR = {"id_paragraph": "a.b.0", "id_source": "a", "parag_1": "x", "parag_2": "y"}


def lines(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


# name: (loader, file name, content, further arguments, what the message must hold)
FILES = {
    "empty file": (jsonl, "d.jsonl", b"", {}, ["d.jsonl", "is empty", "0 bytes"]),
    "blank file": (jsonl, "d.jsonl", b"\n \n", {}, ["d.jsonl", "is empty"]),
    "empty list": (jsonl, "d.json", b"[]", {}, ["d.json", "holds no rows"]),
    "header without rows": (jsonl, "d.csv", b"prompt,reference\n", {}, ["d.csv", "holds no rows"]),
    "broken json line": (
        jsonl,
        "d.jsonl",
        lines(GOOD, "", '{"prompt": "p" "reference": 1}'),
        {},
        ["d.jsonl line 3 column 16", "Expecting ',' delimiter", "one JSON object a line"],
    ),
    "broken json file": (
        jsonl,
        "d.json",
        b'[\n {"prompt": "p"},\n {"prompt": }\n]',
        {},
        ["d.json line 3 column 13", "Expecting value"],
    ),
    "cut json file": (jsonl, "d.json", b'[{"prompt": "p"', {}, ["d.json line 1 column", "broken JSON"]),
    "huge integer": (jsonl, "d.jsonl", b'{"a": ' + b"1" * 5000 + b"}", {}, ["d.jsonl line 1", "cannot be read"]),
    "deep nesting": (jsonl, "d.jsonl", b"[" * 200_000, {}, ["d.jsonl line 1", "JSON"]),
    "one object over lines": (jsonl, "d.json", b'{\n"prompt": "p"\n}', {}, ["d.json", "one object", "keys prompt"]),
    "row is a list": (jsonl, "d.jsonl", lines(GOOD, [1]), {}, ["d.jsonl line 2", "a list", "JSON object"]),
    "row is a number": (jsonl, "d.jsonl", lines(3), {}, ["d.jsonl line 1", "a number"]),
    "not utf-8": (
        jsonl,
        "d.jsonl",
        lines(GOOD) + b'\n{"prompt": "caf\xe9"}',
        {},
        ["d.jsonl line 2", "byte offset 49", "0xe9", "iconv"],
    ),
    "utf-16": (jsonl, "d.jsonl", json.dumps(GOOD).encode("utf-16"), {}, ["not UTF-8 at byte offset 0", "0xff"]),
    "ragged csv": (
        jsonl,
        "d.csv",
        b"prompt,reference\na,b\na,b,c\n",
        {},
        ["d.csv line 3", "3 cells", "header of 2 columns"],
    ),
    "short csv row": (jsonl, "d.csv", b"prompt,reference\na\n", {}, ["d.csv line 2", "1 cells", "2 columns"]),
    "unclosed csv quote": (jsonl, "d.csv", b'prompt,reference\n"a,b\n', {}, ["d.csv line 2", "broken CSV"]),
    "not parquet": (jsonl, "d.parquet", b"no parquet here", {}, ["d.parquet", "not a readable parquet file"]),
    "unknown ending": (jsonl, "d.xlsx", b"x", {}, ["d.xlsx", "'.xlsx'", ".jsonl, .json, .csv, .parquet"]),
    "row without prompt": (
        jsonl,
        "d.jsonl",
        lines(GOOD, {"question": "q", "reference": "r"}),
        {},
        ["d.jsonl", "line 2", "`prompt` is missing", "question, reference"],
    ),
    "row without reference": (jsonl, "d.jsonl", lines({"prompt": "p"}), {}, ["line 1", "`reference` is missing"]),
    "empty reference": (jsonl, "d.jsonl", lines({**GOOD, "reference": " "}), {}, ["line 1", "`reference` is empty"]),
    "reference is a number": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "reference": 5}),
        {},
        ["line 1", "`reference` is int, must be a string"],
    ),
    "reference is null": (jsonl, "d.jsonl", lines({**GOOD, "reference": None}), {}, ["`reference` is missing"]),
    "lone surrogate": (
        jsonl,
        "d.jsonl",
        b'{"prompt": "p", "reference": "ab\\ud800"}',
        {},
        ["`reference` holds a lone surrogate at character 2"],
    ),
    "prompt is an object": (jsonl, "d.jsonl", lines({**GOOD, "prompt": {}}), {}, ["`prompt` is dict"]),
    "no messages": (jsonl, "d.jsonl", lines({**GOOD, "prompt": []}), {}, ["`prompt` is an empty list"]),
    "message without role": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "prompt": [{"content": "x"}]}),
        {},
        ["message 1 has no role and content"],
    ),
    "unknown role": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "prompt": [{"role": "human", "content": "x"}]}),
        {},
        ["'human'", "system, user, assistant"],
    ),
    "late system message": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "prompt": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}),
        {},
        ["message 2 is a system message, which must come first"],
    ),
    "ends with the assistant": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]}),
        {},
        ["ends with the role 'assistant'"],
    ),
    "duplicate ids": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "id": "a"}, {**GOOD, "id": "b"}, {**GOOD, "id": "a"}),
        {},
        ["the id 'a' stands at d.jsonl line 1 and again at d.jsonl line 3"],
    ),
    "the same row twice without ids": (
        jsonl,
        "d.jsonl",
        lines(GOOD, GOOD),
        {},
        ["d.jsonl line 2 repeats the row at d.jsonl line 1", "same prompt and reference"],
    ),
    "an id in two splits": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "id": 1, "split": "train"}, {**GOOD, "id": 1, "split": "test"}),
        {},
        ["the id '1'", "line 1 (split train) and again at d.jsonl line 2 (split test)"],
    ),
    "unknown split": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "split": "holdout"}),
        {},
        ["`split` is 'holdout'", "train, validation, test"],
    ),
    "split on some rows only": (
        jsonl,
        "d.jsonl",
        lines({**GOOD, "split": "train"}, {"prompt": "p2", "reference": "r"}),
        {},
        ["line 2", "no `split`, while other rows have one"],
    ),
    "id is a list": (jsonl, "d.jsonl", lines({**GOOD, "id": [1]}), {}, ["`id` is [1]"]),
    "metric does not exist": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"metric": "dro_lab.data.metrics.nothing"},
        ["dataset.metric='dro_lab.data.metrics.nothing'", "dotted path"],
    ),
    "metric is no function": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"metric": "dro_lab.data.metrics.TOLERANCE"},
        ["dataset.metric=", "not a function"],
    ),
    "shares above one": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"shares": {"train": 0.9, "validation": 0.2}},
        ["dataset.shares={'train': 0.9, 'validation': 0.2}", "sum to 1"],
    ),
    "negative share": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"shares": {"train": 1.5, "test": -0.5}},
        ["dataset.shares", "non-negative"],
    ),
    "share for an unknown split": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"shares": {"dev": 1.0}},
        ["dataset.shares", "'dev'"],
    ),
    "share is a text": (jsonl, "d.jsonl", lines(GOOD), {"shares": {"train": "all"}}, ["dataset.shares", "'all'"]),
    "negative size": (jsonl, "d.jsonl", lines(GOOD), {"sizes": {"train": -1}}, ["dataset.sizes", "'train': -1"]),
    "size for an unknown split": (jsonl, "d.jsonl", lines(GOOD), {"sizes": {"dev": 1}}, ["dataset.sizes", "'dev': 1"]),
    "marker is a number": (jsonl, "d.jsonl", lines(GOOD), {"answer_marker": 3}, ["dataset.answer_marker=3", "a text"]),
    "system prompt is a list": (
        jsonl,
        "d.jsonl",
        lines(GOOD),
        {"system_prompt": ["x"]},
        ["dataset.system_prompt=['x']"],
    ),
    "pararev in another schema": (
        pararev,
        "d.jsonl",
        lines({"text": "t", "summary": "s"}),
        {},
        ["d.jsonl line 1", "keys found: summary, text", "parag_1 and parag_2", "dataset=jsonl"],
    ),
    "pararev without any instruction": (
        pararev,
        "d.jsonl",
        lines(PAIR, {**PAIR, "id_paragraph": "c"}),
        {},
        ["no usable row is left of 2", "2 x no instruction", "dataset.instruction=TEXT"],
    ),
    "pararev with one id on two pairs": (
        pararev,
        "d.jsonl",
        lines(PAIR, {**PAIR, "parag_2": "z"}),
        {"instruction": "Fix."},
        ["the id 'a.b.0' stands at d.jsonl line 1 and again at d.jsonl line 2"],
    ),
    "pararev instruction is a number": (pararev, "d.jsonl", lines(PAIR), {"instruction": 5}, ["dataset.instruction=5"]),
    "finqa in another schema": (
        finqa,
        "d.json",
        json.dumps([{"q": "x", "a": "y"}]).encode(),
        {},
        ["d.json row 1", "keys found: a, q", "pre_text, post_text, table"],
    ),
    "finqa with one id on two rows": (
        finqa,
        "d.json",
        json.dumps([FINQA, {**FINQA, "pre_text": ["x"]}]).encode(),
        {},
        ["the id 'a' stands at d.json row 1 and again at d.json row 2"],
    ),
    "finqa cut to nothing": (
        finqa,
        "d.json",
        json.dumps([FINQA]).encode(),
        {"max_prompt_chars": 0},
        ["dataset.max_prompt_chars=0", "at least 1"],
    ),
    "finqa with no usable row": (
        finqa,
        "d.json",
        json.dumps([{**FINQA, "table": 1}, {**FINQA, "id": "b", "table": 1}]).encode(),
        {},
        ["no usable row is left of 2", "2 x table must be a list of rows of texts"],
    ),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.tried("bad inputs")
def test_a_bad_file_is_one_clear_message(case, tmp_path):
    loader, name, content, arguments, wanted = FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        loader.load(source=str(tmp_path / name), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "Next: " in message
    for part in wanted:
        assert part in message, message


@pytest.mark.parametrize(
    ("loader", "source", "wanted"),
    [
        (jsonl, None, ["reads your own file", "a .jsonl, .json"]),
        (jsonl, "twin", ["reads your own file", "neither a twin"]),
        (jsonl, "hub", ["reads your own file", "nor a copy on the hub"]),
        (jsonl, "no/such.jsonl", ["dataset.source=no/such.jsonl does not exist", "no/such.jsonl)"]),
        (jsonl, 5, ["dataset.source=5"]),
        (pararev, "huub", ["dataset.source=huub is neither a known word nor an existing file", "twin, hub"]),
        (pararev, "no/such.json", ["does not exist", "use dataset.source=twin"]),
        (pararev, "", ["dataset.source=''", "twin, hub"]),
        (finqa, "twinn", ["dataset.source=twinn is neither a known word nor an existing file", "twin, hub"]),
        (finqa, "test.json", ["test.json does not exist"]),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_source_that_is_not_there_is_one_clear_message(loader, source, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        loader.load(source=source)
    for part in wanted:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "names", "wanted"),
    [
        (pararev, ["README.md"], ["folder without a data file", "README.md", ".jsonl"]),
        (pararev, [], ["it holds no files"]),
        (
            finqa,
            ["a.json", "b.txt"],
            ["no FinQA split in this folder", "a.json, b.txt", "train.json, dev.json, test.json"],
        ),
        (finqa, ["x_dev.json", "y_dev.json"], ["x_dev.json and y_dev.json both look like the validation split"]),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_folder_without_the_expected_files_is_one_clear_message(loader, names, wanted, tmp_path):
    for name in names:
        (tmp_path / name).write_text(json.dumps([FINQA]))
    with pytest.raises(UserError) as caught:
        loader.load(source=str(tmp_path))
    for part in wanted:
        assert part in str(caught.value)


def test_an_id_in_two_of_finqas_splits_is_refused(tmp_path):
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps([FINQA]))
    with pytest.raises(UserError, match="the id 'a' stands at split train and again at split validation"):
        finqa.load(source=str(tmp_path))


def test_the_twin_refuses_an_instruction():
    with pytest.raises(UserError, match=r"dataset\.instruction='Fix\.': the twin's rows carry their own"):
        pararev.load(instruction="Fix.")


@pytest.mark.parametrize(
    ("twin", "wanted"),
    [
        (3, ["dataset.twin=3", "must hold keys and values", "default, mild", "+dataset.twin.distractors=VALUE"]),
        (0, ["dataset.twin=0", "must hold keys and values"]),
        ("mild", ["dataset.twin=mild", "dataset.twin.preset=NAME"]),
        ([], ["dataset.twin=[]", "must hold keys and values"]),
        ({"preset": "strong"}, ["dataset.twin.preset=strong", "default, mild, incoherent, shortcut"]),
        ({"preset": None}, ["dataset.twin.preset=None", "default, mild"]),
        ({"preset": ["mild"]}, ["dataset.twin.preset=['mild']"]),
        ({"leen": 0.1}, ["dataset.twin.leen=0.1", "unknown twin knob", "lean"]),
        ({1: 2}, ["dataset.twin.1=2", "unknown twin knob"]),
        ({"rare_words": "many"}, ["dataset.twin.rare_words=many", "a whole number", "6 is the default"]),
        ({"rare_words": 2.5}, ["dataset.twin.rare_words=2.5", "a whole number"]),
        ({"rare_words": True}, ["dataset.twin.rare_words=True", "a whole number"]),
        ({"rare_words": None}, ["dataset.twin.rare_words=None", "a whole number"]),
        ({"rare_words": 99}, ["dataset.twin.rare_words=99", "must lie in [0, 8]"]),
        ({"steps_max": "4"}, ["dataset.twin.steps_max=4", "a whole number"]),
        ({"reference_length": 56.0}, ["dataset.twin.reference_length=56.0", "a whole number"]),
        ({"even_tone": "perhaps"}, ["dataset.twin.even_tone=perhaps", "true or false", "false is the default"]),
        ({"even_tone": 1}, ["dataset.twin.even_tone=1", "true or false"]),
        ({"style_coherence": "high"}, ["dataset.twin.style_coherence=high", "a number", "0.5 is the default"]),
        ({"style_coherence": [0.5]}, ["dataset.twin.style_coherence=[0.5]", "a number"]),
        ({"style_coherence": float("nan")}, ["dataset.twin.style_coherence=nan", "a number"]),
        ({"style_balance": True}, ["dataset.twin.style_balance=True", "a number"]),
    ],
)
@pytest.mark.tried("bad inputs")
def test_a_bad_knob_of_the_twin_is_one_clear_message(twin, wanted):
    with pytest.raises(UserError) as caught:
        pararev.load(twin=twin)
    for part in wanted:
        assert part in str(caught.value)


def test_an_unreadable_file_is_one_clear_message(tmp_path, monkeypatch):
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "d.jsonl").write_bytes(lines(GOOD))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"d\.jsonl: cannot be read \(Permission denied\)"):
        jsonl.load(source=str(tmp_path / "d.jsonl"))
