"""What the README says to type is run as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dro_lab.record.read import load_run

README = Path(__file__).parents[2] / "README.md"


def block(name: str) -> str:
    """The bash block between ``<!-- name -->`` and ``<!-- /name -->``."""
    found = re.search(rf"<!-- {name} -->\s*```bash\n(.*?)```\s*<!-- /{name} -->", README.read_text(), re.DOTALL)
    assert found, f"README.md has no block {name}"
    return found.group(1)


@pytest.mark.long
def test_a_users_own_reward_runs_as_the_readme_shows(tmp_path):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euc", block("own-reward")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*_top_sigma_pararev_s0")
    run = load_run(folder, require_finished=True)
    assert run.summary["reward"] == "top_sigma"
    assert len(run.metrics) == 2
    assert run.rollouts["reward"].between(0, 1).all()
    assert run.rollouts.groupby(["step", "prompt_id"])["reward"].std().max() > 0.01


def test_the_readme_holds_no_unfilled_place():
    assert "@@" not in README.read_text()


def test_every_path_that_the_readme_links_to_is_there():
    text = README.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert len(links) > 5
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_every_module_that_the_pages_say_to_run_is_there():
    pages = [README, *README.parent.glob("experiments/**/README.md"), *README.parent.glob("dro_lab/**/README.md")]
    modules = {found for page in pages for found in re.findall(r"python -m ([\w.]+\w)", page.read_text())}
    modules.discard("experiments.NAME.study")
    assert len(modules) > 15
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_the_page_of_studies_names_every_study():
    folder = README.parent / "experiments"
    listed = re.findall(r"^\| \[`(\w+)`\]\(\1/README.md\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.parent.name for page in folder.glob("*/README.md"))


COMPOSED = ("run", "launch", "rubrics", "prefilter", "probe", "data")
"""Commands whose arguments are overrides of the configuration."""
OWN = ("out=", "n=", "group=", "--", "run=", "limit=", "uri=")
"""Arguments that are the command's own."""


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Module and arguments of every command of these in the README's bash blocks, each once."""
    found = []
    page = README.read_text().replace(block("own-reward"), "")  # which runs above
    for text in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2].removeprefix("dro_lab.") in COMPOSED:
                found.append((words[2], tuple(words[3:])))
    return list(dict.fromkeys(found))


def as_typed(argument: str) -> str:
    """With values in the places that the reader fills, and the first of several values."""
    for place, value in {"=N": "=0", "NODE0": "127.0.0.1", "<date>": "today", "<run>": "mine"}.items():
        argument = argument.replace(place, value)
    key, _, value = argument.partition("=")
    return f"{key}={value.split(',')[0]}" if re.fullmatch(r"[\w.]+(,[\w.]+)+", value) else argument


@pytest.mark.long
def test_every_command_of_the_readme_is_a_configuration_that_passes_its_check():
    from dro_lab.config import check
    from dro_lab.data.__main__ import compose
    from dro_lab.sweep.plugin import register

    register()
    there = commands()
    assert len(there) > 20
    bigger = [arguments for module, arguments in there if module == "dro_lab.launch"]
    assert len(bigger) == 5, "the commands for several processes"
    for _, arguments in there:
        overrides = [as_typed(argument) for argument in arguments if not argument.startswith(OWN)]
        check(compose([override for override in overrides if "=" in override]))
