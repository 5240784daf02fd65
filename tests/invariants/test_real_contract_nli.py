"""ContractNLI's published rows: all are prompted and graded, and the shipped policy runs on them from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dro_lab.build import FOREIGN_TEXT
from dro_lab.data import contract_nli
from dro_lab.data.contract_nli_answer import LABELS, write
from dro_lab.gating import schema as schema_gate
from dro_lab.record.read import load_run
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Row, Task
from tests.cli_fixture import run_main

DATA = Path(__file__).resolve().parents[3] / "shared/data/contract_nli"
PUBLISHED = {"train": ("train_first50docs.json", 50, 850), "validation": ("dev.json", 61, 1037)}


@pytest.fixture(scope="module")
def folder() -> Path:
    if not DATA.exists():
        pytest.skip(f"no {DATA}: real rows are not shipped with the project")
    return DATA


@pytest.fixture(scope="module")
def cut(folder: Path) -> Task:
    return contract_nli.load(source=str(folder))


def all_rows(task: Task) -> list[Row]:
    return [row for part in task.splits.values() for row in part]


def test_every_published_pair_is_read_and_prompted(cut: Task, folder: Path) -> None:
    assert not cut.refused
    for split, (name, documents, pairs) in PUBLISHED.items():
        rows = cut.splits[split]
        assert len(rows) == pairs
        assert len({row.columns["document_id"] for row in rows}) == documents
        published = json.loads((folder / name).read_text(encoding="utf-8"))
        known = {
            f"{document['id']}/{key}": (annotation["choice"], sorted(set(annotation["spans"])))
            for document in published["documents"]
            for key, annotation in document["annotation_sets"][0]["annotations"].items()
        }
        assert {row.id: (row.columns["label"], row.columns["evidence"]) for row in rows} == known
        for row in rows:
            assert json.loads(row.reference) == {"label": known[row.id][0], "evidence": known[row.id][1]}
            assert row.prompt[-1]["content"].endswith(f"Hypothesis: {row.columns['hypothesis']}")
            assert len(row.prompt[-1]["content"]) <= 12000
    assert any(note.startswith("769 of 1887 prompts were cut") for note in cut.notes)
    assert "147 of 2183 evidence spans were left out, in 78 rows" in cut.notes


def test_references_have_perfect_figures_and_meet_every_check(cut: Task) -> None:
    rows = all_rows(cut)
    assert cut.corpus_metric is not None
    assert cut.metric is not None
    assert cut.check_program is not None
    figures = dict(cut.corpus_metric([row.reference for row in rows], rows))
    assert figures.pop("unreadable_share") == 0.0
    assert set(figures.values()) == {1.0}
    for row in rows:
        assert cut.metric(row.reference, row) == 1.0
        assert all(
            cut.check_program(row.reference, row, check) == int(check.expect == "yes")
            for check in checks_of(row.columns)
        )
        assert set(schema_gate.verdicts(row.reference, row).values()) == {1}


def test_constant_answers_have_the_figures_of_their_class(cut: Task) -> None:
    """Always "Entailment" with no evidence: accuracy is the class's share, and no threshold but 0 finds evidence."""
    rows = list(cut.splits["validation"])
    assert cut.corpus_metric is not None
    figures = cut.corpus_metric([write("Entailment", [])] * len(rows), rows)
    shares = {label: sum(row.columns["label"] == label for row in rows) / len(rows) for label in LABELS}
    assert figures["accuracy"] == pytest.approx(shares["Entailment"]) == pytest.approx(519 / 1037)
    assert figures["f1_entailment"] == pytest.approx(2 * 519 / (519 + 1037))
    assert figures["macro_f1"] == pytest.approx(figures["f1_entailment"] / 3)
    mentioned = [row for row in rows if row.columns["evidence"]]
    prevalence = sum(len(r.columns["evidence"]) for r in mentioned) / sum(r.columns["spans"] for r in mentioned)
    assert figures["evidence_map"] == pytest.approx(prevalence)
    assert figures["evidence_p_at_r80"] == pytest.approx(prevalence)


def test_a_cut_keeps_more_evidence_than_chance(folder: Path) -> None:
    """The rule never sees the evidence, yet what it shows holds more of it than the share of the text it shows."""
    rows = all_rows(contract_nli.load(source=str(folder / "dev.json"), max_prompt_chars=4000))
    kept = sum(len(set(row.columns["evidence"]) & set(row.columns["shown"])) for row in rows)
    share = np.mean([len(row.columns["shown"]) / row.columns["spans"] for row in rows if row.columns["evidence"]])
    assert kept / sum(len(row.columns["evidence"]) for row in rows) > share + 0.1


@pytest.mark.long
def test_the_main_job_samples_and_scores_32_real_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_main(
        [
            "dataset=contract_nli",
            f"dataset.source={folder}",
            "dataset.max_prompt_chars=1000",
            "dataset.sizes={train: 8, validation: 32, test: 0}",
            "gating=schema",
            "filtering=r3_variance",
            "steps=1",
            "algorithm.num_generations=2",
            "algorithm.per_device_train_batch_size=4",
            "rollout.max_completion_length=32",
            "evaluation.prompts=32",
            "evaluation.samples=2",
            "evaluation.batch_size=16",
            "evaluation.bootstrap=20",
            "tracking=none",
            "threads=1",
            "hydra.run.dir=run",
            "outputs=outputs",
        ]
    )
    assert ended.code == 0, ended.err
    run = load_run(Path("run"), require_finished=True)
    assert run.summary["metric"] == "label_accuracy"
    assert run.summary["provenance"]["kind"] == "file"
    for key in ("before", "after"):
        assert run.summary[key]["n"] == 32
        assert 0 <= run.summary[key]["value"] <= 1
    figures = run.evals.set_index("metric")["value"]
    assert {"macro_f1", "accuracy", "evidence_map", "evidence_p_at_r80", "unreadable_share"} <= set(figures.index)
    assert figures["reward"].between(0, 1).all()
    assert len(run.rollouts) == 4
    assert all("Hypothesis: " in prompt for prompt in run.rollouts["prompt"])
    assert FOREIGN_TEXT in " ".join(ended.out.split())
