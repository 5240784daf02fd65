"""The study's answers carry the fault they are named after and no other, and its figures are computed as they say."""

import json

import numpy as np
import pytest

from dro_lab.data.contract_nli_checks import format_columns
from dro_lab.data.finqa_checks import columns as finqa_columns
from dro_lab.gating.schema import verdicts
from dro_lab.types import Row
from experiments.schema_gate.faults import FAULTS, SOUND
from experiments.schema_gate.study import rejects, table, wilson

NLI = Row(id="n", prompt=[], reference='{"label": "Entailment", "evidence": [2]}', columns=format_columns(spans=4))
SILENT = Row(id="s", prompt=[], reference='{"label": "NotMentioned", "evidence": []}', columns=format_columns(spans=4))
NUMBER = Row(id="f", prompt=[], reference="-3%", columns={"exe_ans": -3, **finqa_columns(-3, "%")})
WORD = Row(id="w", prompt=[], reference="yes", columns={"exe_ans": "yes", **finqa_columns("yes", "")})
ROWS = {"contract_nli": [NLI, SILENT], "finqa": [NUMBER, WORD]}
CASES = [(dataset, name) for dataset in FAULTS for name in FAULTS[dataset]]
JSON = {"json", "property label", "property evidence", "label_is_known", "evidence_exists", "evidence_iff_mentioned"}

BROKEN = {
    "label outside the set": {"property label", "label_is_known"},
    "index out of range": {"evidence_exists"},
    "evidence with NotMentioned": {"evidence_iff_mentioned"},
    "duplicate key": JSON,
    "another unit or none": {"has_unit"},
    "sign turned": {"has_sign"},
}


@pytest.mark.parametrize(("dataset", "name"), CASES)
def test_a_fault_breaks_what_it_is_named_after(dataset, name):
    change = FAULTS[dataset][name]
    for row in ROWS[dataset]:
        for seed in range(5):
            answer = change(row, np.random.default_rng(seed))
            if answer is None:
                continue
            failed = {check for check, verdict in verdicts(answer, row).items() if verdict != 1}
            assert failed
            if name in BROKEN and not (row is SILENT and name == "label outside the set"):
                assert failed == BROKEN[name], answer


@pytest.mark.parametrize("dataset", SOUND)
def test_sound_answers_break_nothing_and_wrong_ones_are_wrong(dataset):
    for name, change in SOUND[dataset].items():
        for row in ROWS[dataset]:
            for seed in range(5):
                answer = change(row, np.random.default_rng(seed))
                assert set(verdicts(answer, row).values()) == {1}, answer
                if name == "wrong but well-formed":
                    assert answer != row.reference
                if name == "laid out otherwise":
                    assert json.loads(answer) == json.loads(row.reference)


def test_five_faults_a_data_set():
    assert {dataset: len(changes) for dataset, changes in FAULTS.items()} == {"contract_nli": 5, "finqa": 5}


def test_an_answer_is_rejected_below_nu_and_unknown_is_not_met():
    assert [rejects([1, 1, 1, 0, 0], nu) for nu in (0.6, 1.0)] == [False, True]
    assert rejects([1, 1, -1, -1, 0], 0.6)
    assert not rejects([1], 1.0)


def test_wilson_on_literal_counts():
    assert wilson(0, 500) == pytest.approx((0.0, 0.00762), abs=1e-5)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_the_table_says_share_interval_and_n():
    def nothing_met(answered):
        return [[0] for _ in answered]

    lines = table(ROWS["contract_nli"], [("strict", nothing_met, 1)], "contract_nli", seed=0)
    assert lines[0] == "| answer | strict, any check | strict, nu 0.6 |"
    assert "| fault: trailing prose | 1.000 [0.207, 1.000] of 1 | 1.000 [0.207, 1.000] of 1 |" in lines
    assert len(lines) == 2 + 5 + 3
