"""The shipped policy is what its recipe says, and the recipe runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from dro_lab.data.twins.grammar import Piece, text_of
from dro_lab.data.twins.pararev import (
    PRESETS,
    TWIN,
    copied,
    make_rows,
    preset,
    sample_answer,
    sample_chain,
    sample_problem,
    vocabulary_texts,
)
from dro_lab.data.twins.protocol import TwinExample, twin
from dro_lab.errors import UserError
from dro_lab.models import SHIPPED_DEFAULT, knows_twins_only, shipped_policies, shipped_policy
from dro_lab.policy import guards as guards_module
from dro_lab.policy.build import main, parse_overrides
from dro_lab.policy.guards import (
    LIMITS,
    Guards,
    check_guards,
    checks_met,
    limits_of,
    measure,
    reference_probs,
    split_completion,
)
from dro_lab.policy.tokenizer import train_tokenizer
from dro_lab.policy.warmstart import BUDGETS, Encoder, Phase, budget, collate, loss_of
from dro_lab.types import Row

SHIPPED = shipped_policy("pararev")
FILES = (
    "build.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(tokenizer)


# ------------------------------------------------------------------------------------------------ tokenizer


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED) if not _CACHE else _CACHE[0]
    _CACHE[:] = [tokenizer]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


_CACHE: list[PreTrainedTokenizerBase] = []


def test_the_grammar_costs_one_token_a_piece(tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    knobs = preset("default", distractors=2, redundant=0.3, shortcut_share=0.2)
    for _ in range(50):
        problem = sample_problem(knobs, "train", rng)
        chain = sample_chain(knobs, problem, rng, error_rate=0.45)
        pieces = (*chain.pieces, *sample_answer(knobs, problem, chain, rng))
        assert tokenizer.encode(text_of(pieces), add_special_tokens=False) == [encoder.id(p.text) for p in pieces]


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2024 17")) == ["2", "0", "2", "4", "Ġ1", "7"]


def test_thinking_marks_are_plain_added_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode("<think>a</think>")
    assert len(ids) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_chat_template_opens_or_closes_the_thinking_block(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n"
    off = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert off == text + "\n</think>\n\n"


def test_default_sequences_stay_short(tokenizer: PreTrainedTokenizerBase) -> None:
    for row in make_rows(PRESETS["default"], "train", 100, seed=0):
        prompt = tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        assert len(tokenizer.encode(prompt)) <= 45
        reasoning = 4 + 6 * row.columns["steps"]
        reference = len(tokenizer.encode(row.reference))
        assert reference == PRESETS["default"].reference_length
        assert reasoning + 2 + reference + 1 <= 96


def test_training_the_tokenizer_twice_gives_the_same_ids() -> None:
    first, second = (train_tokenizer(vocabulary_texts(), context=64) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


# ------------------------------------------------------------------------------------------------ the shipped policy


@pytest.mark.parametrize("name", shipped_policies())
def test_every_shipped_folder_is_complete_small_and_known(name: str) -> None:
    folder = shipped_policies()[name]
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000_000
    record = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    made_for = twin(name)
    assert record["twin"] == name
    assert record["generator_version"] == made_for.version
    assert record["limits"] == {key: list(pair) for key, pair in limits_of(made_for).items()}
    check_guards(Guards(**record["guards"]), limits_of(made_for))
    default = asdict(made_for.presets["default"])
    assert {key: record["knobs"][key] for key in default.keys() - made_for.row_knobs} == {
        key: default[key] for key in default.keys() - made_for.row_knobs
    }
    assert knows_twins_only(AutoTokenizer.from_pretrained(folder))
    text = train_tokenizer(made_for.vocabulary_texts(), context=4096)
    assert text.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()


def test_a_data_set_without_a_policy_of_its_own_gets_pararevs() -> None:
    assert shipped_policy("jsonl") == shipped_policy(None) == shipped_policies()[SHIPPED_DEFAULT]
    assert {name: shipped_policy(name) for name in shipped_policies()} == shipped_policies()


def test_a_strange_vocabulary_descends_from_no_twin() -> None:
    assert not knows_twins_only(train_tokenizer(["other", "words"], context=64))


@pytest.mark.slow
def test_the_shipped_policy_holds_its_guards_when_measured_anew(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert model.config.model_type == "qwen3"
    guards = measure(model, tokenizer, TWIN, PRESETS["default"], rows=24, rollouts=8, seed=77)
    check_guards(guards, limits_of(TWIN))
    assert guards.wording_sigma < guards.reflective_sigma / 2


def test_weights_are_stored_in_half_precision_and_loaded_in_float32() -> None:
    with safe_open(SHIPPED / "model.safetensors", "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_reference_probabilities_equal_those_of_one_plain_forward(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    row = make_rows(PRESETS["default"], "test", 1, seed=0)[0]
    text = tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
    reasoning = "For Ada 1\nWell up 2 monday 3\n"
    probabilities, truth = reference_probs(model, tokenizer, row, [reasoning])
    ids = tokenizer.encode(text + reasoning + "</think>\n\n" + row.reference, return_tensors="pt")
    with torch.no_grad():
        expected = model(ids).logits.softmax(-1)
    last = probabilities.shape[1]
    for place in range(last):
        position = ids.shape[1] - last + place
        assert probabilities[0, place] == pytest.approx(float(expected[0, position - 1, ids[0, position]]), abs=1e-5)
    assert int(truth.sum()) == row.columns["steps"]


# ------------------------------------------------------------------------------------------------ the recipe


def test_the_loss_is_the_cross_entropy_with_the_grammars_distribution(encoder: Encoder) -> None:
    """Against a plain float64 computation, piece by piece."""
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    rng = np.random.default_rng(0)
    examples = [TWIN.draw(PRESETS["default"], "noisy", rng) for _ in range(3)]
    heavy = TWIN.fact_words
    total = weights = 0.0
    with torch.no_grad():
        loss = float(loss_of(model, collate(examples, encoder, heavy)))
        for example in examples:
            prompt = encoder.prompt(example.prompt, thinking=example.thinking)
            ids = [*prompt, *(encoder.id(piece.text) for piece in example.pieces)]
            logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            for place, piece in list(enumerate(example.pieces))[example.first :]:
                weight = 4.0 if piece.text.strip() in heavy else 1.0
                for text, share in piece.options or ((piece.text, 1.0),):
                    total -= weight * share * float(logps[len(prompt) + place - 1, encoder.id(text)])
                weights += weight
    assert loss == pytest.approx(total / weights, rel=1e-4)


def test_a_place_may_have_many_alternatives(encoder: Encoder) -> None:
    """The table of targets is as wide as the widest place."""
    texts = [piece for piece in TWIN.vocabulary_texts() if piece.startswith(" ")][:40]
    wide = Piece(texts[0], tuple((text, 1 / 40) for text in texts))
    prompt = [{"role": "user", "content": "Hello"}]
    batch = collate([TwinExample(prompt, (Piece("For"), wide))], encoder, frozenset())
    assert batch[3].shape == batch[4].shape == (2, 40)
    assert batch[3][1].tolist() == [encoder.id(text) for text in texts]
    assert batch[4].sum(1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.slow
def test_a_start_from_a_checkpoint_keeps_what_it_knew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps of the last phase change little, and the record says where the policy came from."""
    out = tmp_path / "p"
    arguments = ["lean=0.1", "--start", str(SHIPPED), "--scale-steps", "0.02", "--out", str(out), "--no-guards"]
    assert main([*arguments, "--threads", str(torch.get_num_threads())]) == 0
    record = json.loads((out / "build.json").read_text(encoding="utf-8"))
    assert [phase["name"] for phase in record["phases"]] == ["noisy"]
    assert record["phases"][0]["steps"] == 2
    assert record["knobs"]["lean"] == 0.1
    assert record["start"]["knobs"]["lean"] == 0.14
    assert record["guards"]["greedy_quality"] > 0.8
    assert knows_twins_only(AutoTokenizer.from_pretrained(out))


@pytest.mark.long
def test_a_small_budget_rebuild_learns_and_its_guards_refuse_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seconds are not enough for a fit policy: the loss falls, the files load, and the guards say so."""
    threads = torch.get_num_threads()
    try:
        status = main(["--out", str(tmp_path / "p"), "--budget", "small", "--seed", "1", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr()
    losses = [float(line.rsplit(" ", 1)[1]) for line in printed.out.splitlines() if " loss " in line]
    assert losses[-1] < losses[0] / 2
    assert "should reach: greedy_quality 0.8-1.0" in printed.out
    assert status == 2
    assert "the warm start failed" in printed.err
    assert {path.name for path in (tmp_path / "p").iterdir()} == set(FILES)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "p")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "p"))


GOOD = Guards(
    greedy_quality=0.95,
    sampled_quality=0.3,
    state_copy=0.98,
    reflective_sigma=0.45,
    wording_sigma=0.1,
    unfinished=0.0,
    checks_met=0.9,
)


def test_a_guard_out_of_limits_is_named_with_its_limits() -> None:
    check_guards(GOOD)
    with pytest.raises(UserError, match=r"reflective_sigma = 0.130, must lie in \[0.3, 1.0\]"):
        check_guards(replace(GOOD, reflective_sigma=0.13))
    with pytest.raises(UserError, match=r"sampled_quality = 0.900"):
        check_guards(replace(GOOD, sampled_quality=0.9))


def test_a_twins_own_limits_come_on_top() -> None:
    assert limits_of(TWIN) == {**LIMITS, "checks_met": (0.95, 1.0)}
    with pytest.raises(UserError, match=r"checks_met = 0.900, must lie in \[0.95, 1.0\]"):
        check_guards(GOOD, limits_of(TWIN))


def test_checks_met_are_held_against_what_a_good_answer_gets() -> None:
    (row,) = make_rows(PRESETS["default"], "test", 1, seed=0)
    assert checks_met(TWIN, row, row.reference) == [True] * len(row.columns["rubric"])
    turned = [{**check, "expect": "no"} for check in row.columns["rubric"]]
    unknown = [{"text": "Is it kind?"}]
    asked = replace(row, columns={**row.columns, "rubric": [*turned, *unknown]})
    assert checks_met(TWIN, asked, row.reference) == [False] * len(turned)


def test_copied_compares_the_answer_with_its_own_reasoning() -> None:
    row = Row(id="r", prompt=[], reference="", columns={"facts": [["friday", 2], ["monday", 5]]})
    reasoning = "For Ben 7\nWell up 4 friday 2\nHence down 2 monday 5\n"
    assert copied(reasoning, "on friday 2, on monday 5!", row) == [True, True]
    assert copied(reasoning, "on friday 1, on sunday 5!", row) == [False, False]
    assert copied("", "on friday 1", row) == []


def test_split_completion_takes_marks_and_end_off() -> None:
    assert split_completion("For Ben 7\n</think>\n\nAbout Ben.<|im_end|>") == ("For Ben 7\n", "About Ben.")
    assert split_completion("For Ben") == ("For Ben", "")
    assert split_completion("a</think>\n\nAnswer: 5<|im_end|>", "Answer: ") == ("a", "5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leen=0.3"], "'leen=0.3': expected knob=value"),
        (["lean"], "'lean': expected knob=value"),
        (["lean=high"], "lean='high': must be a float"),
        (["even_tone=perhaps"], "even_tone='perhaps': must be a bool"),
        (["lean=0.9"], "lean=0.9: must lie in"),
        (["--preset", "strong"], "unknown twin preset 'strong'"),
        (["--budget", "tune"], "--budget=tune: is the last phase alone; give the checkpoint to go on from"),
        (["--start", "nowhere"], "--start=nowhere: holds no config.json"),
    ],
)
def test_bad_arguments_end_in_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--threads", str(torch.get_num_threads())]) == 2
    assert message in capsys.readouterr().err


def test_overrides_keep_their_kind() -> None:
    knobs = parse_overrides(TWIN, "mild", ["steps_max=3", "lean=0.1", "independent=true"])
    assert (knobs.steps_max, knobs.lean, knobs.independent, knobs.even_tone) == (3, 0.1, True, True)


def test_phases_come_in_the_order_that_works() -> None:
    for name, phases in BUDGETS.items():
        order = ["noisy"] if name == "tune" else ["chains", "copy", "noisy"]
        assert [phase.name for phase in phases] == order
        assert budget(TWIN, name) == phases
        assert all(isinstance(phase, Phase) and phase.steps > 0 for phase in phases)
    assert guards_module.LIMITS["reflective_sigma"][0] == 0.3
