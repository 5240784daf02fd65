"""References after prefixes of a reasoning: every branch against a naive forward of its own, and what is read twice."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.segments import Segmenter, candidates, top_k
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.types import PrefixPlan
from tests.cli_fixture import run_main, save_policy, small_run
from tests.tiny import byte_tokenizer, tiny_gemma2, tiny_gpt2, tiny_qwen3

TOKENIZER = byte_tokenizer()
FORMAT = ReasoningFormat(answer_marker="Answer:")
MODELS = {
    "qwen3 sdpa": lambda size: with_attention(tiny_qwen3(size), "sdpa"),
    "qwen3 eager": lambda size: with_attention(tiny_qwen3(size), "eager"),
    "gpt2": tiny_gpt2,
    "gemma2 (plain)": tiny_gemma2,
}


def with_attention(model, name):
    model.set_attn_implementation(name)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.set_num_threads(1)
    return MODELS[request.param](len(TOKENIZER))


@pytest.fixture(scope="module")
def qwen():
    torch.set_num_threads(1)
    return tiny_qwen3(len(TOKENIZER))


def naive_logits(model, ids):
    was = model.training
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    model.train(was)
    return logits.log_softmax(-1)


def naive(model, before, head, tail):
    """One sequence, no padding, no cache."""
    targets = [*tail, TOKENIZER.eos_token_id]
    logps = naive_logits(model, [*before, *head, *tail])
    first = len(before) + len(head) - 1
    return torch.stack([logps[first + n, token] for n, token in enumerate(targets)])


def entropy(model, before):
    logps = naive_logits(model, before)[-1].double()
    return float(-(logps.exp() * logps).sum())


TEXTS = ["we see\n\n", "so 4 é\n\n", "a b c", "no\n", ".\n\n\n", "日本\n\n", " \n\nx"]
REASONING = st.lists(st.sampled_from(TEXTS), max_size=6).map(lambda parts: TOKENIZER("".join(parts))["input_ids"])
IDS = st.lists(st.integers(3, 370), min_size=1, max_size=9)
STEP = st.integers(1, 3).flatmap(
    lambda group: st.lists(
        st.tuples(IDS, st.lists(REASONING, min_size=group, max_size=group), st.text("ab 4é", min_size=1, max_size=8)),
        min_size=1,
        max_size=3,
    )
)
PLAN = st.builds(
    PrefixPlan,
    k=st.integers(1, 4),
    segment_on=st.sampled_from(["blank_line", "line"]),
    score_at=st.sampled_from(["start", "end"]),
    close_prefix=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(
    step=STEP,
    plan=PLAN,
    tokens=st.sampled_from([1, 50, 4096]),
    share=st.booleans(),
    mode=st.sampled_from(["open", "absent", "closed"]),
)
def test_every_branch_equals_a_forward_of_its_own(model, step, plan, tokens, share, mode):
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=tokens, lm_head_chunk=5, share=share)
    prompts, reasonings, references = zip(*step, strict=True)
    modes = [mode] * len(step)
    got = scorer.score(model, prompts, reasonings, references, prefixes=plan, masked=True, ranks=True, modes_P=modes)
    before_root = {"open": FORMAT.closing, "absent": FORMAT.open + FORMAT.closing, "closed": ""}[mode]
    inner_closing = FORMAT.close + FORMAT.close_suffix if plan.close_prefix else ""
    for p, (prompt, reasonings_G, reference) in enumerate(step):
        tail = scorer.encode(reference)[1]
        length = len(tail) + 1
        root = scorer.encode(reference, before_root if plan.close_prefix else "")[0]
        close(got.no_reasoning_logps_PR[p, :length], naive(model, prompt, root, tail))
        for g, ids in enumerate(reasonings_G):
            head = scorer.encode(reference, inner_closing)[0]
            points = candidates(Segmenter(TOKENIZER, plan.segment_on).spans(ids, 0, len(ids)), plan)
            entropies = [entropy(model, [*prompt, *ids[: point.first]]) for point in points]
            count = min(plan.k, len(points)) + 1
            assert got.prefix_mask_PGK[p, g].tolist() == [n < count for n in range(plan.k + 1)]
            assert not got.prefix_logps_PGKR[p, g, count:].any()
            ends = got.prefix_ends_PGK[p, g, :count].tolist()
            chosen = [number for number, point in enumerate(points) if point.prefix - 1 in ends[:-1]]
            assert ends == [*(points[n].prefix - 1 for n in chosen), len(ids) - 1]
            # the chosen are the k highest, but for entropies that are equal up to rounding
            highest = [entropies[n] for n in top_k(entropies, plan.k)]
            assert sum(entropies[n] for n in chosen) == pytest.approx(sum(highest), abs=1e-4)
            for place, number in enumerate(chosen):
                point = points[number]
                assert float(got.prefix_entropies_PGK[p, g, place]) == pytest.approx(entropies[number], abs=1e-4)
                close(
                    got.prefix_logps_PGKR[p, g, place, :length],
                    naive(model, [*prompt, *ids[: point.prefix]], head, tail),
                )
            close(got.prefix_logps_PGKR[p, g, count - 1, :length], got.logps_PGR[p, g, :length])
            close(got.logps_PGR[p, g, :length], naive(model, [*prompt, *ids], scorer.encode(reference)[0], tail))
            assert math.isnan(got.prefix_entropies_PGK[p, g, count - 1])


def close(got, want):
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


PROMPTS = [[5, 6, 7], [8, 9, 10, 11]]
REASONINGS = [[TOKENIZER("a b\n\nc d\n\ne f")["input_ids"], []], [TOKENIZER("x\n\ny")["input_ids"], [13]]]
REFERENCES = [" 42 km", "no"]
STEP_OF_TWO = (PROMPTS, REASONINGS, REFERENCES)


def both_ways(model, **kwargs):
    return [
        ReferenceScorer(TOKENIZER, FORMAT, share=share).score(model, *STEP_OF_TWO, **kwargs) for share in (True, False)
    ]


def test_half_precision_agrees_within_its_rounding():
    shared, plain = both_ways(tiny_qwen3(len(TOKENIZER)).bfloat16(), prefixes=PrefixPlan(k=2))
    for name in ("logps_PGR", "no_reasoning_logps_PR"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), atol=0.05, rtol=0)
    assert shared.prefix_logps_PGKR.dtype == torch.float32


def test_the_tokenizers_padding_side_does_not_matter(qwen):
    want = ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO, prefixes=PrefixPlan(k=2))
    side = TOKENIZER.padding_side
    TOKENIZER.padding_side = {"left": "right", "right": "left"}[side]
    got = ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO, prefixes=PrefixPlan(k=2))
    TOKENIZER.padding_side = side
    assert torch.equal(got.prefix_logps_PGKR, want.prefix_logps_PGKR)


def test_a_branch_may_be_longer_than_the_reasoning(qwen):
    reference = "a reference that is much longer than the reasoning before it, " * 3
    ids = TOKENIZER("a\n\nb")["input_ids"]
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=16)
    got = scorer.score(qwen, [[5]], [[ids, ids[:1]]], [reference], prefixes=PrefixPlan(k=3))
    head, tail = scorer.encode(reference, "")
    close(got.prefix_logps_PGKR[0, 0, 0], naive(qwen, [5, *ids[: int(got.prefix_ends_PGK[0, 0, 0]) + 1]], head, tail))


def test_a_long_prompt_beside_a_long_reasoning_passes_no_position_that_the_model_has_not():
    """Either sequence fits; the first one's padding, as long as the second's reasoning, would not."""
    model = tiny_gpt2(len(TOKENIZER))
    most = model.config.n_positions
    prompts, reasonings = [[5] * (most - 40), [6] * 8], [[[7, 8]], [[9] * (most - 40)]]
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=4 * most)
    got = scorer.score(model, prompts, reasonings, ["4", "2"], prefixes=PrefixPlan(k=1))
    for p, (prompt, ((ids,), reference)) in enumerate(zip(prompts, zip(reasonings, "42", strict=True), strict=True)):
        head, tail = scorer.encode(reference)
        close(got.logps_PGR[p, 0, : len(tail) + 1], naive(model, [*prompt, *ids], head, tail))


def test_flags_and_gradients_are_left_as_found(qwen):
    qwen.train()
    next(iter(qwen.base_model.children())).eval()
    flags = [module.training for module in qwen.modules()]
    got = ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO, prefixes=PrefixPlan())
    assert [module.training for module in qwen.modules()] == flags
    assert not got.prefix_logps_PGKR.requires_grad
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in qwen.parameters())
    qwen.eval()


# ------------------------------------------------------------------------------------------------ what is read


def read_tokens(model, score):
    """Tokens that go through the model, and the rows of each forward."""
    shapes = []
    handle = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score()
    handle.remove()
    return shapes


def test_every_text_is_read_once(qwen):
    """Prompt once a prompt, the reasoning once a rollout, the reference once a branch, no reasoning once a prompt."""
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=10_000)
    scorer.score(qwen, *STEP_OF_TWO)  # the trial of the model's cache is over
    ids = TOKENIZER("one\n\ntwo\n\nsix")["input_ids"]
    prompt, reference, group, k = [5, 6, 7, 8], " 42", 3, 2
    head, tail = scorer.encode(reference, "")
    end = scorer.encode(reference)[0]
    shapes = read_tokens(
        qwen, lambda: scorer.score(qwen, [prompt], [[ids] * group], [reference], prefixes=PrefixPlan(k=k))
    )
    assert shapes == [
        (1, len(prompt) + len(head) + len(tail)),
        (group, 1 + len(ids) + len(end) + len(tail)),  # 1: the prompt's last token, from which the rest is predicted
        (group, k * (len(head) + len(tail))),
    ]


def test_the_plain_way_reads_whole_sequences(qwen):
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=10_000, share=False)
    shapes = read_tokens(qwen, lambda: scorer.score(qwen, *STEP_OF_TWO))
    assert [rows for rows, _ in shapes] == [4]


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return result


def test_the_full_logits_of_a_large_vocabulary_are_never_made():
    vocabulary, chunk = 150_000, 4
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    scorer = ReferenceScorer(TOKENIZER, FORMAT, lm_head_chunk=chunk)
    scorer.score(model, [[5]], [[[7]]], ["a"], prefixes=PrefixPlan())
    reasoning = TOKENIZER("one\n\ntwo\n\nsix\n\nten")["input_ids"]
    with Largest() as largest:
        scorer.score(model, [[5, 6]], [[reasoning] * 3], [" 42 km"], prefixes=PrefixPlan(k=3))
    assert chunk * vocabulary <= largest.elements <= max(chunk * vocabulary, model.lm_head.weight.numel())
    with Largest() as everything:  # what the bound is a bound on
        model(torch.tensor([reasoning]))
    assert everything.elements >= len(reasoning) * vocabulary > largest.elements


# ------------------------------------------------------------------------------------------------ models that cannot


def sliding():
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=3,
        )
    )


def recurrent():
    return MambaForCausalLM(MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, state_size=4, num_hidden_layers=1))


@pytest.mark.parametrize(
    ("build", "says"),
    [(sliding, "sliding"), (recurrent, "linear_attention"), (lambda: tiny_gemma2(len(TOKENIZER)), "LM head")],
)
def test_a_model_whose_cache_cannot_do_it_is_read_the_plain_way_and_says_so_once(build, says, caplog):
    torch.manual_seed(0)
    model = build()
    with caplog.at_level(logging.WARNING, "dro_lab.scoring.sharing"):
        scorer = ReferenceScorer(TOKENIZER, FORMAT)
        got = scorer.score(model, *STEP_OF_TWO, prefixes=PrefixPlan(k=2))
        scorer.score(model, *STEP_OF_TWO)
    messages = [record.getMessage() for record in caplog.records if record.name == "dro_lab.scoring.sharing"]
    assert len(messages) == 1
    assert says in messages[0]
    assert type(model).__name__ in messages[0]
    ids = REASONINGS[0][0]
    head, tail = scorer.encode(REFERENCES[0], "")
    for place, end in enumerate(got.prefix_ends_PGK[0, 0, :2].tolist()):
        close(got.prefix_logps_PGKR[0, 0, place], naive(model, [*PROMPTS[0], *ids[: end + 1]], head, tail))


def test_who_runs_it_reads_why_and_so_does_the_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dro_lab.scoring.sharing._of_config", lambda model: "it is slow today")
    ended = run_main(small_run(save_policy(tmp_path / "policy"), ["steps=0", "report=false"]))
    assert ended.code == 0, ended.err
    assert ended.err.count("it is slow today") == len(ended.err.splitlines()) == 1
    assert "it is slow today" in (tmp_path / "run" / "run.log").read_text()


def test_a_model_that_can_says_nothing(qwen, caplog):
    with caplog.at_level(logging.WARNING, "dro_lab.scoring.sharing"):
        ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO)
    assert not caplog.records


def test_a_cache_that_gives_other_numbers_is_found_out(monkeypatch, caplog):
    """A model that takes a mask of branches and does not heed it."""
    model = tiny_qwen3(len(TOKENIZER))
    read = model.base_model.forward

    def deaf(attention_mask=None, **kwargs):
        return read(**kwargs)

    monkeypatch.setattr(model.base_model, "forward", deaf)
    with caplog.at_level(logging.WARNING, "dro_lab.scoring.sharing"):
        ReferenceScorer(TOKENIZER, FORMAT).score(model, *STEP_OF_TWO)
    assert "other numbers" in caplog.text
