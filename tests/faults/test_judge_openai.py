"""judge=openai against a real server on loopback that does everything wrong: nothing is lost, nothing is guessed."""

import itertools
import json
import math
import re
import socket
import subprocess
import sys
import threading

import pytest
from omegaconf import OmegaConf

from dro_lab.components import component
from dro_lab.errors import UserError
from dro_lab.judges.endpoint import Call, Endpoint, Settings
from dro_lab.judges.faults import retry_after
from dro_lab.judges.keys import refuse_keys
from dro_lab.judges.openai import OpenAIJudge
from dro_lab.judges.protocol import NO, UNKNOWN, YES, Pair, Question
from dro_lab.judges.replies import PREFERENCES, VERDICTS, choice_of
from dro_lab.types import Check, Need, Provenance, Row, Stat, Task
from tests.cli_fixture import assert_refused, run_main, save_policy, small_run
from tests.openai_server import Reply, ScriptedServer, json_reply

KEY = "sk-test-0123456789abcdef"
ROW = Row(id="r", prompt=[{"role": "user", "content": "How many samples?"}], reference="There are 42.")
TASK = Task(
    name="t",
    provenance=Provenance(dataset="t", kind="file", location="t"),
    splits={},
    metric=None,
    metric_name="",
    rubric_score=True,
)
YES_REPLY, NO_REPLY = json_reply(verdict="yes"), json_reply(verdict="no")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(server, **values) -> Settings:
    defaults = {"backoff": 0.001, "timeout": 20.0, "options": {"temperature": 0, "max_tokens": 8}, "max_retries": 2}
    return Settings(base_url=server.base_url, model="scripted", **{**defaults, **values})


def judge(server, **values) -> OpenAIJudge:
    return OpenAIJudge(TASK, Endpoint(settings(server, **values)), show_query=True)


def questions(*answers: str) -> list[Question]:
    return [Question(row=ROW, answer=answer, check=Check(id="c", text="A number?")) for answer in answers]


def answer_of(request) -> str:
    """The answer that a request asks about."""
    return re.search(r"\[begin answer \w+\]\n(.*)\n\[end answer", request["messages"][-1]["content"], re.DOTALL)[1]


def by_answer(request) -> Reply:
    """A judge that says yes to answers that begin with a y."""
    return YES_REPLY if answer_of(request).startswith("y") else NO_REPLY


FAULTS = {
    "429": (Reply(status=429), "rate_limit"),
    "429 and when to come back": (Reply(status=429, headers={"Retry-After": "0"}), "rate_limit"),
    "500": (Reply(status=500), "server"),
    "503 with a page": (Reply(status=503, body="<html>busy</html>"), "server"),
    "no status line": (Reply(break_after=0), "connection"),
    "half a body": (Reply('{"verdict": "yes"}', break_after=40), "connection"),
    "half a JSON": (Reply(body='{"choices": [{"message": {"content": "ye'), "body"),
    "a page": (Reply(body="<html>hello</html>"), "body"),
    "another JSON": (Reply(body='{"hello": 1}'), "body"),
    "no choice": (Reply(body='{"choices": []}'), "body"),
    "a list": (Reply(body="[1, 2]"), "body"),
    "an empty body": (Reply(body=""), "body"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_asked_again_and_nothing_is_lost(name):
    fault, kind = FAULTS[name]
    with ScriptedServer([fault, fault, YES_REPLY]) as server:
        made = judge(server)
        assert made.verdicts(questions("a")) == [YES]
        metrics = made.metrics()
    assert (metrics["requests"], metrics["retries"], metrics["unanswered"]) == (3, 2, 0)
    assert metrics[f"failures/{kind}"] == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_makes_this_verdict_unknown_and_no_other(name):
    fault, kind = FAULTS[name]
    with ScriptedServer(lambda request: fault if answer_of(request) == "bad" else by_answer(request)) as server:
        made = judge(server)
        assert made.verdicts(questions("y1", "bad", "n1", "y2")) == [YES, UNKNOWN, NO, YES]
        metrics = made.metrics()
    assert (metrics["requests"], metrics["retries"], metrics["unanswered"]) == (3 + 3, 2, 1)
    assert (metrics["verdicts"], metrics["unknown_verdicts"]) == (4, 1)
    assert metrics[f"failures/{kind}"] == 3


def test_a_server_that_hangs_is_given_up_and_the_call_returns():
    def script(request):
        return Reply(delay=60) if answer_of(request) == "slow" else by_answer(request)

    with ScriptedServer(script) as server:
        made = judge(server, timeout=0.5, max_retries=1)
        assert made.endpoint.ask([Call(template="warm", text="[begin answer 0]\ny\n[end answer 0]")])[0].text
        assert made.verdicts(questions("y", "slow", "n")) == [YES, UNKNOWN, NO]
        metrics = made.metrics()
    assert metrics["failures/timeout"] == 2
    assert (metrics["unanswered"], metrics["unknown_verdicts"]) == (1, 1)


def test_what_a_request_that_was_lost_may_have_cost_counts_as_spent():
    with ScriptedServer(lambda request: Reply(body="{")) as server:
        endpoint = Endpoint(settings(server, max_tokens_total=400, max_retries=9))
        # each attempt may have cost up to 4 + 256 + 8 tokens: the second would pass 400
        assert endpoint.ask([Call(template="t", text="four")])[0].failure == "over_budget"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "150", "retry-after": "9"}, 0.15),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_when_to_come_back(headers, seconds):
    assert retry_after(headers) == seconds


def slept(endpoint: Endpoint) -> list[float]:
    """The seconds that the endpoint waits from here on, without waiting."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    endpoint._sleep = sleep
    return waits


def test_retry_after_is_honoured_and_else_the_wait_doubles():
    script = [Reply(status=429, headers={"Retry-After": "7"}), *[Reply(status=500)] * 4, Reply("x")]
    with ScriptedServer(script) as server:
        endpoint = Endpoint(settings(server, max_retries=5, backoff=1.0, max_wait=7.5))
        waits = slept(endpoint)
        assert endpoint.ask([Call(template="t", text="t")])[0].text == "x"
    assert waits[0] == 7.0
    assert [high / 2 <= wait <= high for wait, high in zip(waits[1:], [2.0, 4.0, 7.5, 7.5], strict=True)] == [True] * 4


def test_an_endpoint_that_asks_to_wait_too_long_is_not_asked_again():
    with ScriptedServer([Reply(status=429, headers={"Retry-After": "3600"}), YES_REPLY]) as server:
        made = judge(server, max_wait=60.0)
        assert made.verdicts(questions("a")) == [UNKNOWN]
        assert made.verdicts(questions("a")) == [YES]  # the next time it is asked anew
    assert len(server.requests) == 2


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


@pytest.mark.parametrize("limit", [1, 3])
def test_never_more_requests_at_once_than_the_limit(limit):
    def script(request):
        reply = by_answer(request)
        return Reply(reply.content, delay=0.02)

    with ScriptedServer(script) as server:
        made = judge(server, max_concurrency=limit)
        answers = [f"{'yn'[i % 2]}{i}" for i in range(24)]
        assert made.verdicts(questions(*answers)) == [YES, NO] * 12
        assert made.endpoint.ask([Call(template="t", text=f"[begin answer 0]\n{i}\n[end answer 0]") for i in range(6)])
    assert 1 <= server.most_at_once <= limit
    assert len(server.requests) == 30


def test_equal_questions_are_asked_once():
    with ScriptedServer(by_answer) as server:
        assert judge(server).verdicts(questions("y", "n", "y", "y")) == [YES, NO, YES, YES]
    assert len(server.requests) == 2


# ------------------------------------------------------------------------------------------------ cache


def test_a_second_run_makes_no_request(tmp_path):
    with ScriptedServer(by_answer) as server:
        first = judge(server, cache_dir=str(tmp_path))
        assert first.verdicts(questions("y", "n")) == [YES, NO]
        again = judge(server, cache_dir=str(tmp_path))
        again.endpoint.check()
        assert again.verdicts(questions("n", "y")) == [NO, YES]
        assert (len(server.requests), server.listings) == (2, 0)
    metrics = again.metrics()
    assert (metrics["requests"], metrics["cache_hits"], metrics["tokens_in"]) == (0, 2, 0)


def test_another_model_template_content_or_option_is_asked_anew(tmp_path):
    with ScriptedServer(["x"]) as server:

        def asked(template="t", text="x", options=None, **values) -> int:
            before = len(server.requests)
            endpoint = Endpoint(settings(server, cache_dir=str(tmp_path), **values))
            endpoint.ask([Call(template=template, text=text, options=options or {})])
            return len(server.requests) - before

        assert asked() == 1
        assert asked() == 0
        assert asked(template="t2") == 1
        assert asked(text="y") == 1
        assert asked(options={"max_tokens": 9}) == 1
        other = Endpoint(Settings(base_url=server.base_url, model="other", cache_dir=str(tmp_path)))
        other.ask([Call(template="t", text="x")])
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    "damage",
    [
        b'{"key": "ab',
        b"\xff\xfe\x00",
        b'{"key": 1, "text": "yes", "failure": ""}',
        b'{"key": "a", "text": 3, "failure": ""}',
        b"[]",
        b"null",
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_skipped_and_counted(tmp_path, damage):
    with ScriptedServer(by_answer) as server:
        judge(server, cache_dir=str(tmp_path)).verdicts(questions("y"))
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes() + damage)  # torn: no end of line
        again = judge(server, cache_dir=str(tmp_path))
        assert again.verdicts(questions("y", "n")) == [YES, NO]
        assert again.metrics()["cache_damaged"] == 1
        third = judge(server, cache_dir=str(tmp_path))
        assert third.verdicts(questions("y", "n")) == [YES, NO]
    assert len(server.requests) == 2  # what came after the torn line is whole


def test_what_failed_is_not_kept(tmp_path):
    with ScriptedServer([Reply(status=500)]) as server:
        assert judge(server, cache_dir=str(tmp_path), max_retries=0).verdicts(questions("y")) == [UNKNOWN]
        server.rewrite(by_answer)
        assert judge(server, cache_dir=str(tmp_path)).verdicts(questions("y")) == [YES]


def test_a_cache_that_cannot_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with ScriptedServer() as server, pytest.raises(UserError, match=r"judge\.cache_dir="):
        Endpoint(settings(server, cache_dir=str(tmp_path / "file")))


# ------------------------------------------------------------------------------------------------ spending


def test_the_limit_in_requests_holds_under_concurrency_and_is_said_once(capsys):
    with ScriptedServer(lambda request: Reply('{"verdict": "yes"}', delay=0.01)) as server:
        made = judge(server, max_requests=10, max_concurrency=8)
        found = made.verdicts(questions(*map(str, range(40))))
        assert made.verdicts(questions("later")) == [UNKNOWN]
    assert (found.count(YES), found.count(UNKNOWN)) == (10, 30)
    assert len(server.requests) == 10
    assert made.metrics()["failures/over_budget"] == 31
    assert capsys.readouterr().err.count("spend limit is reached") == 1


def test_retries_count_against_the_limit():
    with ScriptedServer(lambda request: Reply(status=500)) as server:
        made = judge(server, max_requests=4, max_retries=10)
        assert made.verdicts(questions("a", "b")) == [UNKNOWN, UNKNOWN]
    assert len(server.requests) == 4


def test_the_limit_in_tokens_holds_under_concurrency():
    # a message has a few hundred bytes: at most so many tokens; the endpoint says that it took 300 and gave 8
    with ScriptedServer(lambda request: Reply('{"verdict": "yes"}', usage=(300, 8), delay=0.01)) as server:
        made = judge(server, max_tokens_total=6000, max_concurrency=8)
        found = made.verdicts(questions(*map(str, range(40))))
        metrics = made.metrics()
    spent = metrics["tokens_in"] + metrics["tokens_out"]
    assert spent == 308 * len(server.requests)
    assert 3000 <= spent <= 6000
    assert found.count(YES) == len(server.requests)
    assert found.count(UNKNOWN) == 40 - len(server.requests)


def test_an_endpoint_that_does_not_count_is_charged_the_most_it_can_have_used():
    with ScriptedServer(lambda request: Reply("x", usage=None)) as server:
        endpoint = Endpoint(settings(server, max_tokens_total=600))
        replies = endpoint.ask([Call(template="t", text=str(i) * 30) for i in range(5)])  # 30 + 256 + 8 each
    assert sum(reply.text is not None for reply in replies) == 2
    assert len(server.requests) == 2


def test_an_endpoint_that_is_down_ends_the_round_and_the_next_round_asks_again():
    with ScriptedServer([Reply(status=500)]) as server:
        made = judge(server, max_retries=0, give_up_after=3, max_concurrency=1)
        assert made.verdicts(questions(*map(str, range(20)))) == [UNKNOWN] * 20
        assert len(server.requests) == 3
        assert made.metrics()["failures/given_up"] == 17
        server.rewrite([YES_REPLY])
        assert made.verdicts(questions("a")) == [YES]


# ------------------------------------------------------------------------------------------------ keys and first errors


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def node(**values):
    return OmegaConf.create(
        {"_target_": "dro_lab.judges.openai.openai", "base_url": "http://x/v1", "model": "m", **values}
    )


def build(**values) -> OpenAIJudge:
    made = component("judge", node(**values), name="openai", supplied=frozenset({"needs"}))
    return made(TASK, needs={Need(Stat.VERDICTS)})


def refused(**values) -> str:
    with pytest.raises(UserError) as error:
        build(**values)
    return str(error.value)


def test_the_key_comes_from_the_environment_and_is_sent_and_kept_nowhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    with ScriptedServer([YES_REPLY]) as server:
        made = build(base_url=server.base_url, model="scripted", api_key_env="MY_KEY", cache_dir=str(tmp_path))
        assert made.verdicts(questions("a")) == [YES]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    assert KEY not in json.dumps(made.metrics()) + repr(made.endpoint.settings) + "".join(capsys.readouterr())


def test_an_endpoint_that_wants_no_key_gets_none(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with ScriptedServer([YES_REPLY]) as server:
        made = build(base_url=server.base_url, model="scripted", api_key_env=None)
        assert made.verdicts(questions("a")) == [YES]
    assert server.headers[0]["authorization"] == "Bearer none"


@pytest.mark.parametrize("value", [None, "", "   ", "sk two words", "ключ"])
def test_without_a_key_nothing_begins(monkeypatch, value):
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    text = refused()
    assert "judge.api_key_env=OPENAI_API_KEY" in text
    assert "judge.api_key_env=null" in text


def test_a_key_that_is_refused_is_told_before_any_weight_and_not_shown():
    with ScriptedServer(models=["scripted"]) as server:
        server.deny = f"Incorrect API key provided: {KEY}"
        text = refused(base_url=server.base_url, model="scripted")
        assert "judge.api_key_env" in text
        assert "401" in text
        assert KEY not in text
        assert server.requests == []


def test_a_key_that_is_refused_later_ends_the_run_where_nothing_was_ever_answered():
    with ScriptedServer(lambda request: Reply(f"bad key {KEY}", status=401), models=None) as server:
        made = build(base_url=server.base_url, model="scripted")  # it lists no models: nothing is known yet
        with pytest.raises(UserError, match=r"judge\.api_key_env.*401") as error:
            made.verdicts(questions("a", "b"))
    assert KEY not in str(error.value)


def test_after_a_first_answer_a_refusal_is_a_fault_like_others():
    with ScriptedServer([YES_REPLY, Reply(status=401)]) as server:
        made = judge(server)
        assert made.verdicts(questions("a")) == [YES]
        assert made.verdicts(questions("b")) == [UNKNOWN]


def test_a_missing_endpoint_is_told_at_once():
    text = refused(base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert "judge.base_url=http://127.0.0.1" in text
    assert "cannot be reached" in text


def test_a_missing_model_is_told_with_what_there_is():
    def script(request):
        return Reply(f"The model {request['model']} does not exist", status=404)

    with ScriptedServer(script, models=["qwen", "llama"]) as server:
        text = refused(base_url=server.base_url, model="quen")
    assert "judge.model=quen" in text
    assert "qwen, llama" in text


def test_a_model_that_is_not_listed_but_answers_is_taken():
    with ScriptedServer([Reply("yes"), YES_REPLY], models=["listed"]) as server:
        assert build(base_url=server.base_url, model="on-demand").verdicts(questions("a")) == [YES]


BAD = [
    ({"base_url": None}, "judge.base_url=None: judge=openai needs an endpoint"),
    ({"base_url": "localhost:8000/v1"}, "judge.base_url=localhost:8000/v1: must begin with http"),
    ({"base_url": "ftp://host/v1"}, "must begin with http"),
    ({"base_url": "http://[::1/v1"}, "cannot be read as an address"),
    ({"base_url": "http://host:port/v1"}, "cannot be read as an address"),
    ({"base_url": f"https://user:{KEY}@host/v1"}, "judge.base_url: must not hold a user"),
    ({"base_url": f"https://host/v1?key={KEY}"}, "judge.base_url: must not hold a user"),
    ({"model": None}, "judge.model=None: judge=openai needs the model's name"),
    ({"model": " "}, "needs the model's name"),
    ({"api_key": KEY}, "judge.api_key: a key must not stand in the configuration"),
    ({"api_key_env": KEY}, "judge.api_key_env: must be the name of an environment variable"),
    ({"options": {"api_key": KEY}}, "judge.options.api_key: is set by the judge itself"),
    ({"options": {"extra_headers": {"Authorization": KEY}}}, "judge.options.extra_headers"),
    ({"options": {"model": "x"}}, "judge.options.model"),
    ({"options": 3}, "judge.options=3: must hold keys and values"),
    ({"max_concurrency": 0}, "judge.max_concurrency=0: must be a whole number of at least 1"),
    ({"max_retries": -1}, "judge.max_retries=-1"),
    ({"give_up_after": 0}, "judge.give_up_after=0"),
    ({"timeout": 0}, "judge.timeout=0: must be above 0"),
    ({"timeout": "1 min"}, "judge.timeout=1 min"),
    ({"backoff": -1}, "judge.backoff=-1"),
    ({"max_wait": -1}, "judge.max_wait=-1"),
    ({"max_requests": 0}, "judge.max_requests=0"),
    ({"max_tokens_total": 0}, "judge.max_tokens_total=0"),
    ({"max_tokens_total": 100}, "judge.max_tokens_total=100: can only be kept where replies have a limit"),
    ({"structured": "maybe"}, "judge.structured=maybe: must be true or false"),
    ({"show_query": 1}, "judge.show_query=1"),
    ({"cache_dir": 7}, "judge.cache_dir=7"),
    ({"modle": "x"}, "judge.modle: unknown key"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_bad_values_are_refused_before_anything_is_sent(values, words):
    text = refused(**values)
    assert words in text
    assert KEY not in text


@pytest.mark.parametrize(
    "override",
    [f"judge.api_key={KEY}", f"+judge.api_key={KEY}", f"++judge.options.api_key={KEY}", f"judge={{api_key: {KEY}}}"],
)
def test_a_key_on_the_command_line_reaches_no_file_and_no_message(tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    ended = run_main(["judge=openai", override, "hydra.run.dir=run"])
    assert_refused(ended, tmp_path, ["judge.api_key: a key must not stand in the configuration"])
    assert KEY not in ended.text
    assert list(tmp_path.rglob("*")) == []


def test_the_name_of_the_variable_is_no_key():
    refuse_keys(["judge.api_key_env=OPENAI_API_KEY", "judge.api_key_env=null", "judge.model=x"])


def test_the_client_is_not_imported_before_it_is_needed():
    code = "import sys, dro_lab.run, dro_lab.judges.openai; print(sorted({'openai', 'tenacity'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ a run


@pytest.mark.slow
def test_a_training_run_goes_on_through_every_fault(tmp_path, monkeypatch):
    """Two steps under gating=rubric: every other reply is a fault, and the run ends as one that finished."""
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    faults = [fault for fault, _ in FAULTS.values()] + [Reply("I would rather not say."), Reply('{"verdict": "y')]
    lock, served = threading.Lock(), itertools.count()

    def script(request):
        with lock:
            number = next(served)
        return YES_REPLY if number % 2 else faults[number // 2 % len(faults)]

    with ScriptedServer(script) as server:
        overrides = [
            "gating=rubric",
            "judge=openai",
            f"judge.base_url={server.base_url}",
            "judge.model=scripted",
            "judge.backoff=0.001",
            "judge.max_retries=1",
        ]
        ended = run_main(small_run(policy, overrides))
        assert ended.code == 0, ended.text
        assert len(server.requests) > 2 * len(faults)
        first = len(server.requests)
        again = run_main([*small_run(policy, overrides), "hydra.run.dir=again"])
        assert again.code == 0, again.text
        # what was replied at all is not asked again; what was not, is
        assert len(server.requests) < 1.5 * first
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "gate/rejected_share" in text
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".db"]
    assert all(KEY.encode() not in file.read_bytes() for file in files)
