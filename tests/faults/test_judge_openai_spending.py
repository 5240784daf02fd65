"""What judge=openai asks and spends: concurrency, the cache, the limits in requests and tokens."""

import pytest

from dro_lab.errors import UserError
from dro_lab.judges.endpoint import Call, Endpoint, Settings
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from tests.openai_judge_fixture import YES_REPLY, by_answer, judge, questions, settings
from tests.openai_server import Reply, ScriptedServer

pytestmark = pytest.mark.usefixtures("openai_key")


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
@pytest.mark.tried("faults")
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
