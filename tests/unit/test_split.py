"""Splitting completions into reasoning and answer: three templates, four tokenizers, exact token boundaries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dro_lab.errors import UserError
from dro_lab.scoring.split import ReasoningFormat, Splitter, thinking_mode
from dro_lab.scoring.tokens import TokenText
from tests.tiny import TEMPLATES, byte_tokenizer, greedy_tokenizer, metaspace_tokenizer

TOKENIZERS = {
    "tag_tokens": byte_tokenizer,
    "tag_text": lambda: byte_tokenizer(tags=False),
    "greedy": greedy_tokenizer,
    "metaspace": metaspace_tokenizer,
}
MARKER = "Answer:"
EOS = "<|im_end|>"


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def split(tokenizer, text, mode="open", marker=MARKER):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids, Splitter(tokenizer, ReasoningFormat(answer_marker=marker)).split(ids, mode)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_three_kinds_of_template_are_told_apart(kind):
    tokenizer = byte_tokenizer()
    prompt = [{"role": "user", "content": "Write <think> first, then </think> and the answer."}]
    text = tokenizer.apply_chat_template(
        prompt, chat_template=TEMPLATES[kind], tokenize=False, add_generation_prompt=True
    )
    assert thinking_mode(text) == kind


def test_a_user_who_only_mentions_the_tags_changes_nothing():
    assert thinking_mode("user: what does <think> mean?\nassistant:") == "absent"
    assert thinking_mode("user: <think></think>\nassistant:") == "absent"
    assert thinking_mode("user: hello\nassistant: <think>reasons</think>\n") == "absent"


# text of the completion -> mode, reasoning, answer, malformed
CASES = {
    "opened in the prompt": ("a b.\n</think>\n\nAnswer: 42" + EOS, "open", "a b.", "42", False),
    "opened by itself": ("<think>\na b.\n</think>\n\nAnswer: 42" + EOS, "absent", "a b.", "42", False),
    "thinking off": ("Answer: 42" + EOS, "closed", "", "42", False),
    "empty reasoning": ("</think>Answer: 42" + EOS, "open", "", "42", False),
    "empty own block": ("<think></think>Answer: 42" + EOS, "absent", "", "42", False),
    "empty answer": ("a</think>Answer:" + EOS, "open", "a", "", False),
    "multi-byte": ("é🙂</think>Answer: 日本" + EOS, "open", "é🙂", "日本", False),
    "no marker": ("a</think>42" + EOS, "open", "a", "42", True),
    "marker later": ("a</think>So, Answer: 42" + EOS, "open", "a", "42", True),
    "never closed": ("a b. Answer: 42" + EOS, "open", "a b. Answer: 42", "", True),
    "own block never closed": ("<think>a b." + EOS, "absent", "a b.", "", True),
    "no block at all": ("Answer: 42" + EOS, "absent", "", "42", True),
    "closed without opening": ("a</think>Answer: 42" + EOS, "absent", "a", "42", True),
    "text before the block": ("Well <think>a</think>Answer: 42" + EOS, "absent", "a", "42", True),
    "closed twice": ("a</think>Answer: b</think>c" + EOS, "open", "a", "b</think>c", True),
    "nested": ("a<think>b</think>c</think>Answer: d" + EOS, "open", "a<think>b", "d", True),
    "opened again after": ("a</think>Answer: <think>b" + EOS, "open", "a", "<think>b", True),
    "opened only after the end": ("a</think>Answer: <think>b" + EOS, "absent", "a", "<think>b", True),
    "tags although thinking is off": ("<think>a</think>Answer: 42" + EOS, "closed", "", "42", True),
}


@pytest.mark.parametrize("name", CASES)
def test_reasoning_and_answer(tokenizer, name):
    text, mode, reasoning, answer, malformed = CASES[name]
    ids, got = split(tokenizer, text, mode)
    assert (got.reasoning, got.answer, got.malformed) == (reasoning, answer, malformed)
    assert got.completion == text.removesuffix(EOS)
    assert not got.truncated
    assert got.length == len(ids)


def test_without_eos_a_completion_is_truncated(tokenizer):
    _, got = split(tokenizer, "a</think>Answer: 42")
    assert got.truncated
    assert not got.malformed
    _, got = split(tokenizer, "a")
    assert got.truncated
    assert got.malformed


def test_what_follows_eos_is_ignored(tokenizer):
    ids, got = split(tokenizer, "a</think>Answer: 42" + EOS + "</think>" + EOS)
    assert (got.answer, got.malformed, got.truncated) == ("42", False, False)
    assert ids[got.length - 1] == tokenizer.eos_token_id
    assert got.length < len(ids)


def test_no_marker_means_that_the_answer_begins_at_once(tokenizer):
    _, got = split(tokenizer, "a</think>\n\n42 km" + EOS, marker="")
    assert (got.answer, got.malformed) == ("42 km", False)


def test_every_generation_end_counts():
    tokenizer = byte_tokenizer()
    ids = [*tokenizer("a</think>b")["input_ids"], tokenizer.pad_token_id]
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert Splitter(tokenizer, ReasoningFormat()).split(ids, "open").truncated
    assert not Splitter(tokenizer, ReasoningFormat(), eos_token_ids=ends).split(ids, "open").truncated


def test_mask_and_kept_ids_on_literal_tokens():
    tokenizer = byte_tokenizer()
    tokens = ["<think>", "a", "b", "</think>", "c", EOS]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    got = Splitter(tokenizer, ReasoningFormat()).split(ids, "absent")
    assert got.reasoning_mask == [False, True, True, False, False, False]
    assert got.reasoning_end == 3
    assert got.closing == "\n</think>\n\n"


def test_a_token_that_runs_into_the_tag_is_dropped_and_written_again():
    tokenizer = greedy_tokenizer()
    ids, got = split(tokenizer, "ab.</think>Answer: c" + EOS)
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["a", "b", ".</"]
    assert (got.reasoning_end, got.closing, got.reasoning) == (2, ".\n</think>\n\n", "ab.")
    ids, got = split(tokenizer, "<think></think>Answer: c" + EOS, "absent")
    assert "></" in tokenizer.convert_ids_to_tokens(ids)
    assert (got.reasoning_start, got.reasoning_end) == (6, 6)
    assert got.closing == ">\n</think>\n\n"


@pytest.mark.parametrize(
    ("reasoning", "closing"),
    [("a", "\n</think>\n\n"), ("a\n", "</think>\n\n"), ("a\n\n", "</think>\n\n"), ("", "\n</think>\n\n")],
)
def test_sampled_whitespace_before_the_tag_is_not_repeated(reasoning, closing):
    _, got = split(byte_tokenizer(), reasoning + "</think>Answer: c" + EOS)
    assert got.closing == closing


def test_nothing_is_closed_where_nothing_is_open(tokenizer):
    for text, mode in (("Answer: 42" + EOS, "closed"), ("Answer: 42" + EOS, "absent")):
        _, got = split(tokenizer, text, mode)
        assert (got.closing, got.reasoning_end) == ("", 0)


TEXTS = st.text(st.sampled_from("ab.<>/ \n4é🙂"), max_size=12)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(before=TEXTS, after=TEXTS, own=st.booleans())
@example(before=".", after="<", own=False)
@example(before="é", after="🙂", own=True)
def test_kept_ids_and_closing_spell_the_sampled_text(name, before, after, own):
    """Kept ids + closing = what was sampled up to the tag, then the tag with the template's whitespace."""
    tokenizer = TOKENIZERS[name]()
    opening = "<think>" if own else ""
    if "<think>" in before or "</think>" in before:
        return
    ids, got = split(tokenizer, opening + before + "</think>" + after, "absent" if own else "open", marker="")
    text = tokenizer.decode(ids[: got.reasoning_end]) + got.closing
    newline = "" if before.endswith("\n") else "\n"
    assert text == opening + before + newline + "</think>\n\n"
    assert got.reasoning == before.strip()
    inside = tokenizer.decode([token for token, keep in zip(ids, got.reasoning_mask, strict=False) if keep])
    assert inside in before
    assert sum(got.reasoning_mask) >= len(tokenizer(before, add_special_tokens=False)["input_ids"]) - 4


@given(ids=st.lists(st.integers(0, 260), max_size=20))
@settings(max_examples=80, deadline=None)
def test_any_sampled_bytes_split_without_error(ids):
    """Sampled ids need not be valid UTF-8; the text equals the tokenizer's own decoding."""
    tokenizer = byte_tokenizer()
    ids = [token for token in ids if token != tokenizer.eos_token_id]
    got = Splitter(tokenizer, ReasoningFormat()).split(ids, "open")
    assert got.completion == tokenizer.decode(ids)
    assert got.truncated


@pytest.mark.parametrize("name", TOKENIZERS)
def test_reach_is_the_least_number_of_tokens(name):
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer("ab é</think>x")["input_ids"]
    reading = TokenText(tokenizer).read(ids)
    place = reading.find("</think>")
    assert reading.text(0, place) == "ab é"
    assert tokenizer.decode(ids[: reading.reach(place)]).startswith("ab é")
    assert not tokenizer.decode(ids[: reading.reach(place) - 1]).startswith("ab é")
    assert reading.find("absent") == -1


def test_groups_are_padded_and_masked():
    tokenizer = byte_tokenizer()
    spell = tokenizer.convert_tokens_to_ids
    ids_PG = [[spell(["a", "</think>", "b", EOS]), spell(["a", "a"])], [spell([EOS]), spell(["</think>", EOS])]]
    got = Splitter(tokenizer, ReasoningFormat()).split_groups(ids_PG, ["open", "closed"])
    pad = tokenizer.pad_token_id
    assert got.completion_ids_PGC[0].tolist() == [ids_PG[0][0], [*ids_PG[0][1], pad, pad]]
    assert got.completion_mask_PGC.sum(-1).tolist() == [[4, 2], [1, 2]]
    assert got.reasoning_mask_PGC.long().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0]], [[0] * 4, [0] * 4]]
    assert got.truncated_PG.tolist() == [[False, True], [False, False]]
    assert got.malformed_PG.tolist() == [[False, True], [False, True]]
    assert got.reasoning_ids_PG == [[spell(["a"]), spell(["a", "a"])], [[], []]]
    groups = got.groups(prompts_P=[[], []], references_P=["x", "y"], columns_P=[{}, {}], step=3, progress=0.5)
    assert groups.shape == (2, 2)
    assert groups.answers_PG == [["b", ""], ["", "</think>"]]
    assert (groups.step, groups.progress) == (3, 0.5)
    assert groups.completion_ids_PGC.dtype == torch.int64


def test_formats_and_tokenizers_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="reasoning_open=''"):
        ReasoningFormat(open="")
    with pytest.raises(UserError, match="must differ"):
        ReasoningFormat(open="<t>", close="<t>")
    with pytest.raises(UserError, match="close_suffix='x'"):
        ReasoningFormat(close_suffix="x")
    with pytest.raises(UserError, match="end-of-sequence"):
        Splitter(byte_tokenizer(), ReasoningFormat(), eos_token_ids=[])
