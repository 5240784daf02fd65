"""judge=openai over a scripted server, for the tests of its faults."""

import re

from dro_lab.judges.endpoint import Endpoint, Settings
from dro_lab.judges.openai import OpenAIJudge
from dro_lab.judges.protocol import Question
from dro_lab.types import Check, Provenance, Row, Task
from tests.openai_server import Reply, json_reply

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
