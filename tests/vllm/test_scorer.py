"""scorer=vllm against scorer=hf, on the same texts and weights, and what it does where vLLM cannot."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` runs this folder")

from transformers import AutoModelForCausalLM

from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.scoring.vllm import VLLMScorer
from dro_lab.types import PrefixPlan
from tests import lab_fixture
from tests.cli_fixture import SIZES, SMALL, run_main
from tests.tiny import byte_tokenizer
from tests.vllm.engine import save_policy

NATS = 1e-4
TOKENIZER = byte_tokenizer()
FORMAT = ReasoningFormat(answer_marker="Answer:")
VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_importance_sampling_correction": True}
PROMPTS = [[5, 6, 7, 8] * 9, [9, 10] * 11]
REFERENCES = [" 42 km", "the claim is wrong."]


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A trainer with a colocated vLLM that holds the policy's weights."""
    from tests.vllm.engine import patch

    tmp_path = tmp_path_factory.mktemp("scorer")
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        model = AutoModelForCausalLM.from_pretrained(save_policy(tmp_path / "policy"))
        trainer = lab_fixture.trainer(tmp_path / "out", model=model, max_completion_length=48, **VLLM)
        trainer.policy.eval()
        yield trainer


def scorers(trainer, **kwargs):
    made = VLLMScorer(TOKENIZER, FORMAT, **kwargs)
    made.attach(trainer)
    return made, ReferenceScorer(TOKENIZER, FORMAT)


def sampled(trainer, n=4, seed=0):
    """Fresh reasonings, whose keys and values are now in vLLM's cache: seen by no scorer before."""
    trainer.vllm_generation.llm.reset_prefix_cache()
    completions = trainer.sample(PROMPTS, n, batch_size=8, seed=seed)
    return [[ids[:40] for ids in completions[p * n : (p + 1) * n]] for p in range(len(PROMPTS))]


@pytest.mark.parametrize("read_prefix_cache", [True, False])
def test_vllm_gives_what_the_policy_gives(rig, read_prefix_cache):
    vllm, hf = scorers(rig, read_prefix_cache=read_prefix_cache)
    reasonings = sampled(rig, seed=1)
    got = vllm.score(rig.policy, PROMPTS, reasonings, REFERENCES)
    want = hf.score(rig.policy, PROMPTS, reasonings, REFERENCES)
    torch.testing.assert_close(got.logps_PGR, want.logps_PGR, atol=NATS, rtol=0)
    assert torch.equal(got.ids_PR, want.ids_PR)
    metrics = vllm.metrics()
    assert (metrics["scorer/vllm_texts"], metrics["scorer/fallbacks"]) == (8, 0)
    assert (metrics["scorer/cached_share"] > 0.3) == read_prefix_cache


def test_a_cache_that_reaches_into_the_reference_is_not_trusted(rig):
    """The same texts twice: the second time the reference itself stands in vLLM's cache."""
    vllm, hf = scorers(rig)
    reasonings = sampled(rig, seed=2)
    references = [" 42 km" * 12, "the claim is wrong. " * 5]  # longer than a block of the cache
    want = hf.score(rig.policy, PROMPTS, reasonings, references).logps_PGR
    for _ in range(2):
        got = vllm.score(rig.policy, PROMPTS, reasonings, references).logps_PGR
        torch.testing.assert_close(got, want, atol=NATS, rtol=0)
    assert vllm.metrics()["scorer/texts_read_again"] == 8


def test_equal_rollouts_are_scored_once(rig):
    vllm, hf = scorers(rig)
    reasonings = [[group[0]] * 4 for group in sampled(rig, seed=3)]
    got = vllm.score(rig.policy, PROMPTS, reasonings, REFERENCES)
    want = hf.score(rig.policy, PROMPTS, reasonings, REFERENCES)
    torch.testing.assert_close(got.logps_PGR, want.logps_PGR, atol=NATS, rtol=0)
    assert vllm.metrics()["scorer/texts_read_again"] == 0


def test_what_vllm_does_not_give_comes_from_the_policy(rig, caplog):
    vllm, hf = scorers(rig)
    reasonings = sampled(rig, seed=4)
    for asked in ({"ranks": True}, {"masked": True}, {"prefixes": PrefixPlan(k=2, segment_on="line")}):
        with caplog.at_level(logging.WARNING):
            got = vllm.score(rig.policy, PROMPTS, reasonings, REFERENCES, **asked)
        want = hf.score(rig.policy, PROMPTS, reasonings, REFERENCES, **asked)
        for name in ("logps_PGR", "ranks_PGR", "masked_logps_PGR", "prefix_logps_PGKR", "prefix_entropies_PGK"):
            if getattr(want, name) is not None:
                torch.testing.assert_close(getattr(got, name), getattr(want, name), equal_nan=True)
    assert vllm.metrics()["scorer/fallbacks/asked"] == 3
    assert sum("scorer=vllm" in record.getMessage() for record in caplog.records) == 1


def test_a_text_that_is_too_long_for_vllm_is_scored_by_the_policy(rig, caplog):
    vllm, hf = scorers(rig)
    long = [[[7, 8] * 600]]
    with caplog.at_level(logging.WARNING):
        got = vllm.score(rig.policy, PROMPTS[:1], long, REFERENCES[:1])
    torch.testing.assert_close(got.logps_PGR, hf.score(rig.policy, PROMPTS[:1], long, REFERENCES[:1]).logps_PGR)
    assert "the policy itself scores the references instead" in caplog.text
    assert vllm.metrics()["scorer/fallbacks/length"] == 1


def test_another_policy_or_stale_weights_are_not_asked_of_vllm(rig, monkeypatch):
    vllm, hf = scorers(rig)
    reasonings = sampled(rig, seed=5)
    torch.manual_seed(5)
    other = AutoModelForCausalLM.from_config(rig.policy.config).eval()
    got = vllm.score(other, PROMPTS, reasonings, REFERENCES).logps_PGR
    torch.testing.assert_close(got, hf.score(other, PROMPTS, reasonings, REFERENCES).logps_PGR)
    monkeypatch.setattr(rig.state, "global_step", 1)  # an update that vLLM was not told of
    vllm.score(rig.policy, PROMPTS, reasonings, REFERENCES)
    assert vllm.metrics()["scorer/fallbacks/weights"] == 2
    assert vllm.metrics()["scorer/vllm_texts"] == 0


def run(folder, *overrides):
    """The shipped policy, which knows its data, so that rewards differ; its rows and its logged steps."""
    small = [override for override in SMALL if not override.startswith("rollout.")]
    ended = run_main(["outputs=outputs", *small, SIZES, "report=false", *overrides, f"hydra.run.dir={folder}"])
    assert ended.code == 0, ended.text
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return pd.read_parquet(folder / "rollouts.parquet"), [row for row in rows if "loss" in row], ended


def test_r3_rewards_of_a_whole_run_are_those_of_the_policy(engines, tmp_path, monkeypatch):
    """One seed and one sampler: the runs see the same rollouts only as long as every reward and update agrees."""
    monkeypatch.chdir(tmp_path)
    common = ("rollout=vllm_colocate", "reward=r3", "algorithm.num_generations=4", "algorithm.learning_rate=1e-3")
    (vllm, steps, _), (hf, _, _) = (run(tmp_path / name, f"scorer={name}", *common) for name in ("vllm", "hf"))
    assert vllm["reasoning"].tolist() == hf["reasoning"].tolist()
    assert vllm["reward"].tolist() == pytest.approx(hf["reward"].tolist(), abs=NATS)
    assert vllm["reward"].std() > 100 * NATS
    assert steps[-1]["scorer/vllm_texts"] >= len(vllm)
    assert steps[-1]["scorer/fallbacks"] == 0


def test_repro_takes_its_entropies_from_the_policy_and_says_so(engines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, steps, ended = run(tmp_path / "run", "rollout=vllm_colocate", "scorer=vllm", "reward=repro", "steps=1")
    assert "does not give prefixes (entropies of segments" in ended.out
    assert (steps[-1]["scorer/hf_texts"], steps[-1]["scorer/vllm_texts"]) == (8, 0)  # an evaluation of 4, a step of 4
    assert steps[-1]["scorer/fallbacks/asked"] == 2
