"""model.peft=lora: an adapter is trained, the policy at the start is the one without it, and what is saved is plain."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.models import policy_spec
from dro_lab.scoring.head import WithoutAdapter
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.training.policies import Policies
from dro_lab.training.weights import save_policy
from tests import lab_fixture
from tests.tiny import byte_tokenizer, tiny_qwen3

PROMPTS, REASONINGS, REFERENCES = [[5, 6, 7], [9, 8]], [[[10, 11], [12]], [[13, 14, 15], [16]]], ["one", "two"]


def adapter():
    return policy_spec(compose(["model.peft=lora", "model.lora.r=4", "model.lora.alpha=16"]).model).peft_config()


def scores(model) -> torch.Tensor:
    scorer = ReferenceScorer(byte_tokenizer(), ReasoningFormat(answer_marker=""))
    return scorer.score(model, PROMPTS, REASONINGS, REFERENCES).logps_PGR


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer after three steps, the policy it started from, and the frozen policies of the run."""
    model = tiny_qwen3(len(byte_tokenizer()))
    start, policies = copy.deepcopy(model), Policies(scored_by="reference", adapted=True)
    policies.start(model)
    trainer = lab_fixture.trainer(
        tmp_path_factory.mktemp("out"), model=model, extra={"peft_config": adapter()}, learning_rate=3e-2
    )
    trainer.train()
    return trainer, start, policies


def test_only_the_adapter_is_trained(trained) -> None:
    trainer, start, _ = trained
    names = [name for name, weight in trainer.policy.named_parameters() if weight.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    held = sum(weight.numel() for weight in trainer.policy.parameters())
    layers, hidden, inner, kv, mlp = 2, 32, 32, 16, 48
    matrices = 2 * (hidden + inner) + 2 * (hidden + kv) + 3 * (hidden + mlp)
    assert held - start.num_parameters() == layers * 4 * matrices


def test_the_reference_is_the_start_and_no_second_copy(trained) -> None:
    trainer, start, policies = trained
    found = policies.models(trainer.readable(), step=3)
    assert isinstance(found["reference"], WithoutAdapter)
    own = {weight.data_ptr() for weight in trainer.policy.parameters()}
    assert {weight.data_ptr() for weight in found["reference"].parameters()} <= own
    torch.testing.assert_close(scores(found["reference"]), scores(start), atol=1e-6, rtol=0)
    now = scores(found["current"])
    assert (now - scores(start)).abs().max() > 0.01, "the adapter learned something"
    torch.testing.assert_close(scores(found["current"]), now)  # and is on again after the reference was asked


@pytest.mark.parametrize("step", [2, 3])
def test_the_lagged_policy_is_the_adapted_one_as_it_was(trained, step: int) -> None:
    """Weights of its own with the adapter's part added, taken anew after ``lag`` steps and not before."""
    trainer, start, _ = trained
    policies = Policies(scored_by="lagged", lag=3, adapted=True)
    policies.start(copy.deepcopy(start))
    found = policies.models(trainer.readable(), step=step)
    expected = scores(found["current"] if step >= 3 else start)
    torch.testing.assert_close(scores(found["lagged"]), expected, atol=1e-5, rtol=0)
    assert (scores(start) - scores(found["current"])).abs().max() > 0.01


def test_what_is_saved_is_the_policy_with_its_adapter(trained, tmp_path: Path) -> None:
    trainer, *_ = trained
    save_policy(trainer.policy, byte_tokenizer(), tmp_path, kind=trainer.kind)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(saved).__name__ == "Qwen3ForCausalLM"
    torch.testing.assert_close(scores(saved), scores(trainer.readable()), atol=1e-5, rtol=0)
    assert saved.lm_head.weight is saved.model.embed_tokens.weight
    from peft import PeftModel

    again = PeftModel.from_pretrained(tiny_qwen3(len(byte_tokenizer())), tmp_path / "adapter")
    torch.testing.assert_close(scores(again.get_base_model()), scores(saved), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="holds an adapter alone"):
        policy_spec(compose([f"model.path={tmp_path}/adapter"]).model)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("model.peft=qlora", "model.peft=qlora"),
        ("model.lora.r=0", "model.lora.r=0"),
        ("model.lora.dropout=2", "model.lora.dropout=2"),
        ("model.lora.target_modules=[lm_head]", "leave lm_head out"),
        ("model.lora.target_modules=3", "all-linear"),
    ],
)
def test_bad_settings_are_refused(given: str, part: str) -> None:
    overrides = [given] if given.startswith("model.peft") else ["model.peft=lora", given]
    with pytest.raises(UserError) as error:
        policy_spec(compose(overrides).model)
    assert part in str(error.value)
