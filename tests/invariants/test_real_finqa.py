"""The main job on real rows: the path works from end to end, and the output says what its numbers are worth."""

import json
import math
from pathlib import Path

import pytest

from dro_lab.build import FOREIGN_TEXT
from dro_lab.data import finqa, pararev
from dro_lab.data.metrics import numeric_accuracy, reference_overlap
from dro_lab.record.read import Run, load_run
from tests.cli_fixture import run_main

DATA = Path(__file__).parents[3] / "shared/data"
SMALL = (
    "steps=2",
    "algorithm.num_generations=2",
    "algorithm.per_device_train_batch_size=4",
    "evaluation.prompts=2",
    "evaluation.samples=2",
    "evaluation.every=2",
    "dataset.sizes={train: 8, validation: 4, test: 0}",
    "tracking=none",
    "threads=1",
    "hydra.run.dir=run",
    "outputs=outputs",
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_on(source: Path, *overrides: str) -> tuple[Run, str]:
    if not source.exists():
        pytest.skip(f"no {source}: real rows are not shipped with the project")
    ended = run_main([f"dataset.source={source}", *overrides, *SMALL])
    assert ended.code == 0, ended.err
    assert ended.err == ""
    return load_run(Path("run"), require_finished=True), ended.out


def assert_sound(run: Run, metric: str) -> None:
    """Two steps and two evaluations with finite losses, rewards in [0, 1] and a quality that was computed."""
    assert list(run.metrics["step"]) == [1, 2]
    assert run.metrics["loss"].map(math.isfinite).all()
    assert run.metrics["grad_norm"].map(math.isfinite).all()
    assert len(run.rollouts) == 8
    assert run.rollouts["reward"].between(0, 1).all()
    assert run.rollouts["completion_tokens"].between(1, 96).all()
    assert run.summary["metric"] == metric
    for key in ("before", "after"):
        estimate = run.summary[key]
        assert 0 <= estimate["value"] <= 1
        assert estimate["n"] == 2


def assert_says_what_it_is_worth(run: Run, out: str) -> None:
    assert FOREIGN_TEXT in " ".join(out.split())
    assert FOREIGN_TEXT in run.summary["notes"]
    assert FOREIGN_TEXT in (run.folder / "report.html").read_text()


@pytest.mark.slow
def test_the_main_job_runs_on_real_finqa_rows() -> None:
    source = DATA / "finqa"
    run, out = run_on(source, "dataset=finqa", "dataset.max_prompt_chars=1000")
    assert_sound(run, "accuracy")
    assert_says_what_it_is_worth(run, out)
    assert f"finqa (file: {source}" in out
    written = json.loads((source / "official_schema_train_100.json").read_text())
    questions = {row["qa"]["question"] for row in written}
    assert all(any(question in prompt for question in questions) for prompt in run.rollouts["prompt"])
    assert run.summary["provenance"]["sha256"]


@pytest.mark.long
def test_32_real_rows_are_sampled_scored_gated_and_filtered() -> None:
    """The whole pipeline with every part on: each of 32 rows, chosen by the hash of its id, is sampled twice."""
    source = DATA / "finqa"
    chosen = {"dataset.sizes": "{train: 32, validation: 4, test: 0}", "steps": "8"}
    chosen |= {"algorithm.per_device_train_batch_size": "8", "evaluation.every": "8"}
    settings = [f"{key}={chosen.get(key, value)}" for key, value in (item.split("=", 1) for item in SMALL)]
    parts = ["reward=r3", "gating=rubric", "filtering=r3_variance", "judge=exact", "dataset.max_prompt_chars=1000"]
    if not source.exists():
        pytest.skip(f"no {source}: real rows are not shipped with the project")
    ended = run_main(["dataset=finqa", f"dataset.source={source}", *parts, *settings])
    assert ended.code == 0, ended.err
    run = load_run(Path("run"), require_finished=True)
    rows = {row.id: row for row in finqa.load(source=str(source), max_prompt_chars=1000).splits["train"]}
    assert len(run.rollouts) == 64
    assert run.rollouts["prompt_id"].nunique() == 32
    assert set(run.rollouts["prompt_id"]) <= set(rows)
    assert run.rollouts["reward"].between(0, 1).all()
    for rollout in run.rollouts.itertuples():
        assert rollout.reference == rows[rollout.prompt_id].reference
        assert rollout.quality == numeric_accuracy(rollout.answer, rows[rollout.prompt_id])
    assert list(run.metrics["step"]) == list(range(1, 9))
    # a policy that knows nothing of the text states no number with the right sign and unit: the gate says so
    assert not run.rollouts["kept"].all()
    assert "prompts were cut to dataset.max_prompt_chars" in ended.out


@pytest.mark.slow
def test_the_main_job_runs_on_real_pararev_rows() -> None:
    source = DATA / "pararev/parareval_second_annotation.jsonl"
    run, out = run_on(source, "dataset=pararev")
    assert_sound(run, "reference_overlap")
    assert_says_what_it_is_worth(run, out)
    references = {json.loads(line)["reference_paragraph"] for line in source.read_text().splitlines()}
    assert set(run.rollouts["reference"]) <= references
    assert run.summary["refused_rows"] > 0
    assert f"{run.summary['refused_rows']} rows were refused" in out


@pytest.mark.long
def test_32_real_pararev_rows_are_sampled_scored_and_filtered() -> None:
    """Each of 32 rows, chosen by the hash of its id, is sampled twice; the rows carry no rubric to gate by."""
    source = DATA / "pararev/parareval_second_annotation.jsonl"
    chosen = {"dataset.sizes": "{train: 32, validation: 4, test: 0}", "steps": "8", "evaluation.every": "8"}
    chosen |= {"algorithm.per_device_train_batch_size": "8"}
    settings = [f"{key}={chosen.get(key, value)}" for key, value in (item.split("=", 1) for item in SMALL)]
    if not source.exists():
        pytest.skip(f"no {source}: real rows are not shipped with the project")
    ended = run_main(
        ["dataset=pararev", f"dataset.source={source}", "filtering=r3_variance", "filtering.tau=0.001", *settings]
    )
    assert ended.code == 0, ended.err
    run = load_run(Path("run"), require_finished=True)
    rows = {row.id: row for row in pararev.load(source=str(source)).splits["train"]}
    assert len(run.rollouts) == 64
    assert run.rollouts["prompt_id"].nunique() == 32
    assert run.rollouts["reward"].between(0, 1).all()
    for rollout in run.rollouts.itertuples():
        assert rollout.reference == rows[rollout.prompt_id].reference
        assert rollout.quality == pytest.approx(reference_overlap(rollout.answer, rows[rollout.prompt_id]))
    assert list(run.metrics["step"]) == list(range(1, 9))


def test_a_trained_copy_of_the_shipped_policy_knows_no_more(tmp_path: Path) -> None:
    """The note follows the vocabulary, not the folder's name; on the twin there is no such note."""
    ended = run_main(["steps=1", *SMALL[1:]])
    assert ended.code == 0, ended.err
    assert FOREIGN_TEXT not in ended.out
    rows = [{"prompt": f"Say {i}.", "reference": f"It is {i}."} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = ["dataset=jsonl", "dataset.source=own.jsonl", "model.path=run/policy", "steps=0", *SMALL[1:]]
    again = run_main([*(item for item in own if not item.startswith("hydra.run.dir")), "hydra.run.dir=again"])
    assert again.code == 0, again.err
    assert FOREIGN_TEXT in " ".join(again.out.split())
