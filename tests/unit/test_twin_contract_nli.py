"""Laws of the ContractNLI twin: pure rows, disjoint splits, exact truth, chains that conclude what they say."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_lab.data import contract_nli
from dro_lab.data.contract_nli_answer import LABELS, NOT_MENTIONED, parse
from dro_lab.data.contract_nli_metrics import corpus_metric
from dro_lab.data.twins.contract_nli import TWIN, draw, make_row, vocabulary_texts
from dro_lab.data.twins.contract_nli_chains import sample_answer, sample_chain
from dro_lab.data.twins.contract_nli_problem import Contract, ContractNLITwin, Period, sample_contract, split_of
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
SHIPPED = Path(__file__).parents[2] / "dro_lab/policy/contract_nli"
LITERAL = Contract(
    names=("Ada", "Ben"),
    action="sharing",
    first=2,
    periods=(Period(3, True), Period(4, False), Period(1, True)),
    month=5,
)


def test_a_literal_contract() -> None:
    assert LITERAL.spans() == [
        "Ada and Ben agree.",
        "Both are bound.",
        "allowed 3 months;",
        "barred 4 months;",
        "allowed 1 months;",
    ]
    assert LITERAL.hypothesis() == "In month 5 sharing is allowed."
    assert (LITERAL.truth(), LITERAL.steps()) == (("Contradiction", 3), 2)
    truths = [Contract(**{**fields(LITERAL), "month": month}).truth() for month in range(1, 10)]
    assert truths == [("Entailment", 2)] * 3 + [("Contradiction", 3)] * 4 + [("Entailment", 4), (NOT_MENTIONED, None)]


def fields(contract: Contract) -> dict:
    return {name: getattr(contract, name) for name in contract.__dataclass_fields__}


def test_a_row_is_a_pure_function_of_its_index() -> None:
    rows = make_rows(TWIN, DEFAULT, "train", 12, seed=3)
    assert rows[7] == make_row(DEFAULT, "train", 7, seed=3) == make_rows(TWIN, DEFAULT, "train", 2, seed=3, start=6)[1]
    assert rows[7].prompt != make_row(DEFAULT, "train", 7, seed=4).prompt


def test_splits_share_no_contract_and_ood_needs_more_steps() -> None:
    rows = {split: make_rows(TWIN, DEFAULT, split, 200, seed=0) for split in SPLITS}
    texts = {split: {row.prompt[0]["content"] for row in found} for split, found in rows.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    assert min(map(len, texts.values())) > 190
    steps = {split: {row.columns["steps"] for row in found} for split, found in rows.items()}
    assert steps == {"train": {2, 3, 4}, "validation": {2, 3, 4}, "test": {2, 3, 4}, "ood": {5, 6}}
    rng = np.random.default_rng(0)
    assert {split_of(sample_contract(DEFAULT, "test", rng), DEFAULT) for _ in range(50)} == {"test"}


def test_held_back_steps_are_ood_and_share_no_contract_with_the_warm_start() -> None:
    knobs = TWIN.presets["held_back"]
    rows = {split: make_rows(TWIN, knobs, split, 60, seed=0) for split in SPLITS}
    steps = {split: {row.columns["steps"] for row in found} for split, found in rows.items()}
    assert steps == {"train": {2, 3}, "validation": {2, 3}, "test": {2, 3}, "ood": {4}}
    rng = np.random.default_rng(5)
    ood = [sample_contract(knobs, "ood", rng) for _ in range(100)]
    assert {split_of(contract, DEFAULT) for contract in ood} == {"validation", "test"}  # never the taught split
    taught = [draw(knobs, "chains", rng) for _ in range(60)]
    assert {text_of(example.pieces).count("[") for example in taught} == {2, 3, 4}


def test_labels_are_balanced_and_no_span_number_is_new_in_ood() -> None:
    for split in SPLITS:
        rows = make_rows(TWIN, DEFAULT, split, 400, seed=1)
        shares = [sum(row.columns["label"] == label for row in rows) / 400 for label in LABELS]
        assert all(0.26 < share < 0.41 for share in shares)
        assert max(row.columns["spans"] for row in rows) == 7


def test_the_truth_can_be_read_from_the_prompt() -> None:
    """Recomputed from the text alone, by another way than the generator's: every month has its span."""
    for split in ("test", "ood"):
        for row in make_rows(TWIN, DEFAULT, split, 100, seed=2):
            content = row.prompt[0]["content"]
            months = [
                (int(number), word)
                for number, word, length in re.findall(r"\[(\d)\] (allowed|barred) (\d) months;", content)
                for _ in range(int(length))
            ]
            asked = int(re.findall(r"In month (\d) ", content)[0])
            if asked > len(months):
                wanted = {"label": "NotMentioned", "evidence": []}
            else:
                number, word = months[asked - 1]
                wanted = {"label": {"allowed": "Entailment", "barred": "Contradiction"}[word], "evidence": [number]}
            assert json.loads(row.reference) == wanted
            assert TWIN.quality(row.reference, row) == 1.0


def test_truth_spans_mark_the_label_and_the_span_numbers_and_nothing_else() -> None:
    for row in make_rows(TWIN, DEFAULT, "validation", 60, seed=1):
        marked = [row.reference[start:end] for start, end in row.columns["truth_spans"]]
        assert marked == [row.columns["label"], *map(str, row.columns["evidence"])]
        rest = row.reference
        for start, end in reversed(row.columns["truth_spans"]):
            rest = rest[:start] + rest[end:]
        assert rest in ('{"label": "", "evidence": []}',)


def test_rows_have_the_real_sets_columns_and_meet_their_own_checks(tmp_path: Path) -> None:
    text = {"text": "A b.", "spans": [[0, 4]], "id": 1, "file_name": None}
    annotations = [{"annotations": {"n": {"choice": "Entailment", "spans": [0]}}}]
    whole = {"documents": [{**text, "annotation_sets": annotations}], "labels": {"n": {"hypothesis": "B."}}}
    (tmp_path / "f.json").write_text(json.dumps(whole))
    real = next(row for part in contract_nli.load(source=str(tmp_path / "f.json")).splits.values() for row in part)
    for row in make_rows(TWIN, DEFAULT, "train", 20, seed=0):
        assert set(real.columns) - set(row.columns) <= {"file_name", "left_out"}
        assert set(row.columns) - set(real.columns) == {"truth_spans", "steps"}
        assert all(row.columns[key] == real.columns[key] for key in ("schema", "predicates", "rubric"))
        assert all(TWIN.decide(row.reference, row, c) == int(c.expect == "yes") for c in checks_of(row.columns))
        assert set(schema_gate.verdicts(row.reference, row).values()) == {1}


def test_the_loaded_twin_has_metric_figures_and_four_splits() -> None:
    task = contract_nli.load(source="twin", sizes={"train": 8, "validation": 6, "test": 4})
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [8, 6, 4]
    assert task.splits["ood"]
    assert (task.metric_name, task.corpus_metric) == ("label_accuracy", corpus_metric)
    assert task.corpus_metric is not None
    rows = make_rows(TWIN, DEFAULT, "test", 50, seed=0)
    assert task.corpus_metric([row.reference for row in rows], rows)["macro_f1"] == 1.0
    assert task.provenance.kind == "twin"


# ------------------------------------------------------------------------------------------------ chains


def test_a_right_chain_reads_as_written_and_its_answer_is_the_reference() -> None:
    rng = np.random.default_rng(0)
    chain = sample_chain(LITERAL, rng, error_rate=0.0)
    assert text_of(chain.pieces) == (
        "Month 5\n[2] allowed 3 to 3 of 5 before\n[3] barred 4 to 7 of 5 reached\nSo Contradiction 3\n</think>"
    )
    assert text_of(sample_answer(LITERAL, chain, rng)) == ('\n\n{"label": "Contradiction", "evidence": [3]}<|im_end|>')
    none = Contract(**{**fields(LITERAL), "month": 9})
    assert text_of(sample_chain(none, rng, error_rate=0.0).pieces).endswith(
        "[4] allowed 1 to 8 of 9 before\nSo NotMentioned\n</think>"
    )


def test_answers_copy_what_the_chain_concludes_right_or_wrong() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for index in range(200):
        row = make_row(DEFAULT, "train", index, seed=0)
        contract = sample_contract(DEFAULT, "train", np.random.default_rng([0, 0, index]))
        chain = sample_chain(contract, rng, error_rate=0.5)
        answer = text_of(sample_answer(contract, chain, rng)).strip().removesuffix("<|im_end|>")
        reasoning = text_of(chain.pieces).removesuffix("</think>")
        assert TWIN.copied(reasoning, answer, row) == [True, True]
        assert parse(answer, spans=row.columns["spans"])[1] == ""
        assert TWIN.quality(answer, row) == float(chain.label == contract.truth()[0])
        wrong += chain.label != contract.truth()[0]
    assert 70 < wrong < 130
    assert TWIN.copied("So Entailment 3", '{"label": "Entailment", "evidence": [2]}', row) == [True, False]
    assert TWIN.copied("So Entailment 3", "Entailment", row) == [False, False]
    assert TWIN.copied("Month 5", '{"label": "Entailment", "evidence": [2]}', row) == []


def test_wrong_totals_come_at_the_error_rate_and_options_say_so() -> None:
    rng = np.random.default_rng(2)
    right = total = 0
    for _ in range(300):
        contract = sample_contract(DEFAULT, "train", rng)
        for piece in sample_chain(contract, rng, error_rate=0.4).pieces:
            if piece.options:
                assert sum(share for _, share in piece.options) == pytest.approx(1)
                shares = dict(piece.options)
                assert sorted(shares.values())[-1] == pytest.approx(0.6)
                right += shares[piece.text] > 0.5
                total += 1
    assert right / total == pytest.approx(0.6, abs=0.06)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(train_tokenizer(vocabulary_texts(), context=CONTEXT))


@pytest.mark.parametrize("phase", ["chains", "copy", "noisy"])
def test_examples_are_one_token_a_piece_and_short(phase: str, encoder: Encoder) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        example = draw(DEFAULT, phase, rng)
        ids = [encoder.id(piece.text) for piece in example.pieces]
        assert encoder.tokenizer.encode(text_of(example.pieces), add_special_tokens=False) == ids
        assert len(ids) <= TWIN.max_completion
        closed = [piece.text for piece in example.pieces].index("</think>") if example.thinking else -1
        assert example.first in (0, closed + 1)  # the whole completion, or the answer alone
        assert phase == "noisy" or example.thinking
    assert len(encoder.prompt(example.prompt)) < 150


def test_even_ood_chains_end_within_the_budget() -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        contract = sample_contract(DEFAULT, "ood", rng)
        chain = sample_chain(contract, rng, error_rate=0.0)
        assert len(chain.pieces) + len(sample_answer(contract, chain, rng)) <= TWIN.max_completion


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps_max": 5}, "steps_max=5: must lie in [2, 4]"),
        ({"rows_max": 5}, "rows_max=5: must lie in [2, 4]"),
        ({"steps_min": 0}, "steps_min=0: must lie in [1, 4]"),
        ({"steps_min": 2.5}, "steps_min=2.5: must be a whole number"),
        ({"preamble_max": 4}, "preamble_max=4: must lie in [1, 3]"),
        ({"error_rate": 1.0}, "error_rate=1.0: must lie in [0, 0.9]"),
        ({"error_rate": "high"}, "error_rate=high: must be a number"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ContractNLITwin(**knobs)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'dev'"):
        make_row(DEFAULT, "dev", 0, seed=0)


# ------------------------------------------------------------------------------------------------ the shipped policy


def test_the_shipped_policy_was_built_with_the_default_knobs_and_is_small() -> None:
    record = json.loads((SHIPPED / "build.json").read_text(encoding="utf-8"))
    taught = {key: value for key, value in asdict(DEFAULT).items() if key not in TWIN.row_knobs}
    assert {key: record["knobs"][key] for key in taught} == taught
    assert record["generator_version"] == TWIN.version
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 2_000_000
    check_guards(Guards(**record["guards"]), limits_of(TWIN))


@pytest.mark.slow
def test_the_shipped_policy_holds_its_guards_when_measured_anew() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    guards = measure(AutoModelForCausalLM.from_pretrained(SHIPPED), tokenizer, TWIN, DEFAULT, rows=24, seed=77)
    check_guards(guards, limits_of(TWIN))
    assert guards.wording_sigma < guards.reflective_sigma / 2
