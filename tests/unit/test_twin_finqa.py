"""Laws of the FinQA twin: pure rows, disjoint splits, exact truth, chains that add what they say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_lab.data import finqa
from dro_lab.data.finqa_metrics import execution_accuracy
from dro_lab.data.finqa_program import execute
from dro_lab.data.twins.finqa import TWIN, vocabulary_texts
from dro_lab.data.twins.finqa_chains import after, draw, number_pieces, sample_answer, sample_chain
from dro_lab.data.twins.finqa_rows import VALUES, FinqaTwin, Problem, make_row, prompt_of, sample_problem, split_of
from dro_lab.data.twins.grammar import text_of
from dro_lab.data.twins.load import make_rows
from dro_lab.data.twins.protocol import SPLITS
from dro_lab.errors import UserError
from dro_lab.gating import schema as schema_gate
from dro_lab.policy.build import CONTEXT
from dro_lab.policy.guards import Guards, check_guards, limits_of, measure
from dro_lab.policy.tokenizer import train_tokenizer
from dro_lab.policy.warmstart import Encoder
from dro_lab.rubrics.checks import checks_of

DEFAULT = TWIN.presets["default"]
SHIPPED = Path(__file__).parents[2] / "dro_lab/policy/finqa"
LITERAL = Problem(
    company="acme",
    opening=-2,
    movements=(("rent", 3), ("fees", -5), ("sales", 2)),
    asked=2,
    unit="%",
    rival=("ember", 7),
)


def with_(problem: Problem, **changes) -> Problem:
    return Problem(**{**{name: getattr(problem, name) for name in problem.__dataclass_fields__}, **changes})


def rows_of(split: str, count: int, *, seed: int = 0, knobs: FinqaTwin = DEFAULT):
    return make_rows(TWIN, knobs, split, count, seed=seed)


# ------------------------------------------------------------------------------------------------ rows


def test_a_literal_problem() -> None:
    assert prompt_of(LITERAL)[0]["content"] == (
        "acme opens at -2 .\n\nitem | change\nrent | 3\nfees | -5\nsales | 2\n\nember is at 7 .\n\n"
        "Question: what is the balance after fees in percent ?"
    )
    assert LITERAL.balances() == (1, -4)
    assert LITERAL.program() == "add(-2, 3), subtract(#0, 5)"
    sign = with_(LITERAL, unit="", asked=1)
    assert sign.question() == "is the balance after rent above zero ?"
    assert sign.program() == "add(-2, 3), greater(#0, const_0)"
    assert (execute(LITERAL.program()), execute(sign.program())) == (-4.0, "yes")
    assert execute(with_(LITERAL, unit="", movements=(("rent", 2), ("fees", 1)), asked=1).program()) == "no"


def test_a_row_is_a_pure_function_of_its_index() -> None:
    rows = rows_of("train", 12, seed=3)
    assert rows[7] == make_row(DEFAULT, "train", 7, seed=3) == make_rows(TWIN, DEFAULT, "train", 2, seed=3, start=6)[1]
    assert rows[7].prompt != make_row(DEFAULT, "train", 7, seed=4).prompt


def test_splits_share_no_page_and_ood_takes_more_additions() -> None:
    rows = {split: rows_of(split, 400) for split in SPLITS}
    texts = {split: {row.prompt[0]["content"] for row in found} for split, found in rows.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 1600
    steps = {split: {row.columns["steps"] for row in found} for split, found in rows.items()}
    assert steps == {**{key: {1, 2, 3, 4} for key in ("train", "validation", "test")}, "ood": {5, 6}}
    rng = np.random.default_rng(0)
    assert {split_of(sample_problem(DEFAULT, "test", rng)) for _ in range(50)} == {"test"}


def test_the_truth_can_be_read_from_the_prompt() -> None:
    """Recomputed from the text alone, by another way than the generator's: a running sum over the table's lines."""
    for split in ("test", "ood"):
        for row in rows_of(split, 150, seed=2):
            content = row.prompt[0]["content"]
            balance = int(re.findall(r"opens at (-?\d) \.", content)[0])
            asked = re.findall(r"balance after (\w+) ", content)[0]
            for name, amount in re.findall(r"(\w+) \| (-?\d)", content):
                balance += int(amount)
                if name == asked:
                    break
            if "above zero" in content:
                wanted = "yes" if balance > 0 else "no"
            else:
                wanted = f"{balance}%" if "percent" in content else f"{balance} million"
            assert row.reference == row.columns["answer"] == wanted
            assert TWIN.quality(row.reference, row) == 1.0
            assert execution_accuracy(row.columns["program"], row) == 1.0


def test_other_answers_are_wrong() -> None:
    for row in rows_of("test", 60):
        truth = row.columns["exe_ans"]
        if isinstance(truth, str):
            assert TWIN.quality({"yes": "no", "no": "yes"}[truth], row) == 0.0
        else:
            assert [v for v in VALUES if TWIN.quality(f"{v} million", row) == 1.0] == [int(truth)]
        assert TWIN.quality("", row) == TWIN.quality("rent", row) == 0.0


def test_truth_spans_mark_the_number_or_the_word_and_leave_the_unit() -> None:
    for row in rows_of("validation", 80):
        ((start, end),) = row.columns["truth_spans"]
        truth = row.columns["exe_ans"]
        assert row.reference[start:end] == (truth if isinstance(truth, str) else str(int(truth)))
        assert row.reference[end:] in ("", "%", " million")


def test_all_answers_occur_and_knobs_set_their_shares() -> None:
    rows = rows_of("train", 1500)
    kinds = Counter(row.columns["unit"] or "yes/no" for row in rows)
    assert kinds["yes/no"] / 1500 == pytest.approx(0.2, abs=0.03)
    assert kinds["%"] / 1500 == pytest.approx(0.4, abs=0.04)
    truths = Counter(row.columns["exe_ans"] for row in rows)
    assert {*map(float, VALUES), "yes", "no"} == set(truths)
    assert 0.4 < truths["yes"] / kinds["yes/no"] < 0.6
    assert max(truths[float(v)] for v in VALUES) < 0.1 * 1500
    numbers = rows_of("train", 50, knobs=TWIN.presets["numbers"])
    assert not any(isinstance(row.columns["exe_ans"], str) for row in numbers)


def test_rows_have_the_real_sets_columns_and_meet_their_own_checks(tmp_path: Path) -> None:
    page = {"pre_text": ["a ."], "post_text": ["b ."], "table": [["x", "1"]], "filename": "f", "id": "f-1"}
    qa = {"question": "what percent?", "answer": "3%", "exe_ans": 0.03, "program": "divide(3, 100)"}
    (tmp_path / "f.json").write_text(json.dumps([{**page, "qa": qa}]))
    real = next(row for part in finqa.load(source=str(tmp_path / "f.json")).splits.values() for row in part)
    for row in rows_of("train", 30):
        assert set(real.columns) - set(row.columns) == {"filename", "source_id"}
        assert set(row.columns) - set(real.columns) == {"pre_text", "post_text", "truth_spans", "steps"}
        checks = checks_of(row.columns)
        assert 2 <= len(checks) <= 4
        assert all(TWIN.decide(row.reference, row, check) == 1 for check in checks)
        assert not any(TWIN.decide("I cannot say", row, check) == 1 for check in checks)
        assert set(schema_gate.verdicts(row.reference, row).values()) == {1}


def test_the_loaded_twin_has_its_splits_and_knobs() -> None:
    task = finqa.load(source="twin", sizes={"train": 8, "validation": 6, "test": 4, "ood": 3}, seed=5)
    assert {split: len(rows) for split, rows in task.splits.items()} == {
        "train": 8,
        "validation": 6,
        "test": 4,
        "ood": 3,
    }
    assert task.splits["train"] == rows_of("train", 8, seed=5)
    assert task.splits["validation"] == rows_of("validation", 6, seed=0)
    assert (task.metric_name, task.provenance.kind, task.rubric_score) == ("accuracy", "twin", False)
    assert "R3 has little to find" in " ".join(task.notes)
    harder = finqa.load(source="twin", twin={"preset": "numbers", "steps_min": 3}, sizes={"test": 40})
    assert {row.columns["steps"] for row in harder.splits["test"]} == {3, 4}


# ------------------------------------------------------------------------------------------------ chains


def test_a_right_chain_reads_as_written_and_its_answer_is_the_reference() -> None:
    rng = np.random.default_rng(0)
    chain = sample_chain(LITERAL, rng, error_rate=0.0)
    assert text_of(chain.pieces) == "opens -2\nrent 3 = 1\nfees -5 = -4\n</think>"
    assert not any(piece.options for piece in chain.pieces)
    assert text_of(sample_answer(LITERAL, chain, rng)) == "\n\n-4%<|im_end|>"
    assert text_of(sample_answer(with_(LITERAL, unit="million"), chain, rng)) == "\n\n-4 million<|im_end|>"
    assert text_of(sample_answer(with_(LITERAL, unit=""), chain, rng)) == "\n\nno<|im_end|>"


def test_answers_copy_the_chains_last_balance_right_or_wrong() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for index in range(300):
        row = make_row(DEFAULT, "train", index, seed=0)
        problem = sample_problem(DEFAULT, "train", np.random.default_rng([0, 0, index]))
        chain = sample_chain(problem, rng, error_rate=0.45)
        answer = text_of(sample_answer(problem, chain, rng)).strip().removesuffix("<|im_end|>")
        reasoning = text_of(chain.pieces).removesuffix("</think>")
        assert TWIN.copied(reasoning, answer, row) == TWIN.copied(reasoning.strip(), answer, row) == [True]
        last, truth = chain.balances[-1], problem.balances()[-1]
        right = (last > 0) == (truth > 0) if problem.unit == "" else last == truth
        assert TWIN.quality(answer, row) == float(right)
        wrong += not right
    assert 0.5 < wrong / 300 < 0.75
    number = next(row for row in rows_of("train", 20) if row.columns["unit"] == "%")
    word = next(row for row in rows_of("train", 20) if row.columns["unit"] == "")
    assert TWIN.copied("rent 3 = -4", "4%", number) == TWIN.copied("rent 3 = -4", "", number) == [False]
    assert TWIN.copied("rent 3 = 0", "yes", word) == [False]
    assert TWIN.copied("opens 4", "4%", number) == []


def test_later_balances_follow_from_wrong_ones_and_wrong_ones_come_at_the_error_rate() -> None:
    rng = np.random.default_rng(2)
    slips = total = 0
    for _ in range(400):
        problem = sample_problem(DEFAULT, "train", rng)
        chain = sample_chain(problem, rng, error_rate=0.4)
        balance = problem.opening
        for (_, amount), stated in zip(problem.movements, chain.balances, strict=False):
            slips += stated != after(balance, amount)
            total += 1
            assert stated in VALUES
            balance = stated
    assert slips / total == pytest.approx(0.4, abs=0.05)
    assert (after(7, 5), after(-7, -5), after(7, -5)) == (9, -9, 2)


def test_soft_targets_are_the_distribution_that_numbers_are_drawn_from() -> None:
    """P(minus) * P(digit | minus) is the number's own share, and the pieces spell the number."""
    shares = {value: 0.55 if value == -3 else 0.45 / 18 for value in VALUES}
    for value in VALUES:
        pieces = number_pieces(shares, value)
        assert text_of(pieces) == f" {value}"
        assert all(sum(share for _, share in piece.options) == pytest.approx(1) for piece in pieces)
        chance = float(np.prod([dict(piece.options)[piece.text] for piece in pieces]))
        assert chance == pytest.approx(shares[value])
    assert [piece.options for piece in number_pieces({-3: 1.0}, -3)] == [(), ()]


@pytest.mark.parametrize("phase", ["chains", "copy", "noisy"])
def test_examples_are_one_token_a_piece_and_short(phase: str) -> None:
    tokenizer = train_tokenizer(vocabulary_texts(), context=CONTEXT)
    encoder = Encoder(tokenizer)
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(150):
        example = draw(DEFAULT, phase, rng)
        ids = [encoder.id(piece.text) for piece in example.pieces]
        assert tokenizer.encode(text_of(example.pieces), add_special_tokens=False) == ids
        assert {len(tokenizer.encode(t, add_special_tokens=False)) for p in example.pieces for t, _ in p.options} <= {1}
        assert len(ids) <= TWIN.max_completion
        assert len(encoder.prompt(example.prompt)) < 75
        seen.add((example.first > 0, example.thinking))
    assert seen >= {"chains": {(False, True)}, "copy": {(True, True), (False, True)}, "noisy": {(False, True)}}[phase]


def test_even_ood_chains_end_within_the_budget() -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        problem = sample_problem(DEFAULT, "ood", rng)
        chain = sample_chain(problem, rng, error_rate=0.45)
        assert len(chain.pieces) + len(sample_answer(problem, chain, rng)) <= TWIN.max_completion


def test_a_cut_chain_says_nothing_about_the_answer() -> None:
    rng = np.random.default_rng(5)
    for lines, text in ((-1, "</think>"), (0, "opens -2\n</think>"), (1, "opens -2\nrent 3 = 1\n</think>")):
        chain = sample_chain(LITERAL, rng, error_rate=0.0, lines=lines)
        assert text_of(chain.pieces) == text
        said = {text_of(sample_answer(LITERAL, chain, rng)).strip() for _ in range(400)}
        assert len(said) == len(VALUES)
        words = {text_of(sample_answer(with_(LITERAL, unit=""), chain, rng)).strip() for _ in range(40)}
        assert words == {"yes<|im_end|>", "no<|im_end|>"}


# ------------------------------------------------------------------------------------------------ bad input, policy


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps_max": 11}, "steps_max=11: must lie in [1, 10]"),
        ({"steps_min": 5}, "steps_min=5: must lie in [1, 4]"),
        ({"steps_min": 1.5}, "steps_min=1.5: must be a whole number"),
        ({"amount_max": 10}, "amount_max=10: must lie in [1, 9]"),
        ({"error_rate": 1.0}, "error_rate=1.0: must lie in [0, 0.9]"),
        ({"yes_no_share": -0.1}, "yes_no_share=-0.1: must lie in [0, 1]"),
        ({"percent_share": "half"}, "percent_share=half: must be a number"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        FinqaTwin(**knobs)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'dev'"):
        make_row(DEFAULT, "dev", 0, seed=0)


def test_every_knob_is_of_rows_policy_or_both() -> None:
    names = set(FinqaTwin.__dataclass_fields__)
    assert names >= TWIN.row_knobs | TWIN.shared_knobs
    assert not TWIN.row_knobs & TWIN.shared_knobs
    assert names - TWIN.row_knobs - TWIN.shared_knobs == {"error_rate"}


def test_the_shipped_policy_was_built_as_documented() -> None:
    record = json.loads((SHIPPED / "build.json").read_text(encoding="utf-8"))
    assert record["seconds"] < 15 * 60
    check_guards(Guards(**record["guards"]), limits_of(TWIN))


@pytest.mark.slow
def test_the_shipped_policy_holds_its_guards_when_measured_anew() -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    guards = measure(model, AutoTokenizer.from_pretrained(SHIPPED), TWIN, DEFAULT, rows=32, rollouts=8, seed=77)
    check_guards(guards, limits_of(TWIN))
    assert guards.wording_sigma < 0.05
