"""What the README says to type is run as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
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
