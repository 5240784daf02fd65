"""The seam with TRL 1.16.0: what dro_lab/training/trainer.py relies on. To upgrade TRL, move the pin and run this."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch
import trl
from transformers import AutoModelForCausalLM, PrinterCallback, set_seed
from trl import GRPOTrainer

from dro_lab.components import REFERENCE_NEED
from dro_lab.resume.steps import ResumableSteps, advance_sampler
from dro_lab.rewards.r3 import r3
from dro_lab.training import trainer as seam
from dro_lab.training.finite_steps import FiniteSteps
from dro_lab.types import FilterResult, Rewards
from tests import lab_fixture as lab
from tests.tiny import byte_tokenizer, tiny_qwen3

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def captured_batch(trainer) -> dict:
    """One generation batch as TRL's loss will see it."""
    examples = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return trainer._generate_and_score_completions(examples)


def test_the_pin_is_what_is_installed():
    assert trl.__version__ == "1.16.0"


def test_the_overridden_methods_take_what_we_think():
    assert parameters(GRPOTrainer._calculate_rewards) == [
        "self", "inputs", "prompts", "completions", "completion_ids_list",
    ]  # fmt: skip
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(GRPOTrainer._generate_single_turn)[:5] == [
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations",
    ]  # fmt: skip


def test_the_adapter_is_thin_and_overrides_two_methods_only():
    source = Path(seam.__file__).read_text()
    assert len(source.splitlines()) < 150
    overridden = {name for name in vars(seam.LabTrainer) if name in vars(GRPOTrainer) and not name.startswith("__")}
    assert overridden == {"_calculate_rewards", "_generate_and_score_completions"}
    looked_at = {name for name in vars(FiniteSteps) if name in dir(GRPOTrainer) and not name.startswith("__")}
    assert looked_at == {"compute_loss", "training_step"}, "these pass on what TRL returns"
    saved = {name for name in vars(ResumableSteps) if name in dir(GRPOTrainer) and not name.startswith("__")}
    split = {
        "save_model", "_save_optimizer_and_scheduler", "_prepare_for_training", "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
    }  # fmt: skip
    assert saved == {"_save_checkpoint", "create_model_card", *split}, "the first passes on what TRL writes"


def test_trl_goes_on_as_resuming_thinks(tmp_path):
    """Its sampler draws one order an epoch from numbers of its own; its checkpoint is where it is looked for."""
    first, second = (lab.trainer(tmp_path / name).get_train_dataloader() for name in ("a", "b"))
    epochs = [[[example["row"] for example in batch] for batch in first] for _ in range(3)]
    assert epochs[0] != epochs[1]
    advance_sampler(second, step=2 * len(second) + 1, rounds=1)
    assert [[example["row"] for example in batch] for batch in second] == epochs[2]
    assert parameters(GRPOTrainer._save_checkpoint) == ["self", "model", "trial"]
    assert lab.trainer(tmp_path / "c")._step == 0


def test_trl_is_imported_in_no_other_module():
    root = Path(seam.__file__).parents[1]
    importers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "trl" for name in names):
                importers.add(path.relative_to(root).as_posix())
    assert importers == {"training/trainer.py"}


def test_the_batch_holds_the_keys_that_the_adapter_replaces(tmp_path):
    batch = captured_batch(lab.trainer(tmp_path))
    assert {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
    } <= set(batch)
    assert batch["advantages"].shape == (8,)
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()


def test_trl_takes_token_advantages_and_reads_equal_ones_as_rollout_advantages(tmp_path):
    trainer = lab.trainer(tmp_path)
    batch = captured_batch(trainer)
    trainer.current_gradient_accumulation_steps = 1
    flat = trainer._compute_loss(trainer.model, batch)
    spread = {**batch, "advantages": batch["advantages"][:, None].expand_as(batch["completion_ids"])}
    assert trainer._compute_loss(trainer.model, spread).item() == pytest.approx(flat.item(), abs=1e-7)


def test_token_advantages_fit_a_batch_that_trl_pads_further_than_the_completions(tmp_path):
    chosen = lab.pipeline(lab.component("r3", r3, REFERENCE_NEED), credit="causal")
    plain = captured_batch(lab.trainer(tmp_path / "a", chosen=chosen))["advantages"]
    batch = captured_batch(lab.trainer(tmp_path / "b", chosen=chosen, pad_to_multiple_of=32))
    assert plain.shape[1] < 32
    assert batch["advantages"].shape == batch["completion_ids"].shape
    assert torch.equal(batch["advantages"][:, : plain.shape[1]], plain)
    assert not batch["advantages"][:, plain.shape[1] :].any()


def test_a_rollout_without_a_reward_teaches_nothing_and_leaves_the_baseline(tmp_path):
    def reward(groups, stats):
        outcome = lab.count_reward(groups, stats).outcome_PG.clone()
        outcome[0, 1] = torch.nan
        return Rewards(outcome_PG=outcome)

    trainer = lab.trainer(tmp_path, chosen=lab.pipeline(lab.component("holey", reward)))
    batch = captured_batch(trainer)
    outcome = trainer._scored.scored.rewards.outcome_PG
    others = outcome[0, [0, 2, 3]]
    assert batch["advantages"][1] == 0
    expected = (others - others.mean()) / (others.std() + 1e-4)
    torch.testing.assert_close(batch["advantages"][[0, 2, 3]], expected, atol=1e-6, rtol=0)


def test_group_norm_gives_trls_own_advantages(tmp_path, monkeypatch):
    """The advantages that the adapter replaces are equal to those it puts in their place."""
    own = []
    original = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        batch = original(self, inputs)
        own.append(batch["advantages"].clone())
        return batch

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
    batch = captured_batch(lab.trainer(tmp_path))
    torch.testing.assert_close(batch["advantages"], own[0], atol=1e-6, rtol=0)
    assert own[0].abs().max() > 0.1


def test_training_with_a_plain_reward_equals_bare_trl(tmp_path):
    ours = lab.trainer(tmp_path / "ours", max_steps=4, learning_rate=1e-4)
    ours.train()
    lab.fresh_process()
    set_seed(0)
    tokenizer = byte_tokenizer()
    bare = GRPOTrainer(
        model=tiny_qwen3(len(tokenizer)),
        reward_funcs=lab.bare_count_reward,
        args=lab.config(tmp_path / "bare", max_steps=4, learning_rate=1e-4),
        train_dataset=lab.dataset(),
        processing_class=tokenizer,
    )
    bare.remove_callback(PrinterCallback)
    start = weights(bare.model)
    bare.train()
    moved = max((value - start[name]).abs().max().item() for name, value in bare.model.state_dict().items())
    assert moved > 2e-4
    for name, value in bare.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)


def keep_first(groups, stats, rewards) -> FilterResult:
    keep = torch.zeros(groups.shape, dtype=torch.bool)
    keep[0] = True
    return FilterResult(keep_PG=keep, reasons_P=["", "dropped by the test"])


def on_disk(folder):
    """A policy that TRL can load again as the reference of its KL term."""
    tiny_qwen3(len(byte_tokenizer())).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def keep_nothing(groups, stats, rewards) -> FilterResult:
    prompts, group = groups.shape
    return FilterResult(keep_PG=torch.zeros(prompts, group, dtype=torch.bool), reasons_P=["dropped"] * prompts)


def gradient(trainer, batch) -> torch.Tensor:
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_dropped_group_gives_the_gradient_of_a_smaller_batch(tmp_path, loss_type, beta):
    trainer = lab.trainer(
        tmp_path / "run",
        chosen=lab.pipeline(filter=lab.component("keep_first", keep_first)),
        loss_type=loss_type,
        beta=beta,
        model=on_disk(tmp_path / "policy"),
    )
    batch = captured_batch(trainer)
    assert batch["completion_mask"][4:].sum() == 0
    if beta:  # a KL term with a gradient of its own: at the start it has none
        batch["ref_per_token_logps"] = batch["ref_per_token_logps"] - torch.linspace(0, 1, 8)[:, None]
    dropped = gradient(trainer, batch)
    trainer.beta = beta
    rows = {key: value[:4] if value.dim() else value for key, value in batch.items()}
    rows["advantages"] = trainer.scoring.pipeline.advantages(trainer._scored.scored, None)[0]
    rows["num_items_in_batch"] = rows["completion_mask"].sum()
    smaller = gradient(trainer, rows)
    assert smaller.norm() > 0
    torch.testing.assert_close(dropped, smaller, atol=1e-6, rtol=1e-4)


def test_a_step_in_which_everything_is_dropped_changes_no_weight_and_no_optimizer_state(tmp_path):
    """The first two steps teach, so that Adam has momentum; the rest drop everything."""
    seen = []

    def switch(groups, stats, rewards):
        return keep_nothing(groups, stats, rewards) if groups.step >= 2 else lab.no_filter(groups, stats, rewards)

    trainer = lab.trainer(tmp_path, chosen=lab.pipeline(filter=lab.component("switch", switch)), max_steps=4)

    class Spy(lab.PrinterCallback):
        def on_log(self, *args, **kwargs):
            pass

        def on_step_end(self, args, state, control, **kwargs):
            moments = [
                {key: value.clone() for key, value in entry.items() if torch.is_tensor(value)}
                for entry in trainer.optimizer.state.values()
            ]
            seen.append((weights(trainer.model), moments))

    trainer.add_callback(Spy())
    trainer.train()
    (w1, m1), (w2, m2), (w3, _), (w4, m4) = seen
    assert any(not torch.equal(w1[name], w2[name]) for name in w1)
    for name in w2:
        assert torch.equal(w2[name], w3[name])
        assert torch.equal(w2[name], w4[name])
    assert m2
    assert all(torch.equal(before[key], after[key]) for before, after in zip(m2, m4, strict=True) for key in before)
    assert any(not torch.equal(before[key], after[key]) for before, after in zip(m1, m2, strict=True) for key in before)


def test_sampling_for_an_evaluation_leaves_trainings_random_numbers_alone(tmp_path):
    trainer = lab.trainer(tmp_path)
    prompts = trainer.scoring.prompt_ids(lab.ROWS[:2])
    trainer.model.train()
    before = torch.random.get_rng_state()
    first = trainer.sample(prompts, 3, batch_size=4, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    assert trainer.model.training
    assert len(first) == 6
    assert first == trainer.sample(prompts, 3, batch_size=4, seed=5)
    assert first != trainer.sample(prompts, 3, batch_size=4, seed=6)


def test_prompts_are_rendered_as_trl_renders_them(tmp_path):
    trainer = lab.trainer(tmp_path)
    theirs, _, _ = trainer._tokenize_prompts([list(row.prompt) for row in lab.ROWS])
    assert trainer.scoring.prompt_ids(lab.ROWS) == theirs
