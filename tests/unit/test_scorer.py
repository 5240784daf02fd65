"""The reference scorer against a naive forward, one sequence at a time, and its promises."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, processors

from dro_lab.errors import UserError
from dro_lab.judges.exact import exact
from dro_lab.judges.none import none
from dro_lab.judges.quality import quality as measure
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat, Splitter
from dro_lab.scoring.stats import check_needs, collect
from dro_lab.types import Need, Provenance, Stat, Task
from tests.tiny import byte_tokenizer, greedy_tokenizer, metaspace_tokenizer, tiny_gemma2, tiny_gpt2, tiny_qwen3

TOKENIZER = byte_tokenizer()
FORMAT = ReasoningFormat(answer_marker="Answer:")
MODELS = {"qwen3": tiny_qwen3, "gpt2": tiny_gpt2, "gemma2": tiny_gemma2}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.set_num_threads(1)
    return MODELS[request.param](len(TOKENIZER))


def naive(model, prompt, reasoning, head, tail, eos):
    """One sequence, no padding, the whole logits, float32 log-softmax."""
    was = model.training
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reasoning, *head, *tail]])).logits[0].float()
    model.train(was)
    start = len(prompt) + len(reasoning) + len(head)
    targets = [*tail, eos]
    return torch.stack([logits[start - 1 + j].log_softmax(-1)[token] for j, token in enumerate(targets)])


IDS = st.lists(st.integers(3, 370), min_size=1, max_size=9)
STEP = st.integers(1, 2).flatmap(
    lambda groups: st.lists(
        st.tuples(IDS, st.lists(IDS | st.just([]), min_size=groups, max_size=groups), st.text("ab 4é\n", max_size=8)),
        min_size=1,
        max_size=3,
    )
)


@settings(max_examples=25, deadline=None)
@given(step=STEP, tokens=st.sampled_from([1, 40, 4096]), chunk=st.sampled_from([1, 7, 1024]))
def test_batched_scores_equal_the_naive_forward(model, step, tokens, chunk):
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=tokens, lm_head_chunk=chunk)
    prompts, reasonings, references = zip(*step, strict=True)
    got = scorer.score(model, prompts, reasonings, references)
    for p, (prompt, reasonings_G, reference) in enumerate(step):
        head, tail = scorer.encode(reference)
        assert got.ids_PR[p][got.mask_PR[p]].tolist() == tail
        assert got.eos_PR[p].nonzero().tolist() == [[len(tail)]]
        for g, reasoning in enumerate(reasonings_G):
            want = naive(model, prompt, reasoning, head, tail, TOKENIZER.eos_token_id)
            torch.testing.assert_close(got.logps_PGR[p, g, : len(want)], want, atol=2e-5, rtol=1e-5)
            assert not got.logps_PGR[p, g, len(want) :].any()


REFERENCES = [" 42 km", "42 km", "\nfirst line", "\n\n\nfirst", "éclair", "🙂 smile", "日本", ".5", " ", "\n", "a"]
MARKERS = ["", "Answer:", "Answer: ", "Answer:\n", "Answer:\n\n", "é"]
TOKENIZERS = {
    "tag_tokens": byte_tokenizer,
    "tag_text": lambda: byte_tokenizer(tags=False),
    "greedy": greedy_tokenizer,
    "metaspace": metaspace_tokenizer,
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("marker", MARKERS)
def test_reference_tokens_are_those_that_overlap_it(name, marker):
    """Token spans measured independently, by the bytes that each prefix of ids adds."""
    tokenizer = TOKENIZERS[name]()
    scorer = ReferenceScorer(tokenizer, ReasoningFormat(answer_marker=marker))
    before = "\n</think>\n\n" + marker
    for reference in REFERENCES:
        head, tail = scorer.encode(reference)
        whole = tokenizer(before + reference, add_special_tokens=False)["input_ids"]
        assert head + tail == whole
        assert reference in tokenizer.decode(tail)
        # one token fewer no longer holds the reference, and the head holds nothing of it
        assert tokenizer.decode(head) == before[: len(tokenizer.decode(head))]
        assert reference not in tokenizer.decode(tail[1:])


def test_reference_tokens_on_literal_cases():
    def tail(tokenizer, marker, reference):
        scorer = ReferenceScorer(tokenizer, ReasoningFormat(answer_marker=marker))
        return tokenizer.convert_ids_to_tokens(scorer.encode(reference)[1])

    greedy = greedy_tokenizer()
    assert tail(greedy, "A:", " 42") == ["Ġ42"]
    assert tail(greedy, "A: ", "42") == ["Ġ42"]  # the marker's space is in the reference's token
    assert tail(greedy, "A:", "42") == [":4", "2"]  # so is the colon
    assert tail(greedy, "A:", "2") == ["2"]
    assert tail(greedy, "", "\n4") == ["ĊĊĊ", "4"]  # the closing's newlines too
    assert tail(greedy, "A", "é") == ["Ã", "©"]
    assert tail(greedy, "A:", "") == []
    trained = byte_tokenizer()
    assert tail(trained, "Answer:", " 42") == ["Ġ42"]
    assert tail(trained, "Answer:\n", "42") == ["42"]


def test_all_rollouts_of_a_prompt_share_the_reference_tokens():
    greedy = greedy_tokenizer()
    scorer = ReferenceScorer(greedy, ReasoningFormat())
    head, tail = scorer.encode("\n4")
    other, same = scorer.encode("\n4", closing="")
    assert same == tail == greedy.convert_tokens_to_ids(["ĊĊĊ", "4"])
    assert other == []
    assert greedy.decode(scorer.encode("x", closing=".\n</think>\n\n")[0]) == ".\n</think>\n\n"
    assert greedy.decode(head + tail) == "\n</think>\n\n\n4"


def test_a_normalizer_that_changes_the_text_keeps_the_boundary():
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    scorer = ReferenceScorer(tokenizer, ReasoningFormat(answer_marker="e\u0301:\n"))
    for reference in ("cafe\u0301", " 42", "\n42", "\n"):
        head, tail = scorer.encode(reference)
        assert tokenizer.decode(head) == "\n</think>\n\né:\n"
        assert tokenizer.decode(tail) == reference.replace("e\u0301", "é")


@pytest.fixture(scope="module")
def qwen():
    torch.set_num_threads(1)
    return tiny_qwen3(len(TOKENIZER))


STEP_OF_TWO = ([[5, 6, 7], [8, 9]], [[[10, 11], []], [[12] * 9, [13]]], [" 42 km", "the claim is wrong."])


def test_scores_are_float32_on_the_cpu_without_gradient(qwen):
    model = tiny_qwen3(len(TOKENIZER)).to(torch.bfloat16)
    got = ReferenceScorer(TOKENIZER, FORMAT).score(model, *STEP_OF_TWO)
    assert (got.logps_PGR.dtype, got.logps_PGR.device.type) == (torch.float32, "cpu")
    assert not got.logps_PGR.requires_grad
    with torch.inference_mode():
        again = ReferenceScorer(TOKENIZER, FORMAT).score(model, *STEP_OF_TWO)
    torch.testing.assert_close(again.logps_PGR, got.logps_PGR)


def test_log_softmax_is_float32_for_a_half_precision_policy():
    model = tiny_qwen3(len(TOKENIZER)).to(torch.bfloat16)
    scorer = ReferenceScorer(TOKENIZER, FORMAT)
    got = scorer.score(model, [[5, 6]], [[[7]]], [" 42"]).logps_PGR[0, 0]
    want = naive(model, [5, 6], [7], *scorer.encode(" 42"), TOKENIZER.eos_token_id)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert not torch.equal(got, got.bfloat16().float())


def test_temperature_is_one_whatever_generation_uses(qwen):
    want = ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO).logps_PGR
    qwen.generation_config.temperature = 0.5
    got = ReferenceScorer(TOKENIZER, FORMAT).score(qwen, *STEP_OF_TWO).logps_PGR
    assert torch.equal(want, got)
    probabilities = torch.tensor([_sum_of_probabilities(qwen, token) for token in (3, 40)])
    torch.testing.assert_close(probabilities, torch.ones(2), atol=1e-4, rtol=0)


def _sum_of_probabilities(model, start):
    """The probabilities of all one-token references that follow one prefix sum to 1 only at temperature 1."""
    scorer = ReferenceScorer(TOKENIZER, ReasoningFormat(answer_marker="A:"))
    scorer.encode = lambda reference, closing=None: ([], [int(reference)])  # each vocabulary entry in turn
    words = [str(token) for token in range(len(TOKENIZER))]
    scores = scorer.score(model, [[start, 5]] * len(words), [[[]]] * len(words), words)
    return scores.logps_PGR[:, 0, 0].exp().sum()


@pytest.mark.parametrize("dropout_model", [tiny_gpt2, lambda size: tiny_qwen3(size, dropout=0.4)])
def test_dropout_is_off_and_flags_are_left_as_found(dropout_model):
    model = dropout_model(len(TOKENIZER))
    scorer = ReferenceScorer(TOKENIZER, FORMAT)
    model.eval()
    want = scorer.score(model, *STEP_OF_TWO).logps_PGR
    assert not any(module.training for module in model.modules())
    model.train()
    frozen = next(iter(model.base_model.children()))
    frozen.eval()
    flags = [module.training for module in model.modules()]
    torch.testing.assert_close(scorer.score(model, *STEP_OF_TWO).logps_PGR, want)
    assert [module.training for module in model.modules()] == flags
    assert model.training
    assert not frozen.training


def test_flags_are_left_as_found_after_an_error(qwen):
    qwen.train()
    flags = [module.training for module in qwen.modules()]
    with pytest.raises(IndexError):
        ReferenceScorer(TOKENIZER, FORMAT).score(qwen, [[10**6]], [[[5]]], ["a"])
    assert [module.training for module in qwen.modules()] == flags
    qwen.eval()


@pytest.mark.parametrize(("build", "chunk"), [(tiny_qwen3, 5), (tiny_qwen3, 64), (tiny_gemma2, 64)])
def test_the_largest_logits_tensor_is_bounded(build, chunk):
    model, rows = build(len(TOKENIZER)), []
    scorer = ReferenceScorer(TOKENIZER, FORMAT, lm_head_chunk=chunk)
    scorer.score(model, [[5]], [[[7]]], ["a"])  # the trial of the model's cache is over
    model.get_output_embeddings().register_forward_hook(lambda *args: rows.append(args[2].shape[:-1].numel()))
    reasonings = [[[7] * n for n in range(16)]] * 2
    scorer.score(model, [[5, 6]] * 2, reasonings, [" 42 km"] * 2)
    assert 0 < max(rows) <= chunk
    positions = 32 * (len(scorer.encode(" 42 km")[1]) + 1)
    assert sum(rows) == positions or build is tiny_gemma2  # only reference positions meet the LM head


@pytest.mark.parametrize("budget", [1, 60, 200])
def test_a_forward_holds_no_more_tokens_than_allowed(qwen, budget):
    shapes = []
    scorer = ReferenceScorer(TOKENIZER, FORMAT, tokens_per_batch=budget)
    scorer.score(qwen, [[5]], [[[7]]], ["a"])  # the trial of the model's cache is over
    handle = qwen.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    reasonings = [[[7] * n for n in (30, 1, 16, 2, 9, 25)]]
    scorer.score(qwen, [[5]], reasonings, ["a"])
    handle.remove()
    assert sum(shape[0] for shape in shapes) == 6
    assert all(shape.numel() <= budget or shape[0] == 1 for shape in shapes)


def test_sampled_completions_are_scored_as_the_policy_would_continue_them(qwen):
    """From text to score: the ids that are scored spell prompt, reasoning, closing, marker and reference once."""
    seen = []
    handle = qwen.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(
            row[keep.bool()].tolist() for row, keep in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        ),
        with_kwargs=True,
    )
    texts = ["a b\n</think>\n\nAnswer: no<|im_end|>", "a b</think>Answer: 1", "never closed", "x.\n\n</think>"]
    ids_PG = [[TOKENIZER(text)["input_ids"] for text in texts]]
    split = Splitter(TOKENIZER, FORMAT).split_groups(ids_PG, ["open"])
    prompt = TOKENIZER("<think>\n")["input_ids"]
    ReferenceScorer(TOKENIZER, FORMAT, share=False).score(
        qwen, [prompt], split.reasoning_ids_PG, [" 42"], closings_PG=split.closings_PG
    )
    handle.remove()
    middle = ["a b\n", "a b\n", "never closed\n", "x.\n\n"]
    assert sorted(map(TOKENIZER.decode, seen)) == sorted(f"<think>\n{part}</think>\n\nAnswer: 42" for part in middle)


# ------------------------------------------------------------------------------------------------ needs and judges


def task(metric):
    return Task(
        name="toy",
        provenance=Provenance(dataset="toy", kind="twin", location="toy"),
        splits={},
        metric=metric,
        metric_name="exact",
    )


def step_of(texts):
    split = Splitter(TOKENIZER, FORMAT).split_groups([[TOKENIZER(text)["input_ids"] for text in texts]], ["open"])
    return split, split.groups(prompts_P=[[]], references_P=["42"], columns_P=[{"id": "r1"}])


def test_only_what_is_needed_is_computed(qwen):
    split, groups = step_of(["a</think>Answer: 42<|im_end|>", "b</think>Answer: 17<|im_end|>"])

    def run(*needs, scorer=None, quality=None, verdicts=None):
        arguments = {"models": {"current": qwen}, "prompt_ids_P": [[5]], "scorer": scorer}
        arguments |= {"quality": quality, "verdicts": verdicts}
        return collect(needs, groups, split, **arguments)

    nothing = run()  # neither scorer nor metric nor judge is touched
    assert nothing.reference_logps_PGR is None
    assert nothing.verifier_PG is None
    right = task(lambda answer, row: float(answer == row.reference))
    judged = run(Need(Stat.VERIFIER), quality=lambda groups: measure(groups, right, exact(right, needs=[])))
    assert judged.verifier_PG.tolist() == [[1.0, 0.0]]
    assert judged.reference_logps_PGR is None

    class Counting(ReferenceScorer):
        calls = 0

        def score(self, *args, **kwargs):
            self.calls += 1
            return super().score(*args, **kwargs)

    scorer = Counting(TOKENIZER, FORMAT)
    scored = run(Need(Stat.REFERENCE), Need(Stat.REFERENCE), scorer=scorer)
    assert scorer.calls == 1
    assert scored.verifier_PG is None
    assert scored.reference_logps_PGR.shape == (1, 2, scored.reference_mask_PR.shape[1])


def test_needs_that_cannot_be_met_are_refused():
    with pytest.raises(UserError, match="under the lagged policy"):
        check_needs([Need(Stat.REFERENCE, "lagged")])
    with pytest.raises(UserError, match="under the current and under the initial policy"):
        check_needs([Need(Stat.REFERENCE), Need(Stat.REFERENCE, "initial")], ["current", "initial"])
    check_needs([Need(Stat.REFERENCE), Need(Stat.VERIFIER)])


def test_quality_is_the_data_sets_metric_and_equal_answers_are_measured_once():
    _, groups = step_of(["a</think>Answer: 42<|im_end|>", "b", "c"])
    seen = []
    half = task(lambda answer, row: seen.append((answer, row.id, row.reference)) or 0.5)
    found = measure(groups, half, exact(half, needs=[]))
    assert found.tolist() == [[0.5, 0.5, 0.5]]
    assert found.dtype == torch.float32
    assert seen == [("42", "r1", "42"), ("", "r1", "42")]
    assert measure(groups, half, none(half, needs=[Need(Stat.REFERENCE)])).isnan().all()
    assert measure(groups, task(None), exact(task(None), needs=[])).isnan().all()


def test_a_judge_that_cannot_give_what_is_needed_is_refused():
    with pytest.raises(UserError, match="judge=none"):
        none(task(None), needs=[Need(Stat.VERIFIER)])
    with pytest.raises(UserError, match="dataset toy: the data set has no metric"):
        exact(task(None), needs=[Need(Stat.VERIFIER)])
    with pytest.raises(UserError, match="no program that decides a rubric's checks"):
        exact(task(None), needs=[Need(Stat.VERDICTS)])


@pytest.mark.parametrize("sizes", [{"tokens_per_batch": 0}, {"lm_head_chunk": 2.5}, {"lm_head_chunk": True}])
def test_sizes_that_cannot_work_are_refused(sizes):
    with pytest.raises(UserError, match=r"scorer\.\w+=.*whole number"):
        ReferenceScorer(TOKENIZER, FORMAT, **sizes)
