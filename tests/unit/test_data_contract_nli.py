"""ContractNLI in each of its schemas, from small files; what a cut prompt shows; every kind of bad file."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from dro_lab.build import load_task
from dro_lab.data import contract_nli
from dro_lab.data.__main__ import compose
from dro_lab.data.contract_nli_metrics import corpus_metric
from dro_lab.data.contract_nli_prompt import INSTRUCTION, LABEL_INSTRUCTION, render_prompt
from dro_lab.data.contract_nli_spans import Contract, choose, words
from dro_lab.data.sources import Record
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Task

SPANS = ("AGREEMENT.", "The Recipient shall not copy it.", "It ends after a year.", "Employees may see it.")


def document(number: int, spans=SPANS, annotations=None) -> dict:
    text = " ".join(spans)
    starts = [text.index(span) for span in spans]
    return {
        "id": number,
        "file_name": f"{number}.pdf",
        "text": text,
        "spans": [[start, start + len(span)] for start, span in zip(starts, spans, strict=True)],
        "annotation_sets": [
            {
                "annotations": annotations
                or {
                    "nda-1": {"choice": "Contradiction", "spans": [1]},
                    "nda-2": {"choice": "NotMentioned", "spans": []},
                    "nda-3": {"choice": "Entailment", "spans": [3, 0]},
                }
            }
        ],
    }


LABELS = {
    "nda-1": {"short_description": "copy", "hypothesis": "Recipient may copy some of it."},
    "nda-2": {"short_description": "tell", "hypothesis": "Recipient may tell of it."},
    "nda-3": {"short_description": "staff", "hypothesis": "Some employees may see it."},
}


def write(path: Path, *documents: dict) -> Path:
    path.write_text(json.dumps({"documents": list(documents), "labels": LABELS}, indent=1), encoding="utf-8")
    return path


def all_rows(task: Task):
    return [row for part in task.splits.values() for row in part]


# ------------------------------------------------------------------------------------------------ rows


def test_a_pair_is_numbered_spans_a_hypothesis_and_the_annotation_as_json(tmp_path: Path) -> None:
    task = contract_nli.load(source=str(write(tmp_path / "f.json", document(7))))
    rows = {row.id: row for row in all_rows(task)}
    assert set(rows) == {"7/nda-1", "7/nda-2", "7/nda-3"}
    row = rows["7/nda-1"]
    assert row.prompt == [
        {
            "role": "user",
            "content": f"{INSTRUCTION}\nContract:\n[0] AGREEMENT.\n[1] The Recipient shall not copy it.\n"
            "[2] It ends after a year.\n[3] Employees may see it.\nHypothesis: Recipient may copy some of it.",
        }
    ]
    assert row.reference == '{"label": "Contradiction", "evidence": [1]}'
    assert rows["7/nda-2"].reference == '{"label": "NotMentioned", "evidence": []}'
    assert rows["7/nda-3"].reference == '{"label": "Entailment", "evidence": [0, 3]}'
    assert row.columns["spans"] == 4
    assert row.columns["hypothesis_id"] == "nda-1"
    assert row.columns["predicates"] == ["label_is_known", "evidence_exists", "evidence_iff_mentioned"]
    assert len(checks_of(row.columns)) == 6
    assert (task.metric_name, task.corpus_metric) == ("label_accuracy", corpus_metric)
    assert task.metric is not None
    assert task.check_program is not None
    for row in rows.values():
        assert task.metric(row.reference, row) == 1.0
        for check in checks_of(row.columns):
            assert task.check_program(row.reference, row, check) == int(check.expect == "yes")


def test_the_schema_column_takes_references_and_refuses_faults(tmp_path: Path) -> None:
    import jsonschema

    row = all_rows(contract_nli.load(source=str(write(tmp_path / "f.json", document(7)))))[0]
    checker = jsonschema.Draft202012Validator(row.columns["schema"])
    assert checker.is_valid(json.loads(row.reference))
    for wrong in ({"label": "Maybe", "evidence": []}, {"label": "Entailment"}, {"label": "Entailment", "evidence": 1}):
        assert not checker.is_valid(wrong)


def test_a_system_prompt_goes_before_the_question(tmp_path: Path) -> None:
    task = contract_nli.load(source=str(write(tmp_path / "f.json", document(7))), system_prompt="You read contracts.")
    assert all_rows(task)[0].prompt[0] == {"role": "system", "content": "You read contracts."}


def test_a_single_file_is_split_by_contract(tmp_path: Path) -> None:
    task = contract_nli.load(source=str(write(tmp_path / "f.json", *(document(n) for n in range(60)))))
    owners = [{row.columns["document_id"] for row in part} for part in task.splits.values()]
    assert all(owners)
    assert sum(map(len, owners)) == 60
    assert len(all_rows(task)) == 180


@pytest.mark.parametrize(
    "names", [("train.json", "dev.json", "test.json"), ("train_first50docs.json", "dev.json", "my_test_2.json")]
)
def test_a_folder_keeps_the_official_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / name, document(number))
    (tmp_path / "LICENSE").write_text("CC BY")
    task = contract_nli.load(source=str(tmp_path))
    assert {split: part[0].columns["document_id"] for split, part in task.splits.items()} == {
        "train": "0",
        "validation": "1",
        "test": "2",
    }
    assert any("LICENSE" in note for note in task.notes)


def test_the_exact_name_wins_over_a_similar_one(tmp_path: Path) -> None:
    write(tmp_path / "train.json", document(0))
    write(tmp_path / "old_train.json", document(1))
    assert contract_nli.load(source=str(tmp_path)).splits["train"][0].columns["document_id"] == "0"


# ------------------------------------------------------------------------------------------------ pairs without spans

PAIRS = [
    {"premise": "One.\nTwo copies.", "hypothesis": "Copies may be made.", "label": 0},
    {"premise": "One.\nTwo copies.", "hypothesis": "It ends.", "label": 2},
    {"premise": "Other.", "hypothesis": "It ends.", "label": "entailment"},
]


def test_the_hub_copy_asks_for_the_label_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "train": [Record("train row 1", PAIRS[0]), Record("train row 2", PAIRS[1])],
        "dev": [Record("dev row 1", PAIRS[2])],
    }
    monkeypatch.setattr(contract_nli.hub, "read", lambda repo, **_: (parts, "f" * 40, None))
    task = contract_nli.load(source="hub", revision="main")
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [2, 1, 0]
    first = task.splits["train"][0]
    assert first.prompt[0]["content"] == (
        f"{LABEL_INSTRUCTION}\nContract:\nOne.\nTwo copies.\nHypothesis: Copies may be made."
    )
    assert [row.reference for row in task.splits["train"]] == [
        '{"label": "Contradiction"}',
        '{"label": "NotMentioned"}',
    ]
    assert first.columns["spans"] is None
    assert task.metric is not None
    assert task.metric('{"label": "Contradiction"}', first) == 1.0
    assert str(task.provenance) == f"contract_nli (hub: kiddothe2b/contract-nli, {'f' * 40})"
    assert any("ask for the label alone" in note for note in task.notes)


def test_the_hub_copys_own_files_are_named_in_the_configuration(tmp_path: Path) -> None:
    """A folder in the layout of the hub's converted branch, read with the shipped keys."""
    import pyarrow
    import pyarrow.parquet

    for split, rows in (("train", PAIRS[:2]), ("validation", PAIRS[2:]), ("test", [dict(PAIRS[2], premise="Third.")])):
        folder = tmp_path / "contractnli_b" / split
        folder.mkdir(parents=True)
        table = [{**row, "label": {"entailment": 1}.get(row["label"], row["label"])} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "0000.parquet")
    cfg = compose(["dataset=contract_nli", "dataset.source=hub", f"dataset.repo={tmp_path}", "tracking=none"])
    task = load_task(cfg)
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [2, 1, 1]
    assert {row.columns["label"] for row in all_rows(task)} == {"Contradiction", "NotMentioned", "Entailment"}


def test_tables_of_pairs_are_read_and_long_ones_cut_by_passages(tmp_path: Path) -> None:
    lines = [f"Clause {n} is about nothing in particular." for n in range(40)] + ["Copies may be made freely."]
    row = {"premise": "\n".join(lines), "hypothesis": "Copies may be made.", "label": "Entailment"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    (only,) = all_rows(contract_nli.load(source=str(tmp_path / "own.jsonl"), max_prompt_chars=500))
    content = only.prompt[0]["content"]
    assert len(content) <= 500
    assert "\n[...]\n" in content
    assert "Copies may be made freely." in content


# ------------------------------------------------------------------------------------------------ the cut


def test_bm25_of_literal_counts() -> None:
    """Two spans of 2 words, "copy" in one: idf ln(1 + 1.5/1.5) = ln 2, tf part 1 (1 word, mean length)."""
    scores = Contract.of(["shall copy", "shall end"]).scores("copy")
    assert scores == pytest.approx([0.6931471805599453, 0.0])


def test_the_nearest_span_and_its_neighbours_stay_in_order() -> None:
    texts = [f"Clause {n} is about weather and wind." for n in range(20)]
    texts[12] = "The Recipient may copy the plans."
    contract = Contract.of(texts)
    hypothesis = "Recipient may copy it."
    limit = len(render_prompt([(n, texts[n]) for n in (11, 12, 13)], hypothesis)) + 40
    assert choose(contract, hypothesis, limit=limit) == [11, 12, 13]
    assert choose(contract, hypothesis, limit=None) == list(range(20))
    assert choose(contract, hypothesis, limit=10) == []
    for size in range(300, 1400, 100):
        shown = choose(contract, hypothesis, limit=size)
        assert len(render_prompt([(n, texts[n]) for n in shown], hypothesis)) <= size or not shown
        assert shown == sorted(shown)


def test_the_cut_never_looks_at_label_or_evidence(tmp_path: Path) -> None:
    spans = tuple(f"Clause {n} speaks of matter {n % 7} at some length." for n in range(30))
    prompts = []
    for choice, evidence in (("Entailment", [29]), ("Contradiction", [0]), ("NotMentioned", [])):
        annotated = document(1, spans, {"nda-1": {"choice": choice, "spans": evidence}})
        file = write(tmp_path / f"{choice}.json", annotated)
        (row,) = all_rows(contract_nli.load(source=str(file), max_prompt_chars=800))
        prompts.append(row.prompt)
    assert prompts[0] == prompts[1] == prompts[2]


def test_what_was_cut_is_counted_and_evidence_keeps_its_numbers(tmp_path: Path) -> None:
    spans = (*(f"Clause {n} is about weather." for n in range(30)), "Employees may see it all.")
    annotations = {
        "nda-1": {"choice": "Contradiction", "spans": [3]},
        "nda-3": {"choice": "Entailment", "spans": [4, 30]},
    }
    file = write(tmp_path / "f.json", document(1, spans, annotations))
    task = contract_nli.load(source=str(file), max_prompt_chars=500)
    row = next(row for row in all_rows(task) if row.id == "1/nda-3")
    assert "[30] Employees may see it all." in row.prompt[0]["content"]
    assert row.reference == '{"label": "Entailment", "evidence": [4, 30]}'
    assert len(row.columns["shown"]) + row.columns["left_out"] == 31
    left = sum(r.columns["left_out"] for r in all_rows(task))
    lost = [len({*r.columns["evidence"]} - {*r.columns["shown"]}) for r in all_rows(task)]
    assert any(note.startswith("2 of 2 prompts were cut") and f"{left} spans were" in note for note in task.notes)
    assert f"{sum(lost)} of 3 evidence spans were left out, in {sum(map(bool, lost))} rows" in task.notes
    assert not any("prompts were cut" in note for note in contract_nli.load(source=str(file)).notes)


def test_words_are_letters_and_digits() -> None:
    assert words("The Recipient’s (2) copies,") == ["the", "recipient", "s", "2", "copies"]


# ------------------------------------------------------------------------------------------------ refused rows


def test_documents_and_annotations_that_cannot_be_used_are_refused_with_their_place(tmp_path: Path) -> None:
    good = document(1)
    bad = [copy.deepcopy(document(n)) for n in range(2, 10)]
    del bad[0]["id"]
    bad[1]["text"] = ""
    bad[2]["spans"][1] = [5, 9999]
    bad[3]["annotation_sets"] = []
    bad[4]["annotation_sets"][0]["annotations"] = {"nda-9": {"choice": "Entailment", "spans": [0]}}
    bad[5]["annotation_sets"][0]["annotations"] = {"nda-1": {"spans": [0]}}
    bad[6]["annotation_sets"][0]["annotations"] = {"nda-1": {"choice": "Entailment", "spans": [4]}}
    bad[7]["annotation_sets"][0]["annotations"] = {"nda-1": {"choice": "NotMentioned", "spans": [1]}}
    task = contract_nli.load(source=str(write(tmp_path / "f.json", good, *bad)))
    assert len(all_rows(task)) == 3
    found = {row.where: row.reason for row in task.refused}
    assert found == {
        "f.json document 2": "has no id",
        "f.json document 3": "text is empty",
        "f.json document 4": "span 1 is [5, 9999], must be [start, end) within the text's 87 characters",
        "f.json document 5": "has no annotations, so its labels are not known",
        "f.json document 6 (id 6) nda-9": "labels has no hypothesis under 'nda-9'",
        "f.json document 7 (id 7) nda-1": "has no choice, so its label is not known",
        "f.json document 8 (id 8) nda-1": "evidence [4] must list span numbers from 0 to 3",
        "f.json document 9 (id 9) nda-1": "evidence must be empty if and only if the label is NotMentioned; it is [1] "
        "with NotMentioned",
    }


def test_pairs_without_label_or_text_are_refused(tmp_path: Path) -> None:
    rows = [PAIRS[0], {**PAIRS[1], "label": None}, {**PAIRS[1], "hypothesis": " "}, PAIRS[0]]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    task = contract_nli.load(source=str(tmp_path / "f.json"))
    assert [(row.where, row.reason) for row in task.refused] == [
        ("f.json row 2", "has no label"),
        ("f.json row 3", "hypothesis is empty"),
        ("f.json row 4", "repeats f.json row 1 (same prompt and reference)"),
    ]


def test_a_prompt_into_which_no_span_fits_is_refused(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.json", document(1), document(2, ("x" * 2000,), {"nda-1": {"choice": "NotMentioned", "spans": []}})
    )
    with pytest.raises(UserError, match="no usable row is left of"):
        contract_nli.load(source=str(file), max_prompt_chars=100)


# ------------------------------------------------------------------------------------------------ errors


def expect(message: str, **keys) -> None:
    with pytest.raises(UserError) as caught:
        contract_nli.load(**keys)
    assert message in str(caught.value), str(caught.value)


def test_a_label_that_is_not_one_of_three_names_file_and_row(tmp_path: Path) -> None:
    wrong = document(5, annotations={"nda-2": {"choice": "Unsure", "spans": []}})
    file = write(tmp_path / "f.json", document(1), wrong)
    expect(
        "f.json document 2 (id 5) nda-2: the label is 'Unsure'. Allowed: Entailment, Contradiction", source=str(file)
    )
    (tmp_path / "p.json").write_text(json.dumps([{**PAIRS[0], "label": 3}]))
    expect("p.json (p.json row 1): the label is 3.", source=str(tmp_path / "p.json"))


def test_a_contract_in_two_splits_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.json", document(1), document(2))
    write(tmp_path / "dev.json", document(2))
    expect("the id '2' stands at split train and again at split validation", source=str(tmp_path))


def test_one_id_on_two_contracts_is_an_error(tmp_path: Path) -> None:
    other = document(1, ("Other.", *SPANS[1:]))
    expect("the id '1/nda-1' stands at", source=str(write(tmp_path / "f.json", document(1), other)))


def test_files_of_another_schema_name_the_keys(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps({"documents": 3, "labels": {}}))
    expect("Expected: documents and labels (official JSON)", source=str(tmp_path / "f.json"))
    (tmp_path / "g.json").write_text(json.dumps([{"question": "?", "answer": "!"}]))
    expect("keys found: answer, question", source=str(tmp_path / "g.json"))
    (tmp_path / "h.json").write_text('{"documents": [')
    expect("broken JSON", source=str(tmp_path / "h.json"))


def test_folders_without_a_split_or_with_two_files_for_one_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "contracts.json", document(1))
    expect("no ContractNLI split in this folder; it holds contracts.json", source=str(tmp_path))
    write(tmp_path / "a_train.json", document(1))
    write(tmp_path / "b_train.json", document(2))
    expect("a_train.json and b_train.json both look like the train split", source=str(tmp_path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "web"}, "dataset.source=web is neither a known word nor an existing file"),
        ({"source": "twin", "max_prompt_chars": 0}, "dataset.max_prompt_chars=0: must be a whole number"),
        ({"source": "twin", "max_prompt_chars": "long"}, "dataset.max_prompt_chars=long"),
        ({"source": "twin", "system_prompt": 3}, "dataset.system_prompt=3: must be a text or null"),
        ({"source": "twin", "answer_marker": None}, "dataset.answer_marker=None: must be a text"),
        ({"source": "twin", "shares": {"train": 2}}, "dataset.shares="),
        ({"source": "twin", "sizes": {"train": -1}}, "dataset.sizes="),
        ({"source": "twin", "twin": {"preset": "hard"}}, "dataset.twin.preset=hard"),
        ({"source": "twin", "twin": {"steps_max": 9}}, "dataset.twin.steps_max=9: must lie in"),
        ({"source": "twin", "twin": {"lean": 0.1}}, "dataset.twin.lean=0.1: unknown twin knob"),
    ],
)
def test_bad_keys(keys: dict, message: str) -> None:
    expect(message, **keys)
