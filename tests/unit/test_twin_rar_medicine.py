"""Laws of the RaR-Medicine twin: pure rows, disjoint splits, exact truth, a rubric with both wordings of a pitfall."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.data import rar_medicine as loader
from dro_lab.data.rar_medicine_prompt import render_prompt
from dro_lab.data.twins.grammar import EOS, text_of
from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.protocol import SPLITS, twin
from dro_lab.data.twins.rar_medicine import TWIN, decide, quality, rubric, sample_problem, split_of
from dro_lab.data.twins.rar_medicine_chains import (
    Change,
    Problem,
    RarMedicineTwin,
    layout,
    longest_reference,
    sample_answer,
    sample_chain,
    shortest_reference,
)
from dro_lab.errors import UserError
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.types import Check, Row

DEFAULT = TWIN.presets["default"]
PROBLEM = Problem(("Rosa", "Omar"), (4, 7), (Change(1, 3, "fever"), Change(-1, 2, "rash")))
ROW = Row(
    id="r",
    prompt=[],
    reference="",
    columns={"facts": [["fever", 7], ["rash", 5]], "rubric": as_column(rubric(PROBLEM))},
)
RIGHT = "For Rosa we say after fever 7, after rash 5."


def test_the_doses_follow_the_orders_within_the_limits():
    assert PROBLEM.values() == (7, 5)
    assert PROBLEM.after(8, 0) == 9
    assert PROBLEM.after(1, 1) == 0


def test_the_question_reads_as_written():
    asked = "Units given are Rosa 4 and Omar 7. Orders for Rosa raise 3 fever lower 2 rash. What follows?"
    assert PROBLEM.question() == asked
    assert render_prompt(asked) == f"Question: {asked}\nAnswer in full sentences."


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (RIGHT, 1.0),
        ("Rosa: fever = 7; rash: 5", 1.0),
        ("after fever 7, after rash 5.", 8 / 9),  # the name is missing
        ("Rosa: fever 7, rash 4.", 4 / 9),
        ("Rosa: fever 7, rash 9.", 2 / 9),  # 9 > 5 is the pitfall: (3 + 1 - 2) / 9
        ("Rosa: fever 7, rash 5, rash 4.", 3 / 9),  # two doses after one finding: (3 + 1 - 1) / 9
        ("fever 3, rash 9.", 0.0),  # clipped at 0
        ("", 0.0),
        ("fever 77, rash 5th", 0.0),
        ("7 and 5", 0.0),
        ("fever " + "7" * 5000, 0.0),
    ],
)
def test_the_metric_is_the_rubric_score_of_the_answer(answer, wanted):
    assert quality(answer, ROW) == pytest.approx(wanted)


def test_the_rubric_has_rar_s_weights_and_one_pitfall_of_either_wording():
    checks = rubric(PROBLEM)
    assert [check.weight for check in checks] == [3, 5, 1, -2, -1]
    assert [(check.text, check.expect) for check in checks[3:]] == [
        ("Is this true of the answer: Recommends more than 5 units after rash.", "no"),
        ("Is this true of the answer: Avoids giving two different doses after one finding.", "yes"),
    ]


def test_the_program_gives_the_literal_answers():
    overdose, ambiguous = rubric(PROBLEM)[3:]
    assert decide("rash 9", ROW, overdose) == YES
    assert decide("rash 5", ROW, overdose) == NO
    assert decide("rash 5, then rash 6", ROW, ambiguous) == NO
    assert decide("", ROW, ambiguous) == YES
    assert decide(RIGHT, ROW, Check(id="x", text="Is it kind?")) == UNKNOWN
    assert decide(RIGHT, ROW, Check(id="x", text="?", predicate={"kind": "states_mark", "day": "x"})) == UNKNOWN


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 100))
def test_references_are_right_and_their_spans_are_the_doses(split, index, seed):
    row = TWIN.make_row(DEFAULT, split, index, seed=seed)
    assert row == TWIN.make_row(DEFAULT, split, index, seed=seed)
    assert quality(row.reference, row) == 1.0
    doses = [str(value) for _, value in row.columns["facts"]]
    assert [row.reference[low:high] for low, high in row.columns["truth_spans"]] == doses
    assert len(checks_of(row.columns)) == row.columns["steps"] + 3 <= 10


def test_every_dose_depends_on_the_orders_and_stays_in_range():
    for row in make_rows(TWIN, DEFAULT, "train", 200, seed=0):
        start = int(re.search(r"are \w+ (\d)", row.columns["question"])[1])
        orders = re.findall(r"(raise|lower) (\d) (\w+)", row.columns["question"])
        dose, wanted = start, []
        for sign, amount, finding in orders:
            dose += int(amount) * (1 if sign == "raise" else -1)
            wanted.append([finding, dose])
        assert row.columns["facts"] == wanted
        assert all(0 <= value <= 9 for _, value in wanted)


def test_splits_are_disjoint_and_ood_has_one_finding_more():
    rows = {split: make_rows(TWIN, DEFAULT, split, 300, seed=0) for split in SPLITS}
    questions = {split: {row.columns["question"] for row in part} for split, part in rows.items()}
    for one in SPLITS:
        assert all(not questions[one] & questions[other] for other in SPLITS if other != one)
    assert {row.columns["steps"] for row in rows["train"]} == {2, 3, 4}
    assert {row.columns["steps"] for row in rows["ood"]} == {5}
    assert split_of(PROBLEM) in ("train", "validation", "test")


def test_the_warm_start_sees_some_longer_problems_but_none_of_ood_s():
    rng = np.random.default_rng(5)
    steps = [sum(piece.text == "\n" for piece in TWIN.draw(DEFAULT, "chains", rng).pieces) - 1 for _ in range(600)]
    assert set(steps) == {2, 3, 4, 5}
    assert 0.10 < steps.count(5) / 600 < 0.20
    assert all(split_of(sample_problem(DEFAULT, "ood", rng)) != "train" for _ in range(50))
    assert all(split_of(sample_problem(DEFAULT, "train", rng, long=True)) == "train" for _ in range(50))


def test_the_layout_has_the_wanted_length_with_few_doses():
    for steps in range(2, 6):
        slots = layout(steps, 50)
        assert len(slots) == 50
        assert sum(slot.kind == "value" for slot in slots) == steps
    assert len(layout(2, longest_reference(2))) == longest_reference(2)
    assert len(layout(3, shortest_reference(3))) == shortest_reference(3)


def test_wrong_doses_carry_on_and_the_answer_follows_its_chain():
    rng = np.random.default_rng(0)
    wrong = total = 0
    for _ in range(300):
        problem = sample_problem(DEFAULT, "train", rng)
        chain = sample_chain(problem, rng, error_rate=0.45)
        answer = text_of(sample_answer(DEFAULT, problem, chain, rng)).removesuffix(EOS)
        said = [int(dose) for dose in re.findall(r" (\d)(?=[;,])", answer)]
        assert said == list(chain.doses)
        before = (problem.starts[0], *chain.doses[:-1])
        total += len(chain.doses)
        wrong += sum(problem.after(a, step) != b for step, (a, b) in enumerate(zip(before, chain.doses, strict=True)))
    assert 0.40 < wrong / total < 0.50


def test_wording_leans_to_the_chain_s_style_by_the_stated_probability():
    rng = np.random.default_rng(1)
    chain = replace(sample_chain(PROBLEM, rng, error_rate=0.0), style=1.0)
    first = sample_answer(DEFAULT, PROBLEM, chain, rng)[1]
    assert dict(first.options) == pytest.approx({"Concerning": 0.64, "With": 0.36})


def test_a_finding_without_a_dose_in_the_chain_gets_any_digit():
    rng = np.random.default_rng(2)
    chain = sample_chain(PROBLEM, rng, error_rate=0.0, lines=1)
    assert chain.doses == (7, None)
    pieces = sample_answer(DEFAULT, PROBLEM, chain, rng)
    assert sum(len(piece.options) == 10 for piece in pieces) == 1


def test_copied_compares_the_answer_with_its_own_reasoning():
    reasoning = "Dose Rosa 4\nThus raise 3 fever 7\nNow lower 2 rash 1\n"
    assert TWIN.copied(reasoning, "fever 7, rash 5", ROW) == [True, False]
    assert TWIN.copied("Dose Rosa 4\n", "fever 7, rash 5", ROW) == []


@pytest.mark.parametrize("phase", ["chains", "copy", "noisy"])
def test_every_piece_of_the_warm_start_is_one_token_and_ends_in_time(phase):
    from dro_lab.policy.tokenizer import train_tokenizer
    from dro_lab.policy.warmstart import Encoder

    encoder = Encoder(train_tokenizer(TWIN.vocabulary_texts(), context=512))
    rng = np.random.default_rng(3)
    for _ in range(60):
        example = TWIN.draw(DEFAULT, phase, rng)
        for piece in example.pieces:
            encoder.id(piece.text)
            assert sum(share for _, share in piece.options) == pytest.approx(1.0) or not piece.options
        assert len(example.pieces) <= TWIN.max_completion
        assert 0 <= example.first < len(example.pieces)


def test_ood_completions_would_fit_too():
    rng = np.random.default_rng(4)
    problem = sample_problem(DEFAULT, "ood", rng)
    chain = sample_chain(problem, rng, error_rate=0.0)
    assert len(chain.pieces) + len(sample_answer(DEFAULT, problem, chain, rng)) <= TWIN.max_completion


def test_the_loader_gives_the_twin_as_a_task():
    task = loader.load(sizes={"train": 5, "validation": 4, "test": 3, "ood": 2}, seed=3)
    assert {split: len(part) for split, part in task.splits.items()} == {
        "train": 5,
        "validation": 4,
        "test": 3,
        "ood": 2,
    }
    assert task.provenance.kind == "twin"
    assert task.metric_name == "rubric_score"
    assert task.check_program is not None
    assert task.metric(task.splits["ood"][0].reference, task.splits["ood"][0]) == 1.0
    assert twin("rar_medicine") is TWIN


@pytest.mark.parametrize(
    ("knobs", "wanted"),
    [
        ({"steps_min": 5}, "steps_min=5: must lie in"),
        ({"steps_max": 5}, "steps_max=5: must lie in"),
        ({"reference_length": 20}, "reference_length=20: must lie in"),
        ({"error_rate": 1}, "error_rate=1: must lie in"),
        ({"rare_words": 0.5}, "rare_words=0.5: must be a whole number"),
    ],
)
def test_knobs_check_themselves(knobs, wanted):
    with pytest.raises(UserError, match=re.escape(wanted)):
        RarMedicineTwin(**knobs)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'dev'"):
        TWIN.make_row(DEFAULT, "dev", 0, seed=0)


@pytest.mark.slow
def test_the_shipped_policy_holds_its_guards_when_measured_anew():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dro_lab.models import shipped_policies
    from dro_lab.policy.guards import check_guards, limits_of, measure

    folder = shipped_policies()["rar_medicine"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    check_guards(measure(model, tokenizer, TWIN, DEFAULT, rows=24, seed=11), limits_of(TWIN))
    longer = measure(model, tokenizer, TWIN, DEFAULT, rows=12, seed=11, split="ood")
    assert longer.greedy_quality > 0.5
    assert longer.unfinished < 0.05
