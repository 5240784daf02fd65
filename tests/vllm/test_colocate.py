"""rollout=vllm_colocate: what vLLM samples with is the policy that learns, after every update."""

from __future__ import annotations

import json
import os

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` runs this folder")

from transformers import AutoModelForCausalLM

from tests import lab_fixture
from tests.cli_fixture import run_main, small_run
from tests.vllm.engine import save_policy

NATS = 1e-5
VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_importance_sampling_correction": True}


def plain_logps(model, batch):
    """The policy's own log-probabilities of a batch's completions: one forward, the whole logits."""
    ids_BT = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask_BT = torch.cat([batch["prompt_mask"], torch.ones_like(batch["completion_ids"])], 1)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT).logits
    width = batch["completion_ids"].shape[1]
    logps = logits[:, -width - 1 : -1].float().log_softmax(-1)
    return logps.gather(2, batch["completion_ids"][..., None])[..., 0]


class Sync:
    """By step: the largest |vLLM's log-prob of what it sampled - the policy's own|, and - the initial policy's|."""

    def __init__(self, trainer, folder) -> None:
        self.own, self.initial, self.trainer, self.inputs = [], [], trainer, None
        self.start = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.sample, trainer._generate_and_score_completions = trainer._generate_and_score_completions, self

    def __call__(self, inputs):
        self.inputs = inputs
        batch = self.sample(inputs)
        mask = batch["completion_mask"].bool()
        sampled = batch["sampling_per_token_logps"][mask]
        policy = self.trainer.policy
        was = policy.training
        policy.eval()
        self.own.append((sampled - plain_logps(policy, batch)[mask]).abs().max().item())
        self.initial.append((sampled - plain_logps(self.start, batch)[mask]).abs().max().item())
        policy.train(was)
        return batch


def lora():
    from peft import LoraConfig

    return LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights="gaussian"
    )


@pytest.mark.parametrize("kind", ["tied", "untied", "lora"])
def test_vllm_samples_with_the_weights_of_the_last_update(kind, engines, tmp_path):
    folder = save_policy(tmp_path / "policy", tied=kind != "untied")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (kind != "untied")
    extra = {"peft_config": lora()} if kind == "lora" else {}
    trainer = lab_fixture.trainer(tmp_path / "out", model=model, extra=extra, **VLLM)
    sync = Sync(trainer, folder)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    trainer.model.train()
    sync(sync.inputs)  # once more, with what the third update left
    assert len(sync.own) == 4
    assert max(sync.own) <= NATS, sync.own  # before the first update, and after each of the three
    assert sync.initial[0] <= NATS
    assert min(sync.initial[1:]) > 0.01, sync.initial  # the updates are large enough to tell old weights from new
    assert len(set(sync.initial)) == 4, "each update moved the weights"
    assert [entry["sampling/sampling_logp_difference/max"] <= NATS for entry in logged] == [True] * 3
    assert [entry["sampling/importance_sampling_ratio/mean"] for entry in logged] == pytest.approx([1.0] * 3, abs=1e-3)


def test_the_seed_of_a_run_seeds_the_sampler(engines, tmp_path):
    """vLLM sets torch's random numbers to a seed of its own where it starts in the trainer's process."""
    folder = save_policy(tmp_path / "policy")

    def first_completions(seed):
        model = AutoModelForCausalLM.from_pretrained(folder)
        trainer = lab_fixture.trainer(tmp_path / "out", model=model, seed=seed, **VLLM)
        return trainer.sample([[5, 6, 7]] * 2, 4, batch_size=8, seed=1), trainer._generate_single_turn(
            [[5, 6, 7]] * 4, None, {}, 4
        )[0]

    (evaluated, sampled), (again, sampled_again), (other, sampled_other) = map(first_completions, (7, 7, 8))
    assert evaluated == again == other  # evaluation has its own seed
    assert sampled == sampled_again
    assert sampled != sampled_other


def test_a_run_with_vllm_records_how_far_sampler_and_trainer_are_apart(engines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    ended = run_main([*small_run(policy, ["rollout=vllm_colocate", "rollout.max_completion_length=8"])])
    assert ended.code == 0, ended.text
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    apart = [row["sampling/sampling_logp_difference/max"] for row in rows if "loss" in row]
    assert len(apart) == 2
    assert max(apart) <= NATS
    left = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
    assert not left, "a later job of this process would take itself for one of several"


def test_a_sampler_that_misses_an_update_is_an_alarm(engines, tmp_path, monkeypatch):
    """vLLM keeps the weights of the start: what TRL then measures raises the monitor; in sync it stays silent."""
    from omegaconf import OmegaConf
    from trl.generation.vllm_generation import VLLMGeneration

    from dro_lab.health import build_watch
    from dro_lab.run import CONF

    group = OmegaConf.load(CONF / "health/default.yaml")
    del group.starvation  # it reads another group of the configuration
    folder = save_policy(tmp_path / "policy")

    def raised():
        watch = build_watch(group)
        trainer = lab_fixture.trainer(
            tmp_path / "out", model=AutoModelForCausalLM.from_pretrained(folder), max_steps=5, **VLLM
        )
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        return {alert.monitor for entry in logs for alert in watch(entry)} & {"sampler_mismatch"}

    assert raised() == set()
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    assert raised() == {"sampler_mismatch"}
