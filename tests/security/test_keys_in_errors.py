"""Error texts are cut to a length: a key that lies across the cut must not lose its end, and so not be known any more.

And variables that hold a key under another name than the usual ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx2
import openai
import pytest

from dro_lab.data import hub
from dro_lab.errors import UserError
from dro_lab.judges import faults
from dro_lab.models import _unloadable
from dro_lab.resume.checkpoint import Checkpoints
from dro_lab.resume.disk import cannot_go_on
from dro_lab.run import _refuse
from dro_lab.scoring.vllm_engine import CannotScoreError, Colocated, Served, Text
from dro_lab.secrets import beginning, hide, refuse_recorded, refuse_secrets, secrets
from dro_lab.sweep.storage import refused
from tests.cli_fixture import run_main, save_policy, small_run
from tests.openai_server import Reply, ScriptedServer, json_reply

KEY = "Zq7vJx0wLk3mTb9yRd5nHc1pGf8s"
PIECES = [KEY[start : start + 6] for start in range(len(KEY) - 5)]
QUOTED = KEY * 40
"""Wherever a text is cut within these 1120 characters, the cut lies in a key, or between two."""


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def leaked(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text]


# ------------------------------------------------------------------------------------------------ texts that are cut


def _of_a_judge(kind: str, text: str) -> str:
    request = httpx2.Request("POST", "http://host/v1")
    response = httpx2.Response(403, request=request)
    error = {
        "status": openai.APIStatusError(text, response=response, body=None),
        "connection": openai.APIConnectionError(message=text, request=request),
        "body": ValueError(text),
    }[kind]
    return str(faults.failed(error, base_url="http://host/v1", model="m"))


def _of_the_hub(text: str) -> str:
    with patch("huggingface_hub.HfApi.dataset_info", side_effect=OSError(text)):
        return _raised(lambda: hub._commit("owner/name", "main", has_twin=True))


def _of_an_engine(text: str) -> str:
    def generate(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    size = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100))
    llm = SimpleNamespace(generate=generate, llm_engine=size)
    with patch.dict("sys.modules", vllm=SimpleNamespace(SamplingParams=dict)):
        return _raised(lambda: Colocated(llm).score([Text((1, 2, 3), 1)]))


def _of_a_server(text: str) -> str:
    with patch.object(Served, "_request", side_effect=OSError(text)):
        return _raised(lambda: Served("http://host").score([Text((1, 2, 3), 1)]))


def _raised(call: Callable[[], Any]) -> str:
    with pytest.raises((UserError, CannotScoreError)) as caught:
        call()
    return str(caught.value)


PLACES: dict[str, Callable[[str], str]] = {
    "judge, a status": lambda text: _of_a_judge("status", text),
    "judge, no connection": lambda text: _of_a_judge("connection", text),
    "judge, half a body": lambda text: _of_a_judge("body", text),
    "policy": lambda text: str(_unloadable(SimpleNamespace(path="p", local=True), OSError(text))),
    "hub": _of_the_hub,
    "storage of a search": lambda text: str(refused("sqlite:///x.db", OSError(text))),
    "checkpoint": lambda text: Checkpoints(Path())._refusal(2, Path("step-2"), RuntimeError(text)),
    "disk": lambda text: str(cannot_go_on(Path("run"), RuntimeError(text))),
    "vllm in this process": _of_an_engine,
    "vllm server": _of_a_server,
}


@pytest.mark.parametrize("place", PLACES)
def test_no_piece_of_a_key_is_left_where_a_text_is_cut(place: str) -> None:
    plain = "the service answered so and did not say why, at length: " + "word " * 300
    assert "the service answered so" in PLACES[place](plain), "what was said is shown"
    assert len(PLACES[place](plain)) < 800, "and cut"
    assert leaked(PLACES[place](f"the service quotes {QUOTED}")) == []


def test_hidden_first_then_cut() -> None:
    assert beginning(f"key {KEY} of {KEY}", 12) == "key *** of *"


# ------------------------------------------------------------------------------------------------ whole commands


@pytest.mark.long
def test_an_endpoint_that_quotes_a_key_across_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key stands in a variable whose name does not say so, and is known by ``judge.api_key_env`` alone."""
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("JUDGE_LOGIN", KEY)
    asked = iter(range(10**6))

    def script(request: Mapping[str, Any]) -> Reply:
        if next(asked) % 3 == 2:
            return Reply(f"no: {QUOTED}", status=403)
        return (
            json_reply(better="A") if "better" in json.dumps(request["response_format"]) else json_reply(verdict="yes")
        )

    policy = save_policy(tmp_path.parent / f"{tmp_path.name}_tiny")
    with ScriptedServer(script) as server:
        judge = ["judge=openai", f"judge.base_url={server.base_url}", "judge.model=scripted", "judge.max_retries=0"]
        given = [*judge, "judge.api_key_env=JUDGE_LOGIN", "gating=rubric", "steps=1"]
        ended = run_main(small_run(policy, given))
        assert server.headers[0]["authorization"] == f"Bearer {KEY}", "the key was in use"
    assert ended.code == 0, ended.err
    assert "no: ***" in ended.text
    assert leaked(ended.text) == []
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if leaked(path.read_bytes().decode("latin-1"))] == []


def test_a_refusal_shows_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _refuse(f"somebody said {QUOTED}")
    assert leaked(capsys.readouterr().err) == []


def test_a_run_that_is_refused_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a part that knows nothing of keys."""

    def careless(*_: Any, **__: Any) -> None:
        raise UserError(f"tracking.uri: the server said {KEY}")

    monkeypatch.setattr("dro_lab.run.check", careless)
    ended = run_main(["outputs=outputs", "tracking=none"])
    assert ended.code == 2
    assert ended.err == "error: tracking.uri: the server said ***\n"


# ------------------------------------------------------------------------------------------------ names of variables

NAMES = (
    *("PGPASSWORD", "OPENAI_APIKEY", "AZURE_OPENAI_APIKEY_2", "OPENAI_API_KEY_2", "OPENAI_API_KEY2", "MYSQL_PWD"),
    *("REGISTRY_PASSWD", "SMTP_PASS", "AWS_SECRET_ACCESS_KEY", "GITHUBTOKEN", "hf_token", "DB_PASSWORDS", "apikey"),
    *("MY_CREDENTIALS", "CLIENTSECRET"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_is_named_like_a_secret_is_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert hide(KEY) == KEY
    monkeypatch.setenv(name, KEY)
    assert hide(f"a {KEY} b") == "a *** b"
    with pytest.raises(UserError, match="must not hold a key"):
        refuse_secrets([f"reward.note={KEY}"])


@pytest.mark.parametrize("name", ["COMPASS", "BYPASS_ALL", "MONKEYS", "TURKEY", "PASSAGE", "KEYWORDS", "TOKENIZER"])
def test_a_variable_that_is_not_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv(name, KEY)
    assert KEY not in secrets()


def test_the_variable_that_the_configuration_names_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    for name in ("LOGIN_A", "LOGIN_B"):
        monkeypatch.setenv(name, f"{KEY}-{name}")
    config = {"judge": {"api_key_env": "LOGIN_A"}, "reward": {"note": f"{KEY}-LOGIN_A"}}
    with pytest.raises(UserError, match=r"^reward\.note: must not hold a key"):
        refuse_recorded(config)
    with pytest.raises(UserError, match=r"^reward\.note: must not hold a key"):
        refuse_secrets([f"reward.note={KEY}-LOGIN_B", "judge.api_key_env=LOGIN_B"])
    assert hide(f"{KEY}-LOGIN_A {KEY}-LOGIN_B") == "*** ***"
