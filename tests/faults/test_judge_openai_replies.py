"""Replies of judge=openai: read strictly, and a schema is asked for where the endpoint takes one."""

import math
import re

import pytest

from dro_lab.judges.protocol import NO, UNKNOWN, YES, Pair
from dro_lab.judges.replies import PREFERENCES, VERDICTS, choice_of
from tests.openai_judge_fixture import ROW, YES_REPLY, answer_of, judge, questions
from tests.openai_server import Reply, ScriptedServer, json_reply

pytestmark = pytest.mark.usefixtures("openai_key")


STRICT = [
    ('{"verdict": "yes"}', "yes"),
    (' {"verdict":"No"}\n', "no"),
    ('{"verdict": "unknown"}', "unknown"),
    ('```json\n{"verdict": "yes"}\n```', "yes"),
    ('<think>The answer says no, so</think>\n{"verdict": "yes"}', "yes"),
    ("yes", "yes"),
    ("No.", "no"),
    ('"yes"', "yes"),
    ('{"verdict": "ye', None),
    ('{"verdict": "yes"', None),
    ('{"verdict": "yes", "verdict": "no"}', None),
    ('{"verdict": "yes", "why": "it does"}', None),
    ('{"verdict": ["yes"]}', None),
    ('{"verdict": true}', None),
    ('{"verdict": "maybe"}', None),
    ('{"answer": "yes"}', None),
    ('[{"verdict": "yes"}]', None),
    ("[" * 100_000, None),
    ('{"a":' * 100_000, None),
    ("Yes, the answer states a number.", None),
    ("I would say yes", None),
    ("yes no", None),
    ("I'm sorry, I cannot help with that.", None),
    ('The verdict is {"verdict": "yes"}', None),
    ("<think>yes", None),
    ("", None),
    ("日本", None),
]


@pytest.mark.parametrize(("text", "word"), STRICT)
def test_replies_are_read_strictly(text, word):
    assert choice_of(text, "verdict", VERDICTS) == word


def test_replies_that_are_no_verdict_are_unknown_and_counted():
    texts = ['{"verdict": "ye', "Yes, certainly: it says so.", '{"verdict": "unknown"}', '{"verdict": "no"}']
    replies = [
        *map(Reply, texts),
        Reply(None, refusal="I will not"),
        Reply(None),
        Reply('{"ver', finish_reason="length"),
    ]
    with ScriptedServer(lambda request: replies[int(answer_of(request))]) as server:
        made = judge(server)
        found = made.verdicts(questions(*map(str, range(len(replies)))))
        metrics = made.metrics()
    assert found == [UNKNOWN, UNKNOWN, UNKNOWN, NO, UNKNOWN, UNKNOWN, UNKNOWN]
    assert (metrics["unparsed"], metrics["failures/refusal"], metrics["failures/cut"]) == (3, 2, 1)
    assert metrics["unknown_verdicts"] == 6
    assert len(server.requests) == 7  # what was replied is replied: nothing of this is asked again


def test_comparisons_and_ties():
    replies = {"1": "A", "2": "B", "3": "tie", "4": "both", "5": "A"}

    def script(request):
        return json_reply(better=replies[re.search(r"answer A \w+\]\n(.)", request["messages"][-1]["content"])[1]])

    with ScriptedServer(script) as server:
        found = judge(server).preferences([Pair(row=ROW, first=number, second="x") for number in replies])
    assert found[:3] == [1.0, 0.0, 0.5]
    assert math.isnan(found[3])
    assert found[4] == 1.0
    assert choice_of('{"better": "a"}', "better", PREFERENCES) == "A"


def test_an_endpoint_without_schemas_is_asked_for_text_from_then_on(capsys):
    def script(request):
        if "response_format" in request:
            return Reply("response_format is not supported", status=400)
        return Reply("yes")

    with ScriptedServer(script) as server:
        made = judge(server, max_concurrency=1)
        assert made.verdicts(questions("a", "b", "c")) == [YES, YES, YES]
    assert [("response_format" in request) for request in server.requests] == [True, False, False, False]
    assert capsys.readouterr().err.count("does not take a schema") == 1


def test_a_schema_is_asked_for_unless_it_is_switched_off():
    with ScriptedServer([YES_REPLY]) as server:
        judge(server).verdicts(questions("a"))
        judge(server, structured=False).verdicts(questions("a"))
    asked, plain = server.requests
    assert asked["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["enum"] == [
        "yes",
        "no",
        "unknown",
    ]
    assert "response_format" not in plain
    assert (asked["temperature"], asked["max_tokens"], asked["model"]) == (0, 8, "scripted")


def test_a_400_that_is_not_about_the_schema_is_no_reason_to_drop_it(capsys):
    with ScriptedServer(lambda request: Reply("too long", status=400)) as server:
        made = judge(server, max_concurrency=1)
        assert made.verdicts(questions("a", "b")) == [UNKNOWN, UNKNOWN]
    assert [("response_format" in request) for request in server.requests] == [True, False, True, False]
    err = capsys.readouterr().err
    assert err.count("too long") == 1
    assert "schema" not in err
