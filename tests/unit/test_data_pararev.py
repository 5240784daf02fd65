"""ParaRev in each of its schemas, from small files."""

import json

import pytest

from dro_lab.data import pararev
from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.data.twins.load import SIZES
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import checks_of


def annotated(number: int, *, first: str | None = "Shorten it.", second: str | None = None, **extra) -> dict:
    return {
        "id_paragraph": f"src{number}.rev{number}.00",
        "id_source": f"src{number}",
        "parag_1": f"The old paragraph {number}.",
        "parag_2": f"The new paragraph {number}.",
        "annot_1": {"annotation": ["Concision"], "instruction": first, "annotator": "annotator_01"},
        "annot_2": {"annotation": ["Rewriting_light"], "instruction": second, "annotator": "annotator_02"},
        **extra,
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def all_rows(task):
    return [row for part in task.splits.values() for row in part]


def test_one_row_for_each_annotation_with_an_instruction(tmp_path):
    file = write(tmp_path / "p.jsonl", [annotated(1, second="Make it clear."), annotated(2)])
    task = pararev.load(source=str(file))
    rows = {row.id: row for row in all_rows(task)}
    assert set(rows) == {"src1.rev1.00#annot_1", "src1.rev1.00#annot_2", "src2.rev2.00#annot_1"}
    row = rows["src1.rev1.00#annot_2"]
    assert row.reference == "The new paragraph 1."
    assert row.prompt == [{"role": "user", "content": render_prompt("The old paragraph 1.", "Make it clear.", None)}]
    assert row.columns["labels"] == ["Rewriting_light"]
    assert row.columns["annotator"] == "annotator_02"
    assert row.columns["id_source"] == "src1"
    assert [(r.where, r.reason) for r in task.refused] == [("p.jsonl line 2", "annot_2: instruction is missing")]


def test_pairs_of_one_source_stay_together(tmp_path):
    rows = [annotated(n // 4, id_paragraph=f"src{n // 4}.rev.{n:02d}", parag_2=f"New {n}.") for n in range(80)]
    task = pararev.load(source=str(write(tmp_path / "p.jsonl", rows)))
    owners = [{row.columns["id_source"] for row in part} for part in task.splits.values()]
    assert all(owners)
    assert sum(map(len, owners)) == len(set().union(*owners)) == 20


def test_rows_without_an_instruction_are_refused_and_counted(tmp_path):
    rows = [annotated(1), annotated(2, first=None), {k: v for k, v in annotated(3).items() if "annot" not in k}]
    task = pararev.load(source=str(write(tmp_path / "p.jsonl", rows)))
    assert len(all_rows(task)) == 1
    reasons = [
        r for r in task.refused if r.reason.startswith("no instruction (give one with dataset.instruction=TEXT)")
    ]
    assert [r.where for r in reasons] == ["p.jsonl line 2", "p.jsonl line 3"]


def test_an_instruction_from_the_configuration_serves_only_pairs_that_have_none(tmp_path):
    rows = [annotated(1), {k: v for k, v in annotated(2).items() if "annot" not in k}]
    task = pararev.load(source=str(write(tmp_path / "p.jsonl", rows)), instruction="Improve the paragraph.")
    asked = {row.id: row.columns["instruction"] for row in all_rows(task)}
    assert asked == {"src1.rev1.00#annot_1": "Shorten it.", "src2.rev2.00": "Improve the paragraph."}


def test_the_older_keys_and_a_plain_instruction_column_are_read(tmp_path):
    old = {"id_paragraph": "a.b.00", "parag-1": "Old.", "parag-2": "New.", "instruction": "Fix it.", "labels": ["X"]}
    row = all_rows(pararev.load(source=str(write(tmp_path / "p.jsonl", [old]))))[0]
    assert (row.id, row.reference, row.columns["id_source"], row.columns["labels"]) == ("a.b.00", "New.", "a", ["X"])


def test_judgements_of_one_pair_are_one_row(tmp_path):
    judged = {
        "id_paragraph": "a.b.00",
        "pararev_annot": "annot_2",
        "original_paragraph": "Old.",
        "reference_paragraph": "New.",
        "instruction": "Fix it.",
        "labels": ["Concision"],
    }
    file = write(tmp_path / "p.jsonl", [{**judged, "model_A": name} for name in "xyz"])
    task = pararev.load(source=str(file))
    assert [row.id for row in all_rows(task)] == ["a.b.00#annot_2"]
    assert [r.reason for r in task.refused] == ["repeats p.jsonl line 1 (same prompt and reference)"] * 2


def test_csv_parquet_json_and_jsonl_give_the_same_rows(tmp_path):
    import pandas

    rows = [annotated(n, second="Again.") for n in range(6)]
    (tmp_path / "p.json").write_text(json.dumps(rows), encoding="utf-8")
    frame = pandas.DataFrame(rows)
    frame.to_parquet(tmp_path / "p.parquet")
    flat = frame.assign(**{key: frame[key].map(json.dumps) for key in ("annot_1", "annot_2")})
    flat.to_csv(tmp_path / "p.csv", index=False)
    write(tmp_path / "p.jsonl", rows)
    wanted = sorted(
        (row.id, row.reference, str(row.prompt)) for row in all_rows(pararev.load(source=tmp_path / "p.json"))
    )
    assert len(wanted) == 12
    for name in ("p.jsonl", "p.parquet", "p.csv"):
        found = all_rows(pararev.load(source=str(tmp_path / name)))
        assert sorted((row.id, row.reference, str(row.prompt)) for row in found) == wanted, name


def test_malformed_rows_are_refused_with_their_reason(tmp_path):
    bad = [
        annotated(2, parag_2=""),
        annotated(3, parag_1=7),
        annotated(4, parag_2="\ud800"),
        annotated(5, concerns=[1]),
        annotated(6, id_source=5),
    ]
    task = pararev.load(source=str(write(tmp_path / "p.jsonl", [annotated(1), *bad])))
    assert len(all_rows(task)) == 1
    reasons = {r.where: r.reason for r in task.refused if "annot_2" not in r.reason}
    assert reasons == {
        "p.jsonl line 2": "parag_2 is empty",
        "p.jsonl line 3": "parag_1 is int, must be a string",
        "p.jsonl line 4": "parag_2 holds a lone surrogate at character 0",
        "p.jsonl line 5": "concerns must be a text or a list of texts",
        "p.jsonl line 6": "id_source is int, must be a string",
    }


def test_concerns_and_the_system_prompt_reach_the_prompt(tmp_path):
    file = write(tmp_path / "p.jsonl", [annotated(1, concerns=["Too long.", "No results."])])
    row = all_rows(pararev.load(source=str(file), system_prompt="You revise."))[0]
    assert row.prompt[0] == {"role": "system", "content": "You revise."}
    assert row.prompt[1]["content"].endswith("Concerns: Too long.; No results.")


def test_a_folder_is_hashed_over_its_data_files_and_names_what_it_leaves(tmp_path):
    write(tmp_path / "b.jsonl", [annotated(1)])
    write(tmp_path / "a.jsonl", [annotated(2)])
    (tmp_path / "LICENSE").write_text("CC")
    first = pararev.load(source=str(tmp_path))
    assert "files not read in" in first.notes[-2] + first.notes[-1]
    assert "LICENSE" in " ".join(first.notes)
    (tmp_path / "LICENSE").write_text("CC BY")
    assert pararev.load(source=str(tmp_path)).provenance.sha256 == first.provenance.sha256
    write(tmp_path / "a.jsonl", [annotated(3)])
    assert pararev.load(source=str(tmp_path)).provenance.sha256 != first.provenance.sha256


def test_a_file_is_hashed_over_its_bytes(tmp_path):
    import hashlib

    file = write(tmp_path / "p.jsonl", [annotated(1)])
    task = pararev.load(source=str(file))
    assert task.provenance.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert task.provenance.sha256[:12] in str(task.provenance)


def test_real_rows_do_not_depend_on_the_seed_and_their_notes_say_what_the_number_is_not(tmp_path):
    file = write(tmp_path / "p.jsonl", [annotated(n) for n in range(30)])
    one, two = pararev.load(source=str(file), seed=1), pararev.load(source=str(file), seed=2)
    assert one.splits == two.splits
    assert one.metric_name == "reference_overlap"
    assert "not a judgement" in one.notes[0]
    # old and new differ in one of five words ("." is one): 2 * 4 / 10
    assert one.notes[1] == "handing back the paragraph unrevised scores 0.80 on average (30 rows)"


def test_the_twin_is_a_task_whose_held_out_rows_do_not_follow_the_seed():
    sizes = {"train": 8, "validation": 4, "test": 2, "ood": 3}
    one, two = pararev.load(seed=1, sizes=sizes), pararev.load(seed=2, sizes=sizes)
    assert {split: len(part) for split, part in one.splits.items()} == sizes
    assert one.splits["train"] != two.splits["train"]
    assert all(one.splits[split] == two.splits[split] for split in ("validation", "test", "ood"))
    assert one.provenance.kind == "twin"
    row = one.splits["train"][0]
    assert one.metric(row.reference, row) == 1.0
    assert "facts" in row.columns
    assert "truth_spans" in row.columns
    assert [one.check_program(row.reference, row, check) for check in checks_of(row.columns)] == [1] * len(
        row.columns["rubric"]
    )


def test_the_twin_makes_as_many_rows_as_are_asked_for_and_its_default_where_none_are():
    task = pararev.load(sizes={"train": 0, "validation": 1, "test": None, "ood": None})
    assert {split: len(part) for split, part in task.splits.items()} == {
        "train": 0,
        "validation": 1,
        "test": SIZES["test"],
        "ood": SIZES["ood"],
    }


def test_only_the_twin_has_an_ood_split(tmp_path):
    file = write(tmp_path / "p.jsonl", [annotated(n) for n in range(8)])
    assert set(pararev.load(source=str(file), sizes={"ood": None}).splits) == {"train", "validation", "test"}
    with pytest.raises(UserError, match=r"'ood': 3.* is not allowed.*`ood` with source=twin alone"):
        pararev.load(source=str(file), sizes={"ood": 3})
    with pytest.raises(UserError, match=r"'dev': 3.* is not allowed.*ood"):
        pararev.load(sizes={"dev": 3})


def test_a_system_prompt_goes_before_the_twins_own_prompt():
    sizes = {"train": 1, "validation": 1, "test": 1, "ood": 1}
    plain, asked = pararev.load(sizes=sizes), pararev.load(sizes=sizes, system_prompt="Be brief.")
    for split in sizes:
        (row,) = plain.splits[split]
        assert asked.splits[split][0].prompt == [{"role": "system", "content": "Be brief."}, *row.prompt]


def test_a_marker_that_the_twins_policy_was_not_taught_is_said():
    sizes = {"train": 1, "validation": 1, "test": 1, "ood": 1}
    assert len(pararev.load(sizes=sizes).notes) == 1
    task = pararev.load(sizes=sizes, answer_marker="Answer: ")
    assert task.answer_marker == "Answer: "
    assert task.notes[1].startswith("dataset.answer_marker='Answer: ': the twin's policy was taught ''")


def test_the_twins_knobs_show_in_the_provenance():
    task = pararev.load(twin={"preset": "mild", "rare_words": 2}, sizes={"train": 1, "validation": 1, "test": 1})
    assert task.provenance.location == "mild, rare_words=2"


@pytest.mark.parametrize("marker", ["", "\n\nAnswer: "])
def test_the_answer_marker_is_handed_on(tmp_path, marker):
    file = write(tmp_path / "p.jsonl", [annotated(1)])
    assert pararev.load(source=str(file), answer_marker=marker).answer_marker == marker
