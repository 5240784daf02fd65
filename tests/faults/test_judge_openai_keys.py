"""Keys and first errors of judge=openai: told before any weight is loaded, and no key is kept or shown."""

import json
import socket
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from dro_lab.components import component
from dro_lab.errors import UserError
from dro_lab.judges.keys import refuse_keys
from dro_lab.judges.openai import OpenAIJudge
from dro_lab.judges.protocol import UNKNOWN, YES
from dro_lab.types import Need, Stat
from tests.cli_fixture import assert_refused, run_main
from tests.openai_judge_fixture import KEY, TASK, YES_REPLY, judge, questions
from tests.openai_server import Reply, ScriptedServer

pytestmark = pytest.mark.usefixtures("openai_key")


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
@pytest.mark.tried("bad inputs")
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
@pytest.mark.tried("bad inputs")
def test_bad_values_are_refused_before_anything_is_sent(values, words):
    text = refused(**values)
    assert words in text
    assert KEY not in text


@pytest.mark.parametrize(
    "override",
    [f"judge.api_key={KEY}", f"+judge.api_key={KEY}", f"++judge.options.api_key={KEY}", f"judge={{api_key: {KEY}}}"],
)
@pytest.mark.tried("bad inputs")
def test_a_key_on_the_command_line_reaches_no_file_and_no_message(tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    ended = run_main(["judge=openai", override, "hydra.run.dir=run"])
    named = "judge.options.api_key" if "options" in override else "judge.api_key"
    assert_refused(ended, tmp_path, [f"{named}: a key must not stand in the configuration"])
    assert KEY not in ended.text
    assert list(tmp_path.rglob("*")) == []


def test_the_name_of_the_variable_is_no_key():
    refuse_keys(["judge.api_key_env=OPENAI_API_KEY", "judge.api_key_env=null", "judge.model=x"])


def test_the_client_is_not_imported_before_it_is_needed():
    code = "import sys, dro_lab.run, dro_lab.judges.openai; print(sorted({'openai', 'tenacity'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
