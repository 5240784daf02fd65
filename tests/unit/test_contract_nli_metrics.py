"""ContractNLI's parser, checks and figures: literal cases, and scikit-learn as the independent implementation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED, Answer, parse, read, write
from dro_lab.data.contract_nli_checks import CHECKS, LABEL_CHECKS, decide, format_columns
from dro_lab.data.contract_nli_metrics import corpus_metric, label_right, span_scores
from dro_lab.gating import schema as schema_gate
from dro_lab.judges.quality import met
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Row


def row(label: str, evidence: tuple[int, ...] | None, *, spans: int | None = 6) -> Row:
    kept = None if evidence is None else list(evidence)
    columns = {"label": label, "evidence": kept, **format_columns(spans=spans)}
    return Row(id="r", prompt=[], reference=write(label, kept), columns=columns)


# ------------------------------------------------------------------------------------------------ the parser


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"label": "Entailment", "evidence": [2, 0]}', Answer("Entailment", (2, 0))),
        (' \n{"evidence":[],"label":"NotMentioned"}\n', Answer("NotMentioned", ())),
        ('{"label": "NotMentioned", "evidence": [1]}', Answer("NotMentioned", (1,))),  # a fault of sense, not of form
    ],
)
def test_a_well_formed_answer_is_read(text: str, answer: Answer) -> None:
    assert parse(text, spans=6) == (answer, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("Entailment", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"label": "Entailment", "evidence": [1]', "no JSON object"),
        ("{" * 5000, "no JSON object"),
        ('{"label": "Entailment", "evidence": [' + "9" * 5000 + "]}", "no JSON object"),
        ('{"label": "Entailment", "evidence": [' + "9" * 400 + "]}", "must list different span numbers from 0 to 5"),
        ('{"label": "Entailment", "evidence": [1]} as clause 1 says', "text beside the JSON object"),
        ('```json\n{"label": "Entailment", "evidence": [1]}\n```', "text beside the JSON object"),
        ('{"label": "Entailment", "label": "Contradiction", "evidence": [1]}', "the key 'label' stands twice"),
        ('{"label": "Entailment", "evidence": [1], "evidence": [1]}', "the key 'evidence' stands twice"),
        ('{"label": "Entailment"}', "the keys are ['label'], must be ['evidence', 'label']"),
        ('{"label": "Entailment", "evidence": [1], "why": ""}', "must be ['evidence', 'label']"),
        ('{"label": "entailment", "evidence": [1]}', "label is 'entailment', must be one of Entailment"),
        ('{"label": ["Entailment"], "evidence": [1]}', "label is ['Entailment'], must be one of"),
        ('{"label": "Entailment", "evidence": [6]}', "evidence is [6], must list different span numbers from 0 to 5"),
        ('{"label": "Entailment", "evidence": [-1]}', "evidence is [-1]"),
        ('{"label": "Entailment", "evidence": [1, 1]}', "evidence is [1, 1]"),
        ('{"label": "Entailment", "evidence": ["1"]}', "evidence is ['1']"),
        ('{"label": "Entailment", "evidence": [1.0]}', "evidence is [1.0]"),
        ('{"label": "Entailment", "evidence": [true]}', "evidence is [True]"),
        ('{"label": "Entailment", "evidence": 1}', "evidence is 1"),
        ('{"label": "Entailment", "evidence": [NaN]}', "evidence is [nan]"),
    ],
)
def test_whatever_else_is_wrong_with_its_reason_and_counts_as_wrong(text: str, problem: str) -> None:
    answer, found = parse(text, spans=6)
    assert answer is None
    assert problem in found
    assert label_right(text, row("Entailment", (1,))) == 0.0
    assert corpus_metric([text], [row("Entailment", (1,))])["unreadable_share"] == 1.0


def test_without_spans_the_label_stands_alone() -> None:
    assert parse('{"label": "Entailment"}', spans=None) == (Answer("Entailment", None), "")
    assert parse('{"label": "Entailment", "evidence": [1]}', spans=None)[0] is None
    assert row("Entailment", None, spans=None).reference == '{"label": "Entailment"}'


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet='{}[]",:0123 lab"Entailm', max_size=60))
def test_no_text_raises(text: str) -> None:
    item = row("Entailment", (1,))
    parse(text, spans=3)
    assert label_right(text, item) in (0.0, 1.0)
    assert {decide(text, item, check) for check in CHECKS} <= {0, 1}


NEAR = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from([*LABELS, "entailment", None, 1]),
        "evidence": st.lists(st.sampled_from([0, 1, 5, 6, -1, 1.0, True, "1"]), max_size=3) | st.just(1),
        "why": st.just("so"),
    },
)


@settings(max_examples=200, deadline=None)
@given(NEAR, st.sampled_from(["", " so", "{}"]), st.booleans())
def test_parser_rubric_and_schema_gate_agree(value: dict, tail: str, twice: bool) -> None:
    """An answer is read exactly where the rubric's form checks and the schema gate's have nothing against it."""
    text = json.dumps(value) + tail
    if twice and value:
        key = next(iter(value))
        text = text.replace("{", "{" + json.dumps(key) + ": 0, ", 1)
    item = row("Entailment", (1,))
    answer, _ = parse(text, spans=6)
    verdicts = schema_gate.verdicts(text, item)
    sense = verdicts.pop("evidence_iff_mentioned")
    rubric = {check.id: met(decide(text, item, check), check) for check in checks_of(item.columns)}
    assert (answer is not None) == (set(verdicts.values()) == {1})
    own_sense = rubric.pop("evidence_iff_mentioned")
    assert (answer is not None) == (set(rubric.values()) == {1})
    if answer is not None:
        assert sense == own_sense == int((answer.label == NOT_MENTIONED) == (not answer.evidence))
        assert parse(write(answer.label, answer.evidence), spans=6) == (answer, "")


# ------------------------------------------------------------------------------------------------ the checks

RIGHT = '{"label": "Entailment", "evidence": [1]}'
FAULTS = {
    "label outside the set": ('{"label": "Maybe", "evidence": [1]}', {"label_is_known", "evidence_iff_mentioned"}),
    "index out of range": (
        '{"label": "Entailment", "evidence": [9]}',
        {"evidence_exists", "evidence_iff_mentioned"},
    ),
    "evidence with NotMentioned": ('{"label": "NotMentioned", "evidence": [1]}', {"evidence_iff_mentioned"}),
    "no evidence": ('{"label": "Entailment", "evidence": []}', {"evidence_iff_mentioned"}),
    "duplicate key": (
        '{"label": "Entailment", "label": "Entailment", "evidence": [1]}',
        {"keys", "label_is_known", "evidence_iff_mentioned"},
    ),
    "trailing prose": (RIGHT + " so it is.", {"beside"}),
    "no object": ("Entailment", {check.id for check in CHECKS}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_the_checks_that_name_it_and_no_other(fault: str) -> None:
    text, wanted = FAULTS[fault]
    item = row("Entailment", (1,))
    failed = {check.id for check in checks_of(item.columns) if met(decide(text, item, check), check) != 1}
    assert failed == wanted
    assert all(met(decide(RIGHT, item, check), check) == 1 for check in checks_of(item.columns))


def test_a_check_of_another_rubric_is_unknown() -> None:
    assert decide(RIGHT, row("Entailment", (1,)), Check(id="x", text="Is it polite?")) == -1
    assert decide(RIGHT, row("Entailment", (1,)), Check(id="x", text="?", predicate={"kind": "names"})) == -1


def test_rows_without_spans_carry_the_checks_of_the_label_alone() -> None:
    item = row("Entailment", None, spans=None)
    assert [check.id for check in checks_of(item.columns)] == [check.id for check in LABEL_CHECKS]
    assert all(met(decide(item.reference, item, check), check) == 1 for check in checks_of(item.columns))
    assert set(schema_gate.verdicts(item.reference, item).values()) == {1}
    assert 0 in schema_gate.verdicts('{"label": "Entailment", "evidence": []}', item).values()


# ------------------------------------------------------------------------------------------------ the figures


def test_literal_figures() -> None:
    """Four pairs of four spans: one right, one with the wrong label, one unreadable, one NotMentioned and right."""
    rows = [
        row("Entailment", (0, 1), spans=4),
        row("Contradiction", (2,), spans=4),
        row("Entailment", (3,), spans=4),
        row("NotMentioned", (), spans=4),
    ]
    answers = [write("Entailment", [1, 2]), write("Entailment", [2]), "Entailment", write("NotMentioned", [])]
    figures = corpus_metric(answers, rows)
    assert figures["accuracy"] == 0.5
    assert figures["f1_entailment"] == pytest.approx(2 / (2 + 2))  # 1 right of 2 given and 2 true
    assert figures["f1_contradiction"] == 0.0
    assert figures["f1_mean"] == pytest.approx(0.25)
    assert figures["macro_f1"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert figures["unreadable_share"] == 0.25
    # scores 1: spans 1 of the first (true) and 2 of the second (true); score 1/2: span 2 of the first (false); else 0
    # thresholds: 1 -> 2 of 2, recall 2/4; 1/2 -> 2 of 3, recall 2/4; 0 -> 4 of 12, recall 1
    assert figures["evidence_map"] == pytest.approx(0.5 * 1 + 0 * 2 / 3 + 0.5 * 4 / 12)
    assert figures["evidence_p_at_r80"] == pytest.approx(4 / 12)


def test_perfect_answers_have_perfect_figures_and_order_does_not_matter() -> None:
    rows = [row("Entailment", (0, 3)), row("Contradiction", (5,)), row("NotMentioned", ())]
    answers = [write("Entailment", [3, 0]), write("Contradiction", [5]), write("NotMentioned", [])]
    assert {k: v for k, v in corpus_metric(answers, rows).items() if v != 1.0} == {"unreadable_share": 0.0}


def test_what_no_row_has_is_nan_and_left_out_of_the_macro_f1() -> None:
    figures = corpus_metric([write("Entailment", [1])], [row("NotMentioned", ())])
    assert figures["macro_f1"] == 0.0
    for name in ("f1_entailment", "f1_contradiction", "f1_mean", "evidence_map", "evidence_p_at_r80"):
        assert math.isnan(figures[name])
    assert all(math.isnan(value) for value in corpus_metric([], []).values())
    without = corpus_metric(['{"label": "Entailment"}'], [row("Entailment", None, spans=None)])
    assert without["accuracy"] == 1.0
    assert math.isnan(without["evidence_map"])


def test_earlier_spans_of_the_list_score_higher() -> None:
    assert span_scores((4, 1), spans=5).tolist() == [0, 0.5, 0, 0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_figures_equal_scikit_learns(seed: int) -> None:
    """As the released evaluation computes them: pooled labels and pooled spans of the pairs that are mentioned."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    rows, answers, given = [], [], []
    for _ in range(60):
        spans = int(rng.integers(3, 9))
        label = LABELS[int(rng.integers(3))]
        true = () if label == NOT_MENTIONED else tuple(rng.permutation(spans)[: rng.integers(1, 3)].tolist())
        rows.append(row(label, true, spans=spans))
        said = LABELS[int(rng.integers(3))] if rng.random() < 0.5 else label
        listed = rng.permutation(spans)[: rng.integers(0, 4)].tolist()
        readable = rng.random() < 0.9
        answers.append(write(said, listed) if readable else write(said, listed) + "!")
        given.append((said, listed) if readable else ("unreadable", []))
    figures = corpus_metric(answers, rows)
    true = [item.columns["label"] for item in rows]
    said = [label for label, _ in given]
    each = metrics.f1_score(true, said, labels=list(LABELS), average=None, zero_division=0)
    assert figures["macro_f1"] == pytest.approx(each.mean())
    assert (figures["f1_entailment"], figures["f1_contradiction"]) == pytest.approx(tuple(each[:2]))
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    marks, scores = [], []
    for item, (_, listed) in zip(rows, given, strict=True):
        if item.columns["label"] != NOT_MENTIONED:
            marks += [float(n in item.columns["evidence"]) for n in range(item.columns["spans"])]
            scores += [1 / (listed.index(n) + 1) if n in listed else 0.0 for n in range(item.columns["spans"])]
    assert figures["evidence_map"] == pytest.approx(metrics.average_precision_score(marks, scores))
    precision, recall, _ = metrics.precision_recall_curve(marks, scores)
    assert figures["evidence_p_at_r80"] == pytest.approx(precision[np.flatnonzero(recall >= 0.8)[-1]])


def test_the_first_object_is_read_even_beside_prose() -> None:
    assert read('Sure: {"label": 1} {"label": 2}').value == {"label": 1}
    assert read("none").value is None
