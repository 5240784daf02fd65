"""No key reaches what a run leaves: its folder, MLflow, reports, logs, error texts, what it prints."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dro_lab.errors import UserError
from dro_lab.judges.keys import refuse_keys
from dro_lab.record.read import load_run
from dro_lab.secrets import HidingFormatter, hide, refuse_recorded, refuse_secrets, secrets
from tests.cli_fixture import Ended, run_main, save_policy, small_run
from tests.openai_server import Reply, ScriptedServer, json_reply
from tests.tracking_fixture import empty_database

KEYS = {
    "OPENAI_API_KEY": "sk-planted-0123456789",
    "HF_TOKEN": "hf_plantedABCDEFGH",
    "MLFLOW_TRACKING_PASSWORD": "planted-pass-word",
    "MY_SERVICE_SECRET": "planted-secret-4711",
    "PGPASSWORD": "planted-postgres-pass",
    "OPENAI_APIKEY": "sk-planted-without-a-line",
}
R3_KEYS = ("weighting", "omega", "clip_low", "clip_high", "sigma_on", "include_eos")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def holding(folder: Path, keys: Mapping[str, str] = KEYS) -> list[str]:
    """The files below ``folder`` that hold a key, tables read as tables since their bytes are compressed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        found += [f"{path.relative_to(folder)}: {name}" for name, key in keys.items() if key.encode() in content]
    return found


def assert_nothing_leaked(folder: Path, ended: Ended) -> None:
    assert holding(folder) == []
    for name, key in KEYS.items():
        assert key not in ended.text, name


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "a").mkdir()
    (tmp_path / "a/log").write_bytes(b"\x00" + KEYS["HF_TOKEN"].encode() + b"\xff")
    frame = pd.DataFrame({"text": ["x" * 1000, KEYS["OPENAI_API_KEY"]] * 50})
    frame.to_parquet(tmp_path / "t.parquet", compression="zstd")
    assert holding(tmp_path) == ["a/log: HF_TOKEN", "t.parquet: OPENAI_API_KEY"]


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.slow
def test_a_whole_run_leaves_no_key(policy: Path, tmp_path: Path) -> None:
    """With MLflow, a report, and a judge that answers, fails with the key in its words, and answers again."""
    empty_database(tmp_path / "outputs")
    asked = iter(range(10**6))

    def script(request: Mapping[str, Any]) -> Reply:
        number = next(asked)
        if number % 5 == 3:
            return Reply(f"no quota for key {KEYS['OPENAI_API_KEY']}", status=429, headers={"Retry-After": "0"})
        if number % 5 == 4:
            return Reply(f"{KEYS['OPENAI_API_KEY']} may not do this", status=403)
        return (
            json_reply(better="A") if "better" in json.dumps(request["response_format"]) else json_reply(verdict="yes")
        )

    with ScriptedServer(script) as server:
        judge = ["judge=openai", f"judge.base_url={server.base_url}", "judge.model=scripted", "judge.max_retries=1"]
        ended = run_main(small_run(policy, ["tracking=mlflow", "gating=rubric", *judge, "steps=1"]))
        assert server.headers[0]["authorization"] == f"Bearer {KEYS['OPENAI_API_KEY']}", "the key was in use"
    assert ended.code == 0, ended.err
    assert "may not do this" in ended.text or "no quota" in ended.text, "the endpoint's words were shown"
    assert "***" in ended.text
    found = load_run(tmp_path / "run", require_finished=True)
    assert found.summary["judge_counts"]["failures/refused"] > 0
    assert (tmp_path / "run/report.html").exists()
    assert (tmp_path / "outputs/mlflow-artifacts").is_dir()
    assert_nothing_leaked(tmp_path, ended)


@pytest.mark.slow
def test_a_crash_with_keys_in_its_words_leaves_none(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_database(tmp_path / "outputs")
    code = tmp_path / "code"
    code.mkdir()
    (code / "careless.py").write_text(
        "import logging, os\n\n\ndef reward(groups, stats):\n"
        "    token = os.environ['HF_TOKEN']\n"
        "    logging.getLogger('careless').warning('asking with %s', token)\n"
        "    raise RuntimeError(f'https://me:{os.environ[\"MLFLOW_TRACKING_PASSWORD\"]}@host refused {token}')\n"
    )
    monkeypatch.syspath_prepend(str(code))
    reward = ["reward._target_=careless.reward", *(f"~reward.{key}" for key in R3_KEYS)]
    ended = run_main(small_run(policy, ["tracking=mlflow", *reward]))
    assert ended.code == 1
    assert "RuntimeError: https://***@host refused ***" in ended.err
    found = load_run(tmp_path / "run")
    assert found.summary["status"] == "failed"
    assert found.summary["error"] == "RuntimeError: https://***@host refused ***"
    assert "WARNING careless: asking with ***" in (tmp_path / "run/run.log").read_text()
    assert_nothing_leaked(tmp_path, ended)


# ------------------------------------------------------------------------------------------------ ways to give one

LITERAL = "sk-literal-9876543210"
"""A key that stands in no variable."""

OVERRIDES = [
    "judge.api_key={OPENAI_API_KEY}",
    f"+judge.options.api_key={LITERAL}",
    "+judge.options.headers={{Authorization: Bearer {OPENAI_API_KEY}}}",
    "model.path={HF_TOKEN}",
    "+reward.note=see-{MY_SERVICE_SECRET}-there",
    "tracking.uri=http://me:{MLFLOW_TRACKING_PASSWORD}@localhost:5000",
    f"tracking.uri=http://me:{LITERAL}@localhost:5000",
    f"tracking.uri=mysql+pymysql://me:{LITERAL}@localhost/db",
    f"dataset.source=https://me:{LITERAL}@host/rows.jsonl",
    f"+hydra.job.env_set.HF_TOKEN={LITERAL}",
    "+hydra.job.env_set={{OPENAI_API_KEY: {OPENAI_API_KEY}}}",
    "outputs=out-{HF_TOKEN}",
    f"+algorithm.hub_token={LITERAL}",
    f"+algorithm.push_to_hub_token={LITERAL}",
    f"+model.api_key={LITERAL}",
    f"+tracking.password={LITERAL}",
    "+reward.note=sk-literal-9876543210-of-a-known-shape",
]


@pytest.mark.parametrize("grid", [False, True], ids=["run", "multirun"])
@pytest.mark.parametrize("override", OVERRIDES)
@pytest.mark.tried("bad inputs")
def test_a_key_on_the_command_line_is_refused_before_anything_is_written(
    tmp_path: Path, override: str, grid: bool
) -> None:
    given = override.format(**KEYS)
    assert_refused_unseen(tmp_path, run_main([*(["--multirun"] if grid else []), given, "seed=1"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (f"+model.api_key={LITERAL}", "model.api_key: "),
        (f"judge.api_key={LITERAL}", "judge.api_key: "),
        (f"judge={{api_key: {LITERAL}}}", "judge.api_key: "),
        (f"+algorithm.hub_token={LITERAL}", "algorithm.hub_token: "),
        ("+algorithm.note=hf_abcdefghijklmnop1234567890", "algorithm.note: "),
    ],
)
def test_the_message_names_the_key_that_was_given(override: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse_keys([override])
    assert str(refused.value).startswith(named)
    assert LITERAL not in str(refused.value)


@pytest.mark.parametrize(
    "override", ["+model.eos_token=<end>", "+algorithm.hub_token=null", "judge.max_tokens=64", "model.path=a/hf_models"]
)
def test_what_only_sounds_like_a_key_is_none(override: str) -> None:
    refuse_keys([override])


def assert_refused_unseen(folder: Path, ended: Ended) -> None:
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert LITERAL not in ended.text
    assert holding(folder, KEYS | {"literal": LITERAL}) == []
    assert_nothing_leaked(folder, ended)


FILES = [
    ("judge: {api_key: " + LITERAL + "}", "judge.api_key: must not hold a key"),
    ("judge: {options: {headers: {Authorization: Bearer " + LITERAL + "}}}", "judge.options.headers.Authorization:"),
    ("tracking: {uri: 'http://me:" + LITERAL + "@localhost'}", "tracking.uri: must not hold a key"),
    ("reward: {note: '${oc.env:MY_SERVICE_SECRET}'}", "reward.note: must not hold a key"),
    ("dataset: {twin: {preset: '${oc.env:HF_TOKEN}'}}", "dataset.twin.preset: must not hold a key"),
]


@pytest.fixture
def files() -> Iterator[Path]:
    """A folder for configurations of the user's own, away from what the run may write to."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiments").mkdir()
        yield Path(folder)


@pytest.mark.parametrize("grid", [False, True], ids=["run", "multirun"])
@pytest.mark.parametrize(("text", "said"), FILES, ids=[said for _, said in FILES])
@pytest.mark.tried("bad inputs")
def test_a_key_in_a_file_of_the_users_is_not_copied(
    tmp_path: Path, files: Path, text: str, said: str, grid: bool
) -> None:
    (files / "experiments/mine.yaml").write_text(f"# @package _global_\n{text}\n")
    arguments = ["--config-dir", str(files), "+experiments=mine", "hydra.run.dir=run", "hydra.sweep.dir=grid"]
    ended = run_main([*(["--multirun"] if grid else []), *arguments])
    assert said in ended.err
    assert_refused_unseen(tmp_path, ended)


@pytest.mark.parametrize("module", ["data", "probe", "rubrics", "prefilter", "judge_audit", "plan", "sync"])
@pytest.mark.tried("bad inputs")
def test_every_command_refuses_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    import importlib
    import sys

    given = [f"judge.api_key={KEYS['OPENAI_API_KEY']}", f"model.path={KEYS['HF_TOKEN']}"]
    monkeypatch.setattr(sys, "argv", [f"dro_lab.{module}", *given])
    name = "dro_lab.sync" if module == "sync" else f"dro_lab.{module}.__main__"
    found = importlib.import_module(name)
    try:
        code = found.main()
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.startswith("error: ")
    assert all(key not in said.out + said.err for key in KEYS.values())
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ the parts


def test_what_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKENIZERS_PARALLELISM", "MONKEY_BUSINESS", "KEYBOARD", "SECRETARY_NAME"):
        monkeypatch.setenv(name, "no-secret-at-all")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("KEY_FILE", "/home/me/key.pem")
    found = secrets()
    assert set(KEYS.values()) <= set(found)
    assert not {"no-secret-at-all", "abc", "/home/me/key.pem"} & set(found)


def test_a_secret_within_another_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "12345678")
    monkeypatch.setenv("B_KEY", "12345678-long")
    assert hide("x 12345678-long y 12345678 z") == "x *** y *** z"
    assert hide("http://u:p@h/a and mysql+pymysql://u:p%40@h") == "http://***@h/a and mysql+pymysql://***@h"
    plain = "http://host:80/path@x, a@b, 12:30, s3://bucket/key"
    assert hide(plain) == plain


def test_a_log_line_and_its_traceback_are_hidden() -> None:
    try:
        raise ValueError(KEYS["HF_TOKEN"])
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 1, "with %s", (KEYS["OPENAI_API_KEY"],), (type(error), error, error.__traceback__)
        )
    text = HidingFormatter(logging.Formatter("%(name)s: %(message)s")).format(record)
    assert text.startswith("x: with ***\n")
    assert text.endswith("ValueError: ***")


def test_what_only_sounds_like_a_key_is_taken() -> None:
    refuse_secrets(["judge.api_key_env=OPENAI_API_KEY", "reward.key=a", "dataset.source=/data/key.jsonl", "x=a@b:c"])
    fine = {
        "judge": {"api_key_env": "OPENAI_API_KEY", "api_key": None, "password": ""},
        "list": ["key", {"a": "token"}],
    }
    refuse_recorded(fine)
    with pytest.raises(UserError, match=r"^list\.1\.a: must not hold a key"):
        refuse_recorded({"list": ["x", {"a": KEYS["HF_TOKEN"]}]})
