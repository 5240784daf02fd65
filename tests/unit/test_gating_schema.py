"""gating=schema: strict reading, one check a property, named predicates, and what `prepare` refuses."""

import json
from dataclasses import replace

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.gating._json import compile_schema, strict_json
from dro_lab.gating.predicates import PREDICATES, predicate
from dro_lab.gating.schema import check, needs, prepare, schema, verdicts
from dro_lab.types import Provenance, Rewards, Row, Task, TokenStats
from tests.tiny_step import groups_of

NLI = {
    "type": "object",
    "properties": {
        "label": {"enum": ["Entailment", "Contradiction", "NotMentioned"]},
        "evidence": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["label", "evidence"],
    "additionalProperties": False,
}
THREE = ["label_is_known", "evidence_exists", "evidence_iff_mentioned"]
GOOD = '{"label": "Entailment", "evidence": [2]}'


def nli_row(**columns) -> Row:
    return Row(id="r", prompt=[], reference=GOOD, columns={"schema": NLI, "predicates": THREE, "spans": 4} | columns)


def task_of(*rows: Row) -> Task:
    return Task(
        name="mine",
        provenance=Provenance(dataset="mine", kind="file", location="mine.jsonl"),
        splits={"train": list(rows)},
        metric=None,
        metric_name="none",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1} So the answer is 1.', "Extra data"),
        ('Here: {"a": 1}', "Expecting value"),
        ('```json\n{"a": 1}\n```', "Expecting value"),
        ('{"a": 1, "a": 1}', "'a' stands twice"),
        ('{"a": [{"b": 1, "b": 2}]}', "'b' stands twice"),
        ('{"a": 1', "Expecting"),
        ("", "Expecting value"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": 1e999}', "beyond floating point"),
        ("[" * 100_000, ""),
        ("1" * 10_000, ""),
    ],
)
def test_strict_json_takes_the_whole_answer_or_nothing(text, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words stand below)
        strict_json(text)
    assert words in str(error.value)


def test_strict_json_takes_white_space_around_the_object():
    assert strict_json(' \n{"a": [1, 2.5, null]}\n') == {"a": [1, 2.5, None]}


# answer -> the checks that it does not meet
FAULTS = {
    GOOD: set(),
    '{"label": "NotMentioned", "evidence": []}': set(),
    '{"label": "Maybe", "evidence": [2]}': {"property label", "label_is_known"},
    '{"label": "Entailment", "evidence": [4]}': {"evidence_exists"},
    '{"label": "Entailment", "evidence": [-1]}': {"evidence_exists"},
    '{"label": "Entailment", "evidence": [2, 2]}': {"evidence_exists"},
    '{"label": "Entailment", "evidence": [true]}': {"property evidence", "evidence_exists"},
    '{"label": "NotMentioned", "evidence": [1]}': {"evidence_iff_mentioned"},
    '{"label": "Contradiction", "evidence": []}': {"evidence_iff_mentioned"},
    '{"label": "Entailment"}': {"property evidence", "evidence_exists", "evidence_iff_mentioned"},
    '{"label": "Entailment", "evidence": [2], "why": "so"}': {"json"},
    "3": {"json", *THREE},
    '{"label": "Entailment", "label": "Entailment", "evidence": [2]}': "all",
    GOOD + " as span 2 says": "all",
    "Entailment": "all",
    "": "all",
}


@pytest.mark.parametrize("answer", FAULTS)
def test_an_answer_fails_exactly_the_checks_it_breaks(answer):
    found = verdicts(answer, nli_row())
    assert list(found) == ["json", "property label", "property evidence", *THREE]
    failed = {name for name, verdict in found.items() if verdict == 0}
    assert failed == (set(found) if FAULTS[answer] == "all" else FAULTS[answer])


@pytest.mark.parametrize(
    ("name", "answer", "columns", "verdict"),
    [
        ("is_a_number", "about 12.5 million", {}, 1),
        ("is_a_number", "much", {}, 0),
        ("has_unit", "12.5%", {"unit": "%"}, 1),
        ("has_unit", "12.5", {"unit": "%"}, 0),
        ("has_unit", "12.5", {"unit": ""}, 1),
        ("has_unit", "12.5", {}, -1),
        ("has_sign", "-3", {"sign": "-"}, 1),
        ("has_sign", "3", {"sign": "-"}, 0),
        ("has_sign", "much", {"sign": "+"}, 0),
        ("has_sign", "3", {}, -1),
        ("is_yes_or_no", "Yes.", {}, 1),
        ("is_yes_or_no", "yes or no", {}, 0),
        ("stands_alone", "$ 12.5 million", {}, 1),
        ("stands_alone", "It is 12.5", {}, 0),
        ("evidence_exists", {"evidence": [0]}, {}, -1),
        ("label_is_known", "Entailment", {}, 0),
        ("label_is_known", {"label": ["Entailment"]}, {}, 0),
        ("evidence_iff_mentioned", {"label": "NotMentioned"}, {}, 0),
    ],
)
def test_predicates_on_literal_answers(name, answer, columns, verdict):
    assert PREDICATES[name](answer, Row(id="r", prompt=[], reference="", columns=columns)) == verdict


def test_a_row_without_schema_is_judged_as_text():
    row = Row(
        id="r", prompt=[], reference="-3%", columns={"predicates": ["has_unit", "has_sign"], "unit": "%", "sign": "-"}
    )
    assert verdicts("-3%", row) == {"has_unit": 1, "has_sign": 1}
    assert verdicts("3%", row) == {"has_unit": 1, "has_sign": 0}


def test_a_predicate_of_a_users_own_is_named_by_its_path():
    assert predicate("dro_lab.gating.predicates.is_a_number", where="here") is PREDICATES["is_a_number"]


def test_the_gate_needs_no_statistics():
    assert needs() == frozenset()


def test_groups_are_gated_by_their_answers():
    groups = groups_of(3, 2)
    groups = replace(
        groups,
        answers_PG=[[GOOD, "prose"], ["prose", GOOD], ["prose", "prose"]],
        references_P=[GOOD] * 3,
        columns_P=[{"id": "a", **nli_row().columns}, {"id": "b", **nli_row().columns}, {"id": "c"}],
    )
    result = schema(groups, TokenStats(), Rewards(outcome_PG=torch.tensor([[0.9, 0.1]] * 3)))
    assert result.admit_P.tolist() == [True, False, True]
    assert "consistency" in result.reasons_P[1]
    assert result.failed_PG.tolist() == [[False, True], [True, False], [False, False]]
    assert result.metrics["ungated_share"] == pytest.approx(1 / 3)
    floor = schema(groups, TokenStats(), Rewards(outcome_PG=torch.tensor([[0.9, 0.1]] * 3)), on_reject="floor")
    torch.testing.assert_close(floor.rewards.outcome_PG, torch.tensor([[0.9, 0.1], [0.1, 0.1], [0.9, 0.1]]))


def test_a_schemas_own_references_are_followed_and_others_refused():
    shared = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert set(compile_schema(shared).faults({"a": "x"})) == {"property a"}
    for reference in ("#/$defs/m", "http://example.com/schema.json"):
        with pytest.raises(ValueError, match="refers to"):
            compile_schema({"properties": {"a": {"$ref": reference}}})


def test_model_output_never_raises():
    deep = compile_schema({"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}})
    value: list = []
    for _ in range(5000):
        value = [value]
    assert deep.faults(value)
    assert compile_schema({"multipleOf": 0.1}).faults(10**400)


# ------------------------------------------------------------------------------------------------ prepare


def write(path, value) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_a_schema_file_holds_for_every_row(tmp_path):
    bare = Row(id="r", prompt=[], reference=GOOD)
    task = prepare(task_of(bare), schema=write(tmp_path / "s.json", NLI), predicates=["label_is_known"])
    row = task.splits["train"][0]
    assert list(verdicts(GOOD, row)) == ["json", "property label", "property evidence", "label_is_known"]
    assert "schema" not in bare.columns


def test_rows_without_structure_are_counted():
    task = prepare(task_of(nli_row(), Row(id="b", prompt=[], reference="x")))
    assert task.notes == ("gating=schema: 1 of 2 training rows have neither: not gated",)


def test_a_rows_own_predicate_that_its_reference_fails_is_dropped_and_counted():
    row = Row(id="r", prompt=[], reference="3", columns={"predicates": ["is_a_number", "has_unit"], "unit": "%"})
    task = prepare(task_of(row))
    assert task.splits["train"][0].columns["predicates"] == ["is_a_number"]
    assert task.notes == (
        "gating=schema: 1 rows' own predicate has_unit was dropped: their reference does not meet it",
    )


def test_a_schema_as_text_in_a_column_is_read():
    row = prepare(task_of(nli_row(schema=json.dumps(NLI)))).splits["train"][0]
    assert row.columns["schema"] == NLI


@pytest.mark.parametrize(
    ("rows", "content", "words"),
    [
        ([Row(id="b", prompt=[], reference="x")], None, ["mine", "no training row has", "gating.schema=FILE.json"]),
        ([nli_row()], {"type": "objct"}, ["s.json", "no valid JSON schema", "at type"]),
        ([nli_row()], "{", ["s.json", "is not JSON"]),
        ([nli_row()], '{"type": "object", "type": "object"}', ["'type' stands twice"]),
        ([nli_row()], "[1]", ["s.json", "is a list"]),
        (
            [nli_row()],
            {"properties": {"label": {"const": "X"}}},
            ["train row r", "'property label'", "'X' was expected"],
        ),
        ([Row(id="b", prompt=[], reference="prose")], NLI, ["train row b", "'json'", "'prose'", "Expecting value"]),
        ([nli_row(schema={"type": 3})], None, ["train row r", "no valid JSON schema"]),
        ([nli_row(schema="{")], None, ["row r", "`schema` is not JSON"]),
        ([nli_row(predicates=["nope"])], None, ["train row r", "'nope' is no predicate", "label_is_known"]),
        ([nli_row(predicates="nope")], None, ["train row r", "`predicates` is a str"]),
    ],
)
def test_prepare_refuses(tmp_path, rows, content, words):
    path = None if content is None else write(tmp_path / "s.json", content)
    with pytest.raises(UserError) as error:
        prepare(task_of(*rows), schema=path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_prepare_refuses_a_configured_predicate_that_a_reference_fails_or_lacks_columns_for(tmp_path):
    row = Row(id="r", prompt=[], reference="3")
    with pytest.raises(
        UserError, match=r"'label_is_known' of gating.predicates is failed by the reference itself, '3'"
    ):
        prepare(task_of(row), predicates=["label_is_known"])
    with pytest.raises(UserError, match=r"'has_unit' of gating.predicates cannot be decided on"):
        prepare(task_of(row), predicates=["has_unit"])
    with pytest.raises(UserError, match="cannot be read"):
        prepare(task_of(row), schema=str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ({"predicates": ["nope"]}, "gating.predicates: 'nope' is no predicate"),
        ({"predicates": "is_a_number"}, "must be a list of names"),
        ({"predicates": ["no.such.module"]}, "cannot be imported"),
        ({"schema": 3}, "gating.schema=3: must be the path"),
        ({"nu": 0}, "gating.nu=0"),
    ],
)
def test_check_refuses(bound, words):
    with pytest.raises(UserError) as error:
        check(**bound)
    assert words in str(error.value)
