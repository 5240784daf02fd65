"""Data and model text are text: they name no file, call no code, and style nothing."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dro_lab.console import RunConsole
from dro_lab.data.__main__ import main as data_main
from dro_lab.record.read import load_run
from tests.cli_fixture import run_main, save_policy, small_run

ROOT = Path(__file__).parents[2]
MARKUP = "[bold red]loud[/bold red] [/] [link=http://x]click[/link] \\[bold]x"
CALL = {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["pwned"]}]}
IDS = ["../../escape", "/escape/absolute", "..", "a/b/c", "C:\\escape", "~/escape", "$HOME/escape", "\N{BULLET}escape"]


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows whose every value asks for what it may not have, and a policy beside it."""
    folder = tmp_path_factory.mktemp("evil")
    rows = [
        {
            "id": name if half else f"{name}/",
            "prompt": [{"role": "user", "content": f"${{oc.env:HOME}} {MARKUP} {half}"}],
            "reference": f"{MARKUP} the answer is {half}",
            "split": ("validation", "train")[(number + half) % 2],
            "path": f"../../{name}",
            "extra": CALL,
            "rubric": [{"text": f"{MARKUP}: is it {half}?", "weight": 1.0, "expect": "yes"}],
            **CALL,
        }
        for number, name in enumerate(IDS)
        for half in (0, 1)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_policy(folder / "policy")
    return folder


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_run_on_such_rows_writes_into_its_folder_alone_and_calls_nothing(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "deep/er/work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    before = tree(evil)
    given = ["dataset=jsonl", f"dataset.source={evil}/rows.jsonl", "outputs=outputs", "steps=1"]
    ended = run_main(small_run(evil / "policy", given))
    assert ended.code == 0, ended.err
    assert {path.split("/")[0] for path in tree(work)} <= {"run", "outputs"}
    assert {path for path in tree(tmp_path) if not path.startswith("deep/er/work/")} == {
        "deep",
        "deep/er",
        "deep/er/work",
    }
    assert tree(evil) == before
    assert not any(path.exists() for path in (Path("/escape"), Path.home() / "escape"))
    found = load_run(work / "run", require_finished=True)
    assert set(found.answers["prompt_id"]) & set(IDS), "such rows were used"
    assert all("${oc.env:HOME}" in text for text in found.rollouts["prompt"]), "nothing was interpolated"
    assert not [path for path in tree(work) if "escape" in path or "pwned" in path]


def test_the_data_command_shows_text_as_it_stands(
    evil: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(evil)
    code = data_main(["dataset=jsonl", "dataset.source=rows.jsonl", f"model.path={evil}/policy"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.out.count(MARKUP) >= 3, "prompt, reference and rubric"
    assert "${oc.env:HOME}" in said.out
    assert "pwned" not in tree(evil)


@settings(max_examples=40)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"]), max_size=60)
)
@example(MARKUP)
@example("\\[bold]x")
@example("[/]")
def test_a_warning_is_printed_as_it_stands(text: str) -> None:
    stream = io.StringIO()
    console = RunConsole(Console(file=stream, highlight=False, soft_wrap=True, width=10_000))
    console.warn(text)
    console.say(text)
    assert stream.getvalue() == f"warning: {text}\n{text}\n"


def test_every_template_escapes() -> None:
    environments = 0
    for path in [*(ROOT / "dro_lab").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                environments += 1
                assert "autoescape=True" in ast.unparse(node), path
    assert environments >= 2
    templates = list((ROOT / "dro_lab").rglob("*.html.j2"))
    assert len(templates) >= 4
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape", text), path
