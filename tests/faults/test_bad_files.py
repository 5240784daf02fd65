"""Bad files: data, checkpoints and tracking databases, each refused in one message before a run begins."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli_fixture import assert_refused, run_main, small_run

GOOD = {"prompt": "p", "reference": "r"}


pytestmark = pytest.mark.usefixtures("own_folder")


def lines(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


LONG = lines(*({"prompt": f"p{i}", "reference": "long " * 2000} for i in range(40)))
FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["d.jsonl", "is empty", "at least one row"]),
    "broken json": (lines(GOOD, "{bad"), ["d.jsonl line 2", "broken JSON", "one JSON object a line", "correct"]),
    "no prompt": (lines({"question": "q", "reference": "r"}), ["line 1", "`prompt` is missing", "question", "delete"]),
    "no reference": (lines(GOOD, {"prompt": "p2"}), ["line 2", "`reference` is missing", "delete"]),
    "empty reference": (lines({**GOOD, "reference": ""}), ["line 1", "`reference` is empty", "delete"]),
    "reference too long": (LONG, ["40 rows were refused", "too long", "> context 2048", "dro_lab.data"]),
    "not utf-8": (b'{"prompt": "caf\xe9"}', ["d.jsonl line 1", "not UTF-8", "0xe9", "iconv"]),
    "one id twice": (
        lines({**GOOD, "id": "a"}, {"prompt": "q", "reference": "r", "id": "a"}),
        ["'a'", "line 1", "line 2"],
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.tried("bad inputs")
def test_a_bad_data_file_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    content, expected = FILES[name]
    (tmp_path / "d.jsonl").write_bytes(content)
    ended = run_main(small_run(policy, ["dataset=jsonl", "dataset.source=d.jsonl"]))
    assert_refused(ended, tmp_path, expected)


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None  # type: ignore[func-returns-value]


def without_token(key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        content = json.loads(file.read_text())
        del content[key]
        file.write_text(json.dumps(content))

    return edit


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (without("config.json"), ["no config.json", "Give the folder"]),
    "no tokenizer": (without("tokenizer.json"), ["no tokenizer", "tokenizer.json", "Copy the tokenizer"]),
    "no weights": (without("model.safetensors"), ["no *.safetensors", "save_pretrained"]),
    "no chat template": (without("chat_template.jinja"), ["no chat template", "chat_template.jinja"]),
    "no pad token": (without_token("pad_token"), ["no pad token", "tokenizer_config.json"]),
    "no eos token": (without_token("eos_token"), ["no eos_token", "tokenizer_config.json"]),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), ["not a valid JSON", "damaged"]),
    "broken weights": (lambda folder: (folder / "model.safetensors").write_text("x"), ["SafetensorError", "damaged"]),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.tried("bad inputs")
def test_a_bad_checkpoint_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    damage, expected = CHECKPOINTS[name]
    folder = tmp_path / "checkpoint"
    shutil.copytree(policy, folder)
    damage(folder)
    assert_refused(run_main(small_run(folder, [])), tmp_path, [f"model.path={folder}", *expected])


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
        connection.commit()


DATABASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "not a database": (lambda path: path.write_text("plain text " * 100), ["not a database", "tracking=none"]),
    "another version": (foreign_database, ["0123456789ab", "tracking=none"]),
    "a folder": (lambda path: path.mkdir(), ["unable to open", "tracking=none"]),
}


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.tried("bad inputs")
def test_a_bad_tracking_database_is_refused(name: str, policy: Path, tmp_path: Path) -> None:
    make, expected = DATABASES[name]
    make(tmp_path / "own.db")
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    ended = run_main(small_run(policy, ["tracking=mlflow", f"tracking.uri={uri}"]))
    assert_refused(ended, tmp_path, [f"tracking.uri={uri}", *expected])


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "locked.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield path


def test_a_locked_tracking_database_is_refused(locked: Path, policy: Path, tmp_path: Path) -> None:
    overrides = ["tracking=mlflow", f"tracking.uri=sqlite:///{locked}", "tracking.lock_wait=0.1"]
    assert_refused(run_main(small_run(policy, overrides)), tmp_path, ["locked", "tracking=none"])
