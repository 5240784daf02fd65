"""Every notebook runs from top to bottom on runs that are made here, and holds no outputs in git."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.analysis_fixture import learning_curve, write_run
from tests.cli_fixture import run_main, save_policy, small_run

ANALYSIS = Path(__file__).parents[2] / "analysis"
NOTEBOOKS = sorted(ANALYSIS.glob("*.ipynb"))


def test_the_notebooks_are_those_that_are_promised():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_compare_rewards",
        "02_steps_to_target",
        "03_reflective_tokens",
        "04_sweep_r3",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_git_holds_no_outputs_and_says_a_sentence_before_each_picture(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            if ".draw(" in cell.source:
                assert before is not None
                assert before.cell_type == "markdown"
                assert before.source.rstrip().endswith(".")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Small real runs for the notebooks that read what training leaves, planted ones where a target must be reached:
    a random policy of a few kilobytes never gets to one."""
    root = tmp_path_factory.mktemp("notebooks")
    policy = save_policy(root / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, overrides in {
            "runs/r3_s0": ["reward=r3"],
            "runs/r3_s1": ["reward=r3", "seed=1"],
            "runs/avg_prob_s0": ["reward=avg_prob"],
            "sweep/omega4": ["reward=r3", "reward.omega=4"],
        }.items():
            ended = run_main(small_run(policy, [*overrides, "report=false", f"hydra.run.dir={name}"]))
            assert ended.code == 0, ended.err
    shutil.copytree(root / "runs/r3_s0", root / "sweep/omega2")
    for seed in range(3):
        for reward, half in {"r3": 6.0, "avg_prob": 12.0}.items():
            curve = learning_curve(half=half + 0.4 * seed, noise=0.01, seed=seed)
            write_run(root / f"planted/{reward}_{seed}", curve, reward=reward, seed=seed)
    return {
        "01_compare_rewards": root / "runs",
        "02_steps_to_target": root / "planted",
        "03_reflective_tokens": root / "runs",
        "04_sweep_r3": root / "sweep",
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_shows_its_pictures(path, places, monkeypatch):
    monkeypatch.setenv("DRO_LAB_RUNS", str(places[path.stem]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(ANALYSIS)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    drawn = sum(cell.source.count("draw(") - cell.source.count(").frame") for cell in notebook.cells)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == drawn >= 1
    assert any("| setting |" in text or "| outcome |" in text for text in map(_markdown, outputs))


def _markdown(output: nbformat.NotebookNode) -> str:
    return str(output.get("data", {}).get("text/markdown", ""))
