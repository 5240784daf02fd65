"""Laws of the ParaRev twin: pure rows, disjoint splits, exact truth, a metric that reads only the answer's facts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.data.pararev_prompt import render_prompt
from dro_lab.data.twins import words
from dro_lab.data.twins.grammar import EOS, Problem, Turn, layout, longest_reference, shortest_reference, text_of
from dro_lab.data.twins.pararev import (
    PRESETS,
    ROW_KNOBS,
    SPLITS,
    TWIN,
    ParaRevTwin,
    decide,
    draw,
    make_row,
    make_rows,
    preset,
    quality,
    rubric,
    sample_answer,
    sample_chain,
    sample_problem,
    split_of,
)
from dro_lab.data.twins.protocol import NAMES, Twin, TwinExample, twin
from dro_lab.errors import UserError
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import Check, Row

DEFAULT = PRESETS["default"]
PROBLEM = Problem(("Ada", "Ben"), (3, 7), 1, (Turn(1, 4, "friday"), Turn(-1, 2, "monday")))
FACTS = Row(id="r", prompt=[], reference="", columns={"facts": [["friday", 1], ["monday", 9]]})


def content(row: Row) -> tuple[str, str]:
    return row.columns["paragraph"], row.columns["instruction"]


def test_the_marks_follow_the_turns_modulo_ten() -> None:
    assert PROBLEM.values() == (1, 9)
    assert Problem(PROBLEM.names, PROBLEM.starts, 0, PROBLEM.turns).values() == (7, 5)


def test_independent_turns_start_from_the_first_mark() -> None:
    assert Problem(PROBLEM.names, PROBLEM.starts, 1, PROBLEM.turns, independent=True).values() == (1, 5)


def test_paragraph_and_instruction_read_as_written() -> None:
    assert PROBLEM.paragraph() == "The dials read Ada 3 and Ben 7. Neither moved."
    assert PROBLEM.instruction() == "For Ben up 4 friday down 2 monday."
    assert render_prompt("P.", "I.") == "Paragraph: P.\nRevise: I."
    assert render_prompt("P.", "I.", "C.") == "Paragraph: P.\nRevise: I.\nConcerns: C."


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_is_a_pure_function_of_its_index(name: str) -> None:
    rows = make_rows(PRESETS[name], "train", 12, seed=3)
    assert (
        rows[7]
        == make_row(PRESETS[name], "train", 7, seed=3)
        == make_rows(PRESETS[name], "train", 2, seed=3, start=6)[1]
    )
    assert rows[7] != make_row(PRESETS[name], "train", 7, seed=4)


def test_splits_share_no_problem() -> None:
    rows = {split: {content(row) for row in make_rows(DEFAULT, split, 400, seed=0)} for split in SPLITS}
    assert all(len(found) > 390 for found in rows.values())
    assert len(rows) == 4
    assert not any(rows[one] & rows[two] for one, two in combinations(SPLITS, 2))
    problems = [sample_problem(DEFAULT, "train", np.random.default_rng(seed)) for seed in range(50)]
    assert {split_of(problem) for problem in problems} == {"train"}


def test_ood_problems_have_a_turn_that_no_other_split_has() -> None:
    for knobs in (DEFAULT, preset("default", steps_min=3, steps_max=3), preset("default", steps_max=5)):
        for split in ("train", "validation", "test"):
            assert max(row.columns["steps"] for row in make_rows(knobs, split, 60, seed=0)) <= knobs.steps_max
        for row in make_rows(knobs, "ood", 60, seed=0):
            assert row.columns["steps"] == knobs.steps_max + 1
            assert row.reference.count(" ") < knobs.reference_length
            assert len({day for day, _ in row.columns["facts"]}) == knobs.steps_max + 1


def test_a_long_problem_may_need_more_words_than_the_knob_says() -> None:
    short = preset("default", steps_max=5, reference_length=shortest_reference(5), rare_words=0)
    for row in make_rows(short, "ood", 10, seed=0):
        words_and_stops = row.reference.replace(";", " ;").replace(",", " ,")[:-1].split()
        assert len(words_and_stops) + 1 == shortest_reference(6)
        assert quality(row.reference, row) == 1.0


@pytest.mark.parametrize("split", ["validation", "ood"])
@pytest.mark.parametrize("name", PRESETS)
def test_truth_spans_pick_exactly_the_fact_digits(name: str, split: str) -> None:
    for row in make_rows(PRESETS[name], split, 60, seed=1):
        found = [row.reference[start:end] for start, end in row.columns["truth_spans"]]
        assert found == [str(value) for _, value in row.columns["facts"]]
        assert sum(character.isdigit() for character in row.reference) == len(found)
        for (day, _), (start, _) in zip(row.columns["facts"], row.columns["truth_spans"], strict=True):
            assert row.reference[:start].endswith(f" {day} ")
        assert quality(row.reference, row) == 1.0
        assert row.columns["steps"] == len(found)


def test_the_reference_answers_the_prompt() -> None:
    """The facts recomputed from the texts alone, by another way than the generator's."""
    for row in make_rows(DEFAULT, "test", 60, seed=2):
        instruction = row.columns["instruction"].rstrip(".").split()
        assert instruction[0] == "For"
        mark = int(row.columns["paragraph"].split(f" {instruction[1]} ")[1][0])
        facts = []
        for place in range(2, len(instruction), 3):
            way, amount, day = instruction[place : place + 3]
            mark += int(amount) if way == "up" else 10 - int(amount)
            facts.append([day, mark % 10])
        assert facts == row.columns["facts"]


def test_fully_coherent_references_follow_one_style_and_incoherent_ones_mix_both() -> None:
    formal = {pair.formal for pair in (*words.CLAUSE, *words.CLOSING, *words.OPENING)}
    casual = {pair.casual for pair in (*words.CLAUSE, *words.CLOSING, *words.OPENING)}
    for row in make_rows(preset("default", style_coherence=0.5), "train", 40, seed=0):
        found = set(row.reference.replace(",", " ").replace(";", " ").split())
        assert not found & (casual if row.columns["style"] > 0 else formal)
    styles = {row.columns["style"] for row in make_rows(DEFAULT, "train", 40, seed=0)}
    assert styles == {1, -1}
    mixed = make_rows(PRESETS["incoherent"], "train", 40, seed=0)
    assert all(set(row.reference.split()) & formal and set(row.reference.split()) & casual for row in mixed)


def test_rare_words_are_as_many_as_asked() -> None:
    rare = {word for pair in words.RARE.values() for word in pair[:2]}
    for count in (0, 4, 8):
        for row in make_rows(preset("default", rare_words=count), "train", 20, seed=0):
            assert sum(word in rare for word in row.reference.split()) == count


def test_only_the_mild_preset_carries_a_concern() -> None:
    assert make_row(PRESETS["mild"], "train", 0, seed=0).columns["concerns"] == words.EVEN_TONE
    assert words.EVEN_TONE in make_row(PRESETS["mild"], "train", 0, seed=0).prompt[0]["content"]
    assert make_row(DEFAULT, "train", 0, seed=0).columns["concerns"] is None


def test_row_presets_share_the_policy_knobs() -> None:
    for name in ("mild", "incoherent"):
        for key in ParaRevTwin.__dataclass_fields__.keys() - ROW_KNOBS:
            assert getattr(PRESETS[name], key) == getattr(DEFAULT, key)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.data())
def test_a_layout_has_the_length_asked_for(steps: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(shortest_reference(steps), longest_reference(steps)))
    slots = layout(steps, length)
    assert len(slots) == length
    assert [slot.step for slot in slots if slot.kind == "value"] == list(range(steps))


# ------------------------------------------------------------------------------------------------ the metric


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("on friday 1, then on monday 9!", 1.0),
        ("MONDAY 9 and Friday 1", 1.0),
        ("friday: 1; monday=9", 1.0),
        ("friday 1 friday 1 monday 9", 1.0),
        ("on friday 1, then on monday 8!", 0.5),
        ("on friday 1!", 0.5),
        ("friday 1 friday 2 monday 9", 0.5),  # contradictory
        ("friday 1 2 monday 9", 0.5),  # two marks in a row
        ("friday 11 monday 9", 0.5),
        ("friday 1st monday 9", 0.5),
        ("friday 9, monday 1", 0.0),  # swapped
        ("1 9", 0.0),
        ("friday monday 1 9", 0.0),
        ("notfriday 1", 0.0),
        ("The dials read Ada 3 and Ben 7. Neither moved.", 0.0),
        ("", 0.0),
        ("friday 1 monday 9\x00\ud800 \u0661 <think>", 1.0),
        ("friday \u0661 monday \u0669", 0.0),  # other scripts' digits are not the marks
    ],
)
def test_quality_of_literal_answers(answer: str, expected: float) -> None:
    assert quality(answer, FACTS) == expected


@given(st.text())
def test_quality_never_raises_and_stays_in_range(text: str) -> None:
    assert quality(text, FACTS) in (0.0, 0.5, 1.0)


# ------------------------------------------------------------------------------------------------ the rubric

CHECKS = rubric(PROBLEM)
ASKED = Row(id="r", prompt=[], reference="", columns={"paragraph": PROBLEM.paragraph()})


def test_the_rubric_asks_for_each_days_mark_the_name_and_a_revision() -> None:
    assert [check.id for check in CHECKS] == ["mark-friday", "mark-monday", "name", "revised"]
    assert [check.text for check in CHECKS] == [
        "Does the text state, as a digit, the mark of the dial on friday?",
        "Does the text state, as a digit, the mark of the dial on monday?",
        "Does the text name Ben?",
        "Does the text say something other than the paragraph did before its revision?",
    ]
    assert {check.expect for check in CHECKS} == {"yes"}


@pytest.mark.parametrize(
    ("answer", "verdicts"),
    [
        ("About Ben, on friday 1, on monday 9!", [1, 1, 1, 1]),
        ("About Ben, on friday 5, on monday 5!", [1, 1, 1, 1]),  # wrong marks: form, not truth
        ("BEN: Friday 1; MONDAY=9", [1, 1, 1, 1]),
        ("About Ben, on friday 1!", [1, 0, 1, 1]),
        ("About Ben, on friday steady, on monday steady!", [0, 0, 1, 1]),  # vague
        ("friday 1 monday 9", [1, 1, 0, 1]),
        ("Benjamin on friday 1 monday 9", [1, 1, 0, 1]),
        ("friday the 1st, monday the 9th", [0, 0, 0, 1]),
        (PROBLEM.paragraph(), [0, 0, 1, 0]),  # unrevised
        ("the dials READ  Ada 3 and Ben 7; neither moved", [0, 0, 1, 0]),  # other stops and spaces are no revision
        ("", [0, 0, 0, 0]),
        (" ...\n", [0, 0, 0, 0]),
    ],
)
def test_verdicts_on_literal_answers(answer: str, verdicts: list[int]) -> None:
    assert [decide(answer, ASKED, check) for check in CHECKS] == verdicts


def test_empty_unrevised_and_vague_answers_meet_too_few_checks_to_pass_a_gate() -> None:
    for split in SPLITS:
        for row in make_rows(DEFAULT, split, 40, seed=0):
            checks = checks_of(row.columns)
            days = [day for day, _ in row.columns["facts"]]
            name = next(check.predicate["name"] for check in checks if check.predicate and "name" in check.predicate)
            vague = " ".join([f"About {name},", *(f"on {day} {words.VAGUE}" for day in days)])
            for answer in ("", row.columns["paragraph"], vague):
                assert sum(decide(answer, row, check) for check in checks) < 0.6 * len(checks)
            assert [decide(row.reference, row, check) for check in checks] == [1] * len(checks)


def test_a_check_of_another_rubric_is_unknown() -> None:
    assert decide("Ben friday 1", ASKED, Check(id="x", text="Is it kind?")) == -1
    assert decide("Ben friday 1", ASKED, Check(id="x", text="Is it kind?", predicate={"kind": "kind"})) == -1


@given(st.text())
def test_verdicts_never_raise(text: str) -> None:
    assert {decide(text, ASKED, check) for check in CHECKS} <= {0, 1}


# ------------------------------------------------------------------------------------------------ chains and answers


def test_a_right_chain_leads_to_a_right_answer() -> None:
    rng = np.random.default_rng(0)
    chain = sample_chain(DEFAULT, PROBLEM, rng, error_rate=0.0)
    assert chain.marks == (1, 9)
    assert quality(text_of(sample_answer(DEFAULT, PROBLEM, chain, rng)), FACTS) == 1.0
    lines = text_of(chain.pieces).split("\n")
    assert lines[0] == "For Ben 7"
    assert lines[1].split()[1:] == ["up", "4", "friday", "1"]


def test_an_error_travels_down_the_chain_and_into_the_answer() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        chain = sample_chain(DEFAULT, PROBLEM, rng, error_rate=0.9)
        answer = text_of(sample_answer(DEFAULT, PROBLEM, chain, rng))
        assert f"friday {chain.marks[0]}" in answer
        assert f"monday {chain.marks[1]}" in answer
    wrong_first = sample_chain(preset("default", error_rate=0.9), PROBLEM, np.random.default_rng(2), error_rate=0.9)
    step = next(piece for piece in wrong_first.pieces[5:] if piece.options and piece.options[0][0] == " 0")
    assert step.options[1] == (" 1", pytest.approx(0.1))
    assert sum(share for _, share in step.options) == pytest.approx(1.0)


def test_every_distribution_sums_to_one_and_holds_its_draw() -> None:
    rng = np.random.default_rng(0)
    knobs = preset("default", distractors=2, redundant=0.5, shortcut_share=0.3, shortcut_bonus=0.2)
    for _ in range(200):
        problem = sample_problem(knobs, "train", rng)
        chain = sample_chain(knobs, problem, rng, error_rate=0.45)
        for piece in (*chain.pieces, *sample_answer(knobs, problem, chain, rng)):
            if piece.options:
                assert sum(share for _, share in piece.options) == pytest.approx(1.0)
                assert dict(piece.options)[piece.text] > 0


def test_the_answer_leans_to_its_chain_and_hardly_under_the_concern() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        chain = sample_chain(DEFAULT, PROBLEM, rng, error_rate=0.45)
        plain = sample_answer(DEFAULT, PROBLEM, chain, rng)[1]
        even = sample_answer(DEFAULT, PROBLEM, chain, rng, even_tone=True)[1]
        assert plain.options[0] == ("Regarding", pytest.approx(0.5 + DEFAULT.lean * chain.style))
        assert even.options[0] == ("Regarding", pytest.approx(0.5 + DEFAULT.even_lean * chain.style))


def test_a_skipped_chain_gives_a_vague_answer() -> None:
    knobs = preset("shortcut", shortcut_share=1.0)
    chain = sample_chain(knobs, PROBLEM, np.random.default_rng(0), error_rate=0.45)
    answer = text_of(sample_answer(knobs, PROBLEM, chain, np.random.default_rng(0)))
    assert chain.skipped
    assert answer.count(words.VAGUE) == 2
    assert quality(answer, FACTS) == 0.0


def test_redundant_lines_repeat_the_mark() -> None:
    chain = sample_chain(preset("default", redundant=1.0), PROBLEM, np.random.default_rng(0), error_rate=0.0)
    assert text_of(chain.pieces).count(words.AGAIN) == 2
    assert f"{words.AGAIN} 9\n" in text_of(chain.pieces)


def test_each_phase_draws_what_it_is_to_teach() -> None:
    def drawn(phase: str) -> list[TwinExample]:
        rng = np.random.default_rng(0)
        return [draw(DEFAULT, phase, rng) for _ in range(300)]

    assert all(example.pieces[-1].text == "</think>" and example.first == 0 for example in drawn("chains"))
    copied = [example for example in drawn("copy") if example.pieces[-1].text == EOS]
    assert 0.65 < len(copied) / 300 < 0.85
    assert all(example.pieces[example.first - 1].text == "</think>" for example in copied)
    noisy = drawn("noisy")
    assert all(example.pieces[-1].text == EOS for example in noisy)
    assert 0.9 < sum(example.first == 0 and example.thinking for example in noisy) / 300 < 0.99
    silent = [example for example in noisy if not example.thinking]
    assert silent
    assert all("</think>" not in text_of(example.pieces) for example in silent)


def test_the_twin_fulfils_the_frame() -> None:
    made: Twin = TWIN
    assert twin("pararev") is made
    assert NAMES[0] == made.name
    row = made.make_row(made.presets["default"], "ood", 3, seed=0)
    assert row == make_row(DEFAULT, "ood", 3, seed=0)
    assert row.columns.keys() >= {"truth_spans", "steps", "rubric"}
    assert made.quality(row.reference, row) == 1.0
    assert not made.row_knobs & made.shared_knobs


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"style_coherence": 0.6}, "style_coherence=0.6"),
        ({"lean": -0.1}, "lean=-0.1"),
        ({"steps_min": 0}, "steps_min=0"),
        ({"steps_min": 5}, "steps_min=5"),
        ({"steps_max": 8}, "steps_max=8"),
        ({"reference_length": 10}, "reference_length=10"),
        ({"reference_length": 500}, "reference_length=500"),
        ({"rare_words": 99}, "rare_words=99"),
        ({"distractors": 3}, "distractors=3"),
        ({"leen": 0.1}, "unknown twin knob 'leen'"),
    ],
)
def test_a_bad_knob_is_named(knobs: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preset("default", **knobs)


@pytest.mark.parametrize("knobs", [{"lean": 0}, {"style_balance": 1}, {"even_tone": True}, {"rare_words": 0}])
def test_a_whole_number_does_for_a_float_knob(knobs: dict[str, Any]) -> None:
    ((name, value),) = knobs.items()
    assert getattr(preset("default", **knobs), name) == value


def test_an_unknown_preset_or_split_is_named() -> None:
    with pytest.raises(UserError, match="unknown twin preset 'strong'"):
        preset("strong")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        make_row(DEFAULT, "dev", 0, seed=0)
