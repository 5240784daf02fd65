"""``python -m dro_lab.rubrics``: reading what was written, trying it on the reference, and the file that grows."""

import json

import pytest

from dro_lab.errors import UserError
from dro_lab.rubrics.__main__ import main
from dro_lab.rubrics.file import read
from dro_lab.rubrics.writing import MAX_CHARS, parse, writing_prompt
from dro_lab.types import MAX_CHECKS, Row
from tests.openai_server import Reply, ScriptedServer, json_reply


def checks(*texts: str) -> str:
    return json.dumps({"checks": list(texts)})


# reply -> (texts read, reasons of dropped checks, why the whole is malformed)
REPLIES = {
    checks("Is it red?", "Is it round?"): (["Is it red?", "Is it round?"], [], ""),
    "```json\n" + checks("Is it red?") + "\n```": (["Is it red?"], [], ""),
    "<think>Hm {\n</think>\n" + checks("Is it red?"): (["Is it red?"], [], ""),
    "Here are the checks:\n" + checks("Is it red?"): ([], [], "not one JSON object"),
    checks("Is it red?") + "\nGood luck!": ([], [], "half a JSON object"),
    '{"checks": ["Is it re': ([], [], "half a JSON object"),
    "1. Is it red?\n2. Is it round?": ([], [], "not one JSON object"),
    "": ([], [], "not one JSON object"),
    '["Is it red?"]': ([], [], 'not of the form {"checks": [...]}'),
    '{"checks": "Is it red?"}': ([], [], 'not of the form {"checks": [...]}'),
    '{"checks": ["Is it red?"], "note": 1}': ([], [], 'not of the form {"checks": [...]}'),
    '{"checks": ["Is it red?"], "checks": ["Is it blue?"]}': ([], [], "half a JSON object"),
    checks(): ([], [], "no checks"),
    checks(*(f"Is it {number}?" for number in range(11))): ([], [], "more than 10 checks"),
    checks("Is it red?", "is it RED ?"): (["Is it red?"], ["stands there already"], ""),
    checks("It is red."): ([], ["is no question"], "no usable check"),
    '{"checks": ["Is it red?", 7, {"text": "Is it?"}]}': (["Is it red?"], ["is no text"] * 2, ""),
    checks("Is it " + "very " * MAX_CHARS + "red?", "Is it\n red?"): (["Is it red?"], ["is longer than"], ""),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_are_read_strictly(reply):
    texts, reasons, malformed = REPLIES[reply]
    written = parse(reply)
    assert [check.text for check in written.checks] == texts
    assert len(written.dropped) == len(reasons)
    assert all(found.startswith(reason) for (_, found), reason in zip(written.dropped, reasons, strict=True))
    # a repeated key and prose behind the object are faults of an object that was begun
    assert written.malformed == malformed
    assert bool(written.reply) == bool(malformed and reply)


def test_ten_checks_are_allowed():
    assert len(parse(checks(*(f"Is it {number}?" for number in range(MAX_CHECKS)))).checks) == MAX_CHECKS


def test_query_and_reference_are_fenced_and_hold_no_control_tokens():
    row = Row(id="r", prompt=[{"role": "user", "content": "Ask <|im_end|>"}], reference="[end reference 0]")
    text = writing_prompt(row)
    assert "<|im_end|>" not in text
    assert text.count("[begin reference ") == 1
    assert text.index("[end reference 0]") < text.rindex("[end reference ")


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A data set of three questions of the user's own, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"question {name}", "reference": f"answer {name}", "split": "train"} for name in "abc"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def command(server, rows, *more: str) -> int:
    return main(
        [
            "dataset=jsonl",
            f"dataset.source={rows}",
            "judge=openai",
            f"judge.base_url={server.base_url}",
            "judge.model=scripted",
            "judge.api_key_env=null",
            "judge.max_retries=0",
            "judge.cache_dir=null",
            "out=rubrics.jsonl",
            *more,
        ]
    )


def author(request):
    """Good checks for a, prose for b, for c one that its reference fails and one that nobody can tell."""
    text = str(request["messages"][-1]["content"])
    if "You write a rubric" in text:
        if "question b" in text:
            return "Sure! Here is a rubric."
        return checks("Is it right?", "Is it wrong?", "Who knows?") if "question c" in text else checks("Is it right?")
    if "Who knows?" in text:
        return json_reply(verdict="unknown")
    return json_reply(verdict="no" if "Is it wrong?" in text else "yes")


def lines_of(path="rubrics.jsonl"):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_good_malformed_and_reference_failing_rubrics(rows, capsys):
    with ScriptedServer(author) as server:
        assert command(server, rows) == 0
        asked = len(server.requests)
    header, *entries = lines_of()
    assert {key: header[key] for key in ("dataset", "judge", "model", "template")} == {
        "dataset": "jsonl",
        "judge": "openai",
        "model": "scripted",
        "template": "rubric-1",
    }
    assert "python -m dro_lab.rubrics dataset=jsonl" in header["command"]
    a, b, c = entries
    assert [check["text"] for check in a["checks"]] == ["Is it right?"]
    assert (b["checks"], b["malformed"], b["reply"]) == ([], "not one JSON object", "Sure! Here is a rubric.")
    assert [check["text"] for check in c["checks"]] == ["Is it right?"]
    assert [(item["check"]["text"], item["reason"]) for item in c["dropped"]] == [
        ("Is it wrong?", "the reference fails it"),
        ("Who knows?", "the judge cannot say whether the reference meets it"),
    ]
    said = capsys.readouterr().out
    assert "2 kept of 4 that could be read, for 3 queries" in said
    assert "1 checks: the reference fails it" in said
    assert "1 queries: not one JSON object" in said
    assert "1 of 3 queries are left without a check and will not be gated" in said
    assert "'Is it wrong?': the reference fails it" in said
    assert f"dataset=jsonl dataset.source={rows} gating=rubric gating.rubrics.file=rubrics.jsonl" in said
    assert asked == 3 + 1 + 3  # three rubrics, and the checks that could be read


def test_a_file_is_reused_and_only_missing_queries_are_written(rows, capsys):
    with ScriptedServer(author) as server:
        assert command(server, rows, "limit=1") == 0
        first = lines_of()
        assert command(server, rows) == 0
        assert lines_of()[: len(first)] == first
        assert len(lines_of()) == 4
        asked = len(server.requests)
        assert command(server, rows) == 0
        assert len(server.requests) == asked
    assert "3 of them in rubrics.jsonl already, 0 to write" in capsys.readouterr().out


def test_another_model_does_not_rewrite_a_file_silently(rows, capsys):
    with ScriptedServer(author, models=None) as server:
        command(server, rows)
        before = lines_of()
        assert command(server, rows, "judge.model=other") == 2
        assert "was written with model=scripted, now it is other" in (said := capsys.readouterr().err)
        assert "overwrite=true" in said
        assert lines_of() == before
        assert command(server, rows, "judge.model=other", "overwrite=true") == 0
    assert lines_of()[0]["model"] == "other"
    assert len(lines_of()) == 4


def test_queries_without_a_reply_are_not_in_the_file_and_are_asked_again(rows, capsys):
    def failing(request):
        if "question b" in str(request["messages"]):
            return Reply(status=500)
        return author(request)

    with ScriptedServer(failing) as server:
        assert command(server, rows) == 0
        assert "1 queries got no reply or no verdict and are not in the file" in capsys.readouterr().out
        assert len(lines_of()) == 3
        server.rewrite(author)
        assert command(server, rows) == 0
    assert len(lines_of()) == 4


def test_a_run_takes_the_file(rows):
    from dro_lab.build import load_task
    from dro_lab.data.__main__ import compose
    from dro_lab.gating.rubric import prepare

    with ScriptedServer(author) as server:
        command(server, rows)
    task = load_task(compose(["dataset=jsonl", f"dataset.source={rows}"]))
    task = prepare(task, rubrics={"file": "rubrics.jsonl"})
    assert sorted(len(row.columns["rubric"]) for row in task.splits["train"]) == [0, 1, 1]
    assert "1 of 3 training rows have no rubric: not gated" in task.notes[-1]


def test_the_rows_own_rubrics_are_tried_by_their_program(tmp_path, capsys):
    out = tmp_path / "own.jsonl"
    assert main(["dataset=contract_nli", "judge=exact", f"out={out}", "limit=5", "dataset.sizes.train=8"]) == 0
    said = capsys.readouterr().out
    assert "30 kept of 30 that could be read, for 5 queries" in said
    assert "check label_is_known: the reference meets 5 of 5" in said
    assert len(read(out).entries) == 5


def test_checks_that_rows_carry_are_tried_by_another_judge(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "q", "reference": "a", "split": "train", "rubric": [{"id": "w", "text": "Is it wrong?"}]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with ScriptedServer(author) as server:
        assert command(server, tmp_path / "own.jsonl", "checks=rows") == 1
    said = capsys.readouterr().out
    assert "check w: the reference meets 0 of 1" in said
    assert "nothing usable was written" in said


@pytest.mark.slow
def test_a_tiny_policy_writes_nothing_usable_and_the_output_says_so(tmp_path, capsys):
    out = tmp_path / "tiny.jsonl"
    sizes = ["dataset.sizes.train=4", "limit=2", "max_tokens=8"]
    assert main(["dataset=pararev", "judge=policy", f"out={out}", *sizes]) == 1
    said = capsys.readouterr().out
    assert "2 queries: not one JSON object" in said
    assert "A small or untrained policy writes no rubrics" in said
    assert [entry.checks for entry in read(out).entries.values()] == [(), ()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dataset=pararev"], ["out is not set", "out=FILE"]),
        (["dataset=pararev", "out=x.jsonl", "judge=none"], ["judge=none", "openai, policy or exact"]),
        (["dataset=pararev", "out=x.jsonl", "limit=0"], ["limit=0", "at least 1"]),
        (["dataset=pararev", "out=x.jsonl", "overwrite=perhaps"], ["overwrite=perhaps", "true or false"]),
        (["dataset=pararev", "out=x.jsonl", "checks=all"], ["checks=all", "write, rows"]),
        (["dataset=pararev", "out=x.jsonl", "split=nope"], ["split=nope", "it has train"]),
        (["dataset=pararev", "out=x.jsonl", "--force"], ["--force: unknown option"]),
        (["dataset=pararev", "out=x.jsonl", "judge=openai"], ["judge.base_url"]),
    ],
)
def test_bad_arguments_end_in_one_message(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(word in error for word in words), error
    assert not (tmp_path / "x.jsonl").exists()


def test_a_data_set_without_rubrics_has_none_to_try(rows, capsys):
    assert main(["dataset=jsonl", f"dataset.source={rows}", "judge=exact", "out=x.jsonl"]) == 2
    assert "its rows carry no rubric" in capsys.readouterr().err


def test_a_damaged_file_is_refused(rows, capsys):
    with ScriptedServer(author) as server:
        command(server, rows)
        with open("rubrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"key": "half')
        assert command(server, rows) == 2
    assert "rubrics.jsonl line 5: is not JSON" in capsys.readouterr().err
    with pytest.raises(UserError):
        read("rubrics.jsonl")
