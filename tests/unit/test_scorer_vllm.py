"""scorer=vllm without vLLM: how its lists are read, what is not trusted, and what a configuration is refused for.

tests/vllm holds the comparisons with real engines.
"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.build import build_pipeline
from dro_lab.config import check
from dro_lab.errors import UserError
from dro_lab.run import CONF
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.vllm import VLLMScorer, check_scorer, scorer_for, scorer_notes
from dro_lab.scoring.vllm_engine import CannotScoreError, Colocated, Text, cache_is_safe, target_logps
from tests.tiny import byte_tokenizer

TEXT = Text((7, 8, 9, 10), targets=2)


def entry(token, logp):
    return {token: SimpleNamespace(logprob=logp)}


def test_the_list_is_read_from_its_end():
    whole = [None, entry(8, -0.5), entry(9, -1.0), entry(10, -2.0)]
    assert target_logps(whole, TEXT) == [-1.0, -2.0]
    assert target_logps(whole[1:], TEXT, unread=1) == [-1.0, -2.0]  # an engine that leaves cached positions out
    assert target_logps(whole, TEXT, unread=1) == [-1.0, -2.0]  # and one that fills them with anything
    served = [None, None, {"9": {"logprob": -1.0, "rank": 3}}, {"10": {"logprob": -2.0}, "4": {"logprob": -0.1}}]
    assert target_logps(served, TEXT) == [-1.0, -2.0]


@pytest.mark.parametrize(
    ("found", "unread", "reason"),
    [
        (None, 0, "lists"),
        ([entry(9, -1.0), entry(10, -2.0)], 1, "lists"),  # two positions are missing, one was cached
        ([None] * 3 + [entry(9, -1.0), entry(10, -2.0)], 0, "lists"),
        ([None, None, entry(9, -1.0), entry(11, -2.0)], 0, "values"),  # the target is not there
        ([None, None, None, entry(10, -2.0)], 0, "values"),
        ([None, None, entry(9, math.nan), entry(10, -2.0)], 0, "values"),
        ([None, None, entry(9, -math.inf), entry(10, -2.0)], 0, "values"),
        ([None, None, entry(9, -9999.0), entry(10, -2.0)], 0, "values"),
        ([None, None, entry(9, 3.7e20), entry(10, -2.0)], 0, "values"),  # uninitialised memory
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(found, unread, reason):
    with pytest.raises(CannotScoreError) as caught:
        target_logps(found, TEXT, unread=unread)
    assert caught.value.reason == reason


@given(length=st.integers(2, 40), targets=st.integers(1, 40), cached=st.integers(0, 40))
def test_the_cache_is_safe_where_the_position_before_the_first_target_was_computed(length, targets, cached):
    if targets < length:
        text = Text(tuple(range(length)), targets)
        computed = range(cached, length)  # position i gives the log-probability of token i + 1
        expected = all(place - 1 in computed for place in range(length - targets, length))
        assert cache_is_safe(SimpleNamespace(num_cached_tokens=cached), text) == expected
    assert not cache_is_safe(SimpleNamespace(num_cached_tokens=None), TEXT)


class Cached:
    """An engine whose cache holds the first ``cached`` tokens: they are left out of the list, or hold garbage."""

    def __init__(self, cached, *, leaves_out):
        self.cached, self.leaves_out, self.calls = cached, leaves_out, []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64, dtype="torch.float32"))

    def generate(self, prompts, *, sampling_params, use_tqdm):
        reads = sampling_params.skip_reading_prefix_cache is False
        self.calls.append((len(prompts), reads))
        return [self.output(prompt["prompt_token_ids"], self.cached if reads else 0) for prompt in prompts]

    def output(self, ids, cached):
        # position i gives token i + 1: of n cached tokens the entries 0..n are unknown, and n of them may be left out
        unknown = [{-1: SimpleNamespace(logprob=5.0)}] * (1 if self.leaves_out else cached + 1)
        known = [entry(token, -float(place)) for place, token in enumerate(ids)][cached + 1 :]
        return SimpleNamespace(prompt_token_ids=ids, num_cached_tokens=cached, prompt_logprobs=[*unknown, *known])


@pytest.mark.parametrize("leaves_out", [True, False])
@pytest.mark.parametrize(("cached", "again"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_text_whose_targets_are_cached_is_read_again(monkeypatch, leaves_out, cached, again):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **given: SimpleNamespace(**given)))
    llm = Cached(cached, leaves_out=leaves_out)
    engine = Colocated(llm)
    assert engine.score([TEXT]) == [[-2.0, -3.0]]
    assert engine.reading.again == again
    assert llm.calls == [(1, True), *([(1, False)] if again else [])]


def config(*overrides):
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", list(overrides))
    check(cfg)
    return cfg


REFUSED = {
    "no vllm": ([], ["rollout.use_vllm=false", "rollout=vllm_colocate", "scorer=hf"]),
    "policy": (["rollout=vllm_colocate", "scored_by=reference"], ["scored_by=reference", "current policy alone"]),
    "lagged": (["rollout=vllm_server", "scored_by=lagged"], ["scored_by=lagged"]),
    "sleep": (["rollout=vllm_colocate", "algorithm.vllm_enable_sleep_mode=true"], ["vllm_enable_sleep_mode=true"]),
    "tensor parallel": (["rollout=vllm_colocate", "algorithm.vllm_tensor_parallel_size=2"], ["parallel_size=2"]),
    "unknown key": (["rollout=vllm_colocate", "+scorer.prefix=1"], ["scorer.prefix=1", "read_prefix_cache"]),
    "unknown engine": (["scorer.engine=tgi"], ["scorer.engine=tgi", "hf, vllm"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_configuration_that_vllm_cannot_score_is_refused(name):
    overrides, expected = REFUSED[name]

    def checked():
        cfg = config("scorer=vllm", *overrides)
        check_scorer(cfg, build_pipeline(cfg, {}).needs)

    with pytest.raises(UserError) as caught:
        checked()
    assert all(text in str(caught.value) for text in expected), caught.value


def test_what_a_scorer_does_not_give_is_named_before_training():
    def notes(*overrides):
        cfg = config("rollout=vllm_colocate", *overrides)
        needs = build_pipeline(cfg, {}).needs
        check_scorer(cfg, needs)
        scorer = scorer_for(byte_tokenizer(), ReasoningFormat(), cfg.scorer)
        assert type(scorer) is (VLLMScorer if "scorer=vllm" in overrides else ReferenceScorer)
        return " ".join(scorer_notes(scorer, needs))

    assert notes("scorer=vllm", "reward=r3") == ""
    assert "prefixes (entropies of segments" in notes("scorer=vllm", "reward=repro")
    assert "masked" in notes("scorer=vllm", "reward=r3_v1")
    assert "ranks" in notes("scorer=vllm", "filtering=rank")
    assert notes("reward=repro") == ""


@pytest.mark.parametrize("rollout", ["vllm_colocate", "vllm_server"])
def test_rollout_options_set_what_trl_reads(rollout):
    cfg = config(f"rollout={rollout}", "scale=gpu")
    assert cfg.algorithm.use_vllm is True
    assert cfg.algorithm.vllm_mode == rollout.removeprefix("vllm_")
    assert cfg.rollout.max_completion_length == cfg.algorithm.max_completion_length == 4096  # scale=gpu's
    assert config("rollout=hf").algorithm.use_vllm is False
