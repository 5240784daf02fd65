"""``python -m dro_lab.data``: what a run would see, as tables and as JSON."""

import copy
import json
import re
import subprocess
import sys

import pytest

from dro_lab.data.__main__ import main
from dro_lab.data.inspection import SHOWN_PER_REASON, _shown
from dro_lab.types import RefusedRow
from tests.tiny import TEMPLATES, byte_tokenizer


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder as far as looking at data needs one: tokenizer and configuration, no weights."""
    from transformers import Qwen3Config

    folder = tmp_path_factory.mktemp("policy")
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = TEMPLATES["open"]
    tokenizer.save_pretrained(folder)
    Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, max_position_embeddings=256
    ).save_pretrained(folder)
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def rows(tmp_path):
    made = [{"id": n, "prompt": f"question [b]{n}[/b]", "reference": f"answer {n}"} for n in range(30)]
    made.append({"id": "long", "prompt": "word " * 500, "reference": "answer"})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


def overrides(rows, policy):
    return ["dataset=jsonl", f"dataset.source={rows}", f"model.path={policy}", "rollout.max_completion_length=32"]


def test_json_holds_counts_provenance_first_row_lengths_and_every_refused_row(rows, policy, capsys):
    assert main([*overrides(rows, policy), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert sum(seen["rows"].values()) == 30
    assert seen["provenance"]["kind"] == "file"
    assert len(seen["provenance"]["sha256"]) == 64
    assert seen["refused_rows"] == len(seen["refused"]) == 1
    assert seen["refused"][0]["where"].endswith("row long")
    assert "tokens > context 256" in seen["refused"][0]["reason"]
    assert seen["tokens"]["prompt"]["max"] > 256 > seen["tokens"]["prompt"]["median"]
    number = seen["first"]["id"]
    assert seen["first"]["prompt"] == (
        f"<|im_start|>user\nquestion [b]{number}[/b]<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert seen["first"]["reference"] == f"answer {number}"


def test_the_tables_say_the_same_and_print_texts_verbatim(rows, policy, capsys):
    assert main(overrides(rows, policy)) == 0
    shown = capsys.readouterr().out
    for part in (
        "jsonl (file: ",
        "sha256    ",
        "question [b]",
        "<think>",
        "too long: prompt",
        "row long",
        "refused     1",
    ):
        assert part in shown
    assert "\x1b[" not in shown
    assert all(len(line) < 400 for line in shown.splitlines() if "question" in line)


def test_the_first_row_is_one_that_a_run_would_use(rows, policy, capsys):
    made = [{"id": "long", "prompt": "word " * 500}, {"id": "short", "prompt": "question"}]
    made.append({"id": "held out", "prompt": "another"})
    splits = ["train", "train", "test"]
    rows.write_text(
        "".join(json.dumps({**r, "reference": "a", "split": s}) + "\n" for r, s in zip(made, splits, strict=True))
    )
    assert main([*overrides(rows, policy), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["first"]["id"] == "short"
    assert [row["where"] for row in seen["refused"]] == ["train row long"]


def test_the_closing_of_the_reasoning_counts_as_in_a_run(rows, policy, capsys):
    needed = {}
    for suffix in ("  ", " " * 10):
        assert main([*overrides(rows, policy), f"model.close_suffix='{suffix}'", "--json"]) == 0
        (refused,) = json.loads(capsys.readouterr().out)["refused"]
        needed[suffix] = int(re.search(r"= (\d+) tokens > context 256", refused["reason"])[1])
    tokenizer = byte_tokenizer()
    more = len(tokenizer.encode("\n</think>" + " " * 10)) - len(tokenizer.encode("\n</think>  "))
    assert more > 0
    assert needed[" " * 10] - needed["  "] == more


def test_rubrics_are_counted_by_split_and_the_first_is_shown(rows, policy, capsys):
    pitfall = {"text": "Names B?", "weight": -2, "expect": "no"}
    rubrics = [["Names A?"], ["Names A?", pitfall], None, None]
    splits = ["train", "train", "train", "test"]
    made = [
        {"id": n, "prompt": "q", "reference": f"a{n}", "rubric": rubric, "split": split}
        for n, (rubric, split) in enumerate(zip(rubrics, splits, strict=True))
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert main([*overrides(rows, policy), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["rubrics"]["train"] == {"rows": 2, "without": 1, "checks_mean": 1.5, "pitfalls": 1}
    assert seen["rubrics"]["test"] == {"rows": 0, "without": 1, "checks_mean": 0.0, "pitfalls": 0}
    assert seen["first"]["rubric"] == [{"text": "Names A?", "weight": 1.0, "expect": "yes"}]
    assert main(overrides(rows, policy)) == 0
    shown = capsys.readouterr().out
    assert "Rubrics (decided by a judge (judge=openai or judge=policy))" in shown
    assert re.search(r"^train +2 +1 +1\.5 +1", shown, re.MULTILINE)
    assert re.search(r"^yes +1 +Names A\?", shown, re.MULTILINE)


def test_rows_without_rubrics_show_no_table_of_them(rows, policy, capsys):
    assert main(overrides(rows, policy)) == 0
    shown = capsys.readouterr().out
    assert "Rubrics (" not in shown
    assert "Its rubric" not in shown


def test_what_was_cut_from_rar_medicine_s_rubrics_is_shown(tmp_path, policy, capsys):
    items = [{"title": f"t{n}", "description": f"Pitfall Criteria: Recommends {n}.", "weight": -1} for n in range(12)]
    made = [{"question": f"q{n}", "reference_answer": "a", "rubric": items} for n in range(4)]
    file = tmp_path / "rar.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    arguments = ["dataset=rar_medicine", f"dataset.source={file}", f"model.path={policy}"]
    assert main([*arguments, "rollout.max_completion_length=32"]) == 0
    shown = capsys.readouterr().out
    assert "note      8 checks of 4 rows count in the rubric score" in shown
    assert "48 name the fault (a good answer gets no)" in shown


@pytest.mark.parametrize("name", ["pararev", "rar_medicine", "contract_nli", "finqa"])
def test_every_twin_can_be_looked_at(name, policy, capsys):
    sizes = [f"dataset.sizes.{split}=3" for split in ("train", "validation", "test")]
    arguments = [
        f"dataset={name}",
        "dataset.source=twin",
        *sizes,
        f"model.path={policy}",
        "rollout.max_completion_length=8",
    ]
    assert main([*arguments, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["provenance"]["kind"] == "twin"
    assert seen["checked_by"] == "the data set's program (judge=exact)"
    refused = seen["refused_rows"]  # the byte-level tokenizer makes long prompts of them
    assert sum(seen["rows"].values()) + refused == 9 + 512
    assert all(part["without"] == 0 for part in seen["rubrics"].values())


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["dataset=nothing"], "nothing"),
        (["dataset=jsonl"], "dataset=jsonl reads your own file"),
        (["dataset=jsonl", "dataset.source=x.jsonl", "dataset.metric._target_=no.such"], "no.such: cannot be imported"),
        (["dataset=rar_medicine", "dataset.repeats=drop"], "dataset.repeats=drop: must be one of error, refuse"),
        (["dataset=rar_medicine", "dataset.twin.preset=mild"], "unknown twin preset 'mild'"),
        (["dataset=jsonl", "dataset.source=no/such.jsonl"], "no/such.jsonl does not exist"),
        (["dataset=jsonl", "dataset.sources=x"], "sources"),
        (["dataset=finqa", "dataset.source=none.json"], "none.json"),
        (["--jsonn"], "--jsonn: unknown option"),
        (["dataset.source=["], "KEY=VALUE"),
        (["+foo=1"], "unknown key foo"),
        (["rollout.max_completion_length=abc"], "rollout.max_completion_length=abc: must be a whole number"),
        (["+rollout.tokens=1"], "rollout.tokens=1: unknown key"),
        (["dataset.twin=3"], "dataset.twin=3: must hold keys and values"),
        (["+dataset.twin.rare_words=many"], "dataset.twin.rare_words=many: must be a whole number"),
        (["+dataset.twin.even_tone=perhaps"], "dataset.twin.even_tone=perhaps: must be true or false"),
    ],
)
def test_bad_arguments_are_one_message_and_status_2(arguments, wanted, policy, capsys):
    assert main([*arguments, f"model.path={policy}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert wanted in err
    assert "Traceback" not in err


def test_help_says_how_to_use_it(capsys):
    assert main(["--help"]) == 0
    assert "usage: python -m dro_lab.data dataset=NAME" in capsys.readouterr().out


def test_a_real_shell_gets_status_2_and_no_traceback(tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"prompt": ')
    done = subprocess.run(
        [sys.executable, "-m", "dro_lab.data", "dataset=jsonl", "dataset.source=broken.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "broken.jsonl line 1 column 12" in done.stderr


def test_hundreds_of_refused_rows_are_all_shown_and_thousands_by_reason():
    few = [RefusedRow(where=f"line {n}", reason=f"too long: {n}") for n in range(999)]
    assert _shown(few) == (few, 0)
    many = [RefusedRow(where=f"line {n}", reason=f"{'short' if n % 2 else 'long'}: {n}") for n in range(2000)]
    shown, hidden = _shown(many)
    assert len(shown) == 2 * SHOWN_PER_REASON
    assert hidden == 2000 - len(shown)
    assert shown == many[: len(shown)]
