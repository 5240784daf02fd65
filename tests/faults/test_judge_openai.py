"""judge=openai against a real server on loopback that does everything wrong: nothing is lost, nothing is guessed."""

import itertools
import json
import threading

import pytest

from dro_lab.judges.endpoint import Call, Endpoint
from dro_lab.judges.faults import retry_after
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from tests.cli_fixture import run_main, save_policy, small_run
from tests.openai_judge_fixture import (
    FAULTS,
    KEY,
    YES_REPLY,
    answer_of,
    by_answer,
    judge,
    questions,
    settings,
)
from tests.openai_server import Reply, ScriptedServer

pytestmark = pytest.mark.usefixtures("openai_key")


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.tried("faults")
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
@pytest.mark.tried("faults")
def test_a_fault_that_stays_makes_this_verdict_unknown_and_no_other(name):
    fault, kind = FAULTS[name]
    with ScriptedServer(lambda request: fault if answer_of(request) == "bad" else by_answer(request)) as server:
        made = judge(server)
        assert made.verdicts(questions("y1", "bad", "n1", "y2")) == [YES, UNKNOWN, NO, YES]
        metrics = made.metrics()
    assert (metrics["requests"], metrics["retries"], metrics["unanswered"]) == (3 + 3, 2, 1)
    assert (metrics["verdicts"], metrics["unknown_verdicts"]) == (4, 1)
    assert metrics[f"failures/{kind}"] == 3


@pytest.mark.tried("faults")
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


@pytest.mark.long
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
