"""Sampling again until a step has its groups: the batch, the scored step and the record stay consistent."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import TrainerCallback

from dro_lab.record.read import load_run
from dro_lab.training.observer import LEFT_OUT
from dro_lab.training.refill import Prompts, Refill, merge_batches
from dro_lab.types import FilterResult, GateResult, Rewards
from tests import lab_fixture as lab
from tests.cli_fixture import run_main, save_policy, small_run
from tests.contract.test_trl_seam import captured_batch, on_disk, weights


def keeps(*wanted: int):
    """A filter that keeps the groups of these rows alone."""

    def only(groups, stats, rewards):
        kept = [int(columns["id"].removeprefix("row-")) in wanted for columns in groups.columns_P]
        keep_PG = torch.tensor(kept)[:, None].expand(-1, groups.shape[1])
        return FilterResult(keep_PG=keep_PG, reasons_P=["" if k else "unwanted" for k in kept])

    return lab.component("only", only)


def refilled(folder, *wanted: int, rounds: int = 8, **more):
    seen = []
    refill = Refill(rounds, Prompts(len(lab.ROWS), seed=3))
    trainer = lab.trainer(
        folder,
        chosen=lab.pipeline(filter=keeps(*wanted)),
        observer=lambda step, advantages: seen.append((step, advantages)) or {},
        extra={"refill": refill},
        **more,
    )
    return trainer, captured_batch(trainer), *seen[0]


def test_a_step_gets_its_groups_and_batch_and_step_agree(tmp_path):
    trainer, batch, step, advantages = refilled(tmp_path, 1, 4)
    assert set(step.rows) <= {1, 4}
    assert step.scored.teach_PG.all()
    assert [columns["id"] for columns in step.scored.groups.columns_P] == [f"row-{row}" for row in step.rows]
    groups = step.scored.groups
    mask = batch["completion_mask"].bool()
    assert torch.equal(mask, groups.completion_mask_PGC.flatten(0, 1)[:, : mask.shape[1]])
    assert torch.equal(batch["completion_ids"][mask], groups.completion_ids_PGC[groups.completion_mask_PGC])
    prompts = trainer.scoring.prompt_ids([lab.ROWS[row] for row in step.rows])
    for number, ids in enumerate(batch["prompt_ids"]):
        assert ids[batch["prompt_mask"][number].bool()].tolist() == prompts[number // 4]
    assert batch["num_items_in_batch"] == mask.sum()
    torch.testing.assert_close(batch["advantages"], advantages.flatten())
    again = trainer.scoring.pipeline.reward(groups, step.scored.stats)
    torch.testing.assert_close(step.scored.rewards.outcome_PG, again.outcome_PG)


def test_nothing_that_was_sampled_is_lost_and_the_cost_is_shown(tmp_path):
    _, _, step, _ = refilled(tmp_path, 1, 4)
    refused = [
        earlier.scored.groups.columns_P[p]["id"]
        for earlier, places in step.replaced
        for p in places
        if not earlier.scored.teach_PG[p].any()
    ]
    rollouts = step.metrics["filter/refill_rollouts"]
    assert rollouts > 0
    assert rollouts / 4 + 2 == len(refused) + 2  # groups sampled = groups refused + groups of the step
    assert step.metrics["filter/refill_rounds"] >= 1
    assert 0 <= step.metrics["filter/first_kept_share"] < 1
    assert step.metrics["filter/refilled_share"] == 1 - step.metrics["filter/first_kept_share"]
    # the step's own groups were all kept: the rate is that of all groups sampled
    assert step.metrics["filter/dropped_share"] == pytest.approx(len(refused) / (rollouts / 4 + 2))
    assert step.metrics["gate/rejected_share"] == 0.0


def test_rounds_end_and_a_step_without_any_group_changes_nothing(tmp_path):
    trainer, _, step, _ = refilled(tmp_path, rounds=2)
    assert step.metrics["filter/refill_rounds"] == 2
    assert trainer.nothing_kept
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_groups_without_any_spread_are_replaced_without_a_filter(tmp_path):
    """DAPO's dynamic sampling: a group all right or all wrong has no advantages."""

    def flat_but(*wanted):
        def reward(groups, stats):
            outcome_PG = lab.count_reward(groups, stats).outcome_PG
            for p, columns in enumerate(groups.columns_P):
                if int(columns["id"].removeprefix("row-")) not in wanted:
                    outcome_PG[p] = 1.0
            return Rewards(outcome_PG=outcome_PG)

        return lab.component("flat", reward)

    seen = []
    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(flat_but(1, 4)),
        observer=lambda step, advantages: seen.append((step, advantages)) or {},
        extra={"refill": Refill(8, Prompts(len(lab.ROWS), seed=3))},
    )
    captured_batch(trainer)
    step, advantages = seen[0]
    assert set(step.rows) <= {1, 4}
    assert (advantages.abs().amax(1) > 0).all()
    assert step.metrics["filter/refilled_share"] > 0
    assert step.metrics["filter/dropped_share"] == 0.0


def test_a_step_that_has_its_groups_is_left_as_it_is(tmp_path):
    wanted = range(len(lab.ROWS))
    _, batch, step, _ = refilled(tmp_path / "a", *wanted)
    plain = captured_batch(lab.trainer(tmp_path / "b", chosen=lab.pipeline(filter=keeps(*wanted))))
    assert step.metrics["filter/refill_rounds"] == 0
    for key, value in plain.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(batch[key], value), key


def test_the_same_seed_samples_the_same_again(tmp_path):
    one, two = refilled(tmp_path / "a", 1, 4), refilled(tmp_path / "b", 1, 4)
    assert one[2].rows == two[2].rows
    assert torch.equal(one[1]["completion_ids"], two[1]["completion_ids"])


def test_training_goes_on_with_refilled_steps(tmp_path):
    # with a KL term the batch holds more (B, T) keys
    trainer, *_ = refilled(tmp_path, 1, 4, beta=0.1, model=on_disk(tmp_path / "policy"))
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(
        value == value for log in trainer.state.log_history for value in log.values() if isinstance(value, float)
    )


def test_prompts_come_in_seeded_order_each_once_an_epoch_and_pass_over_those_in_use():
    prompts = Prompts(rows=5, seed=0)
    assert sorted(prompts.take(5)) == list(range(5))
    assert sorted(prompts.take(5)) == list(range(5))
    assert Prompts(rows=5, seed=0).take(10) == Prompts(rows=5, seed=0).take(10)
    resumed = Prompts(rows=5, seed=0, position=3)
    assert Prompts(rows=5, seed=0).take(7)[3:] == resumed.take(4)
    assert set(Prompts(rows=5, seed=1).take(3, avoid=frozenset({0, 1}))) == {2, 3, 4}
    assert len(Prompts(rows=2, seed=1).take(3, avoid=frozenset({0, 1}))) == 3  # all are in use: they come again


def test_ranks_take_different_prompts_of_one_order():
    taken = [Prompts(rows=6, seed=0).take(3, rank=rank, ranks=2) for rank in range(2)]
    assert sorted(taken[0] + taken[1]) == list(range(6))
    assert [index for pair in zip(*taken, strict=True) for index in pair] == Prompts(rows=6, seed=0).take(6)


def test_padding_of_reference_log_probabilities_cannot_make_the_kl_term_overflow():
    """TRL takes exp(reference - policy) before it masks; a large policy may give padding less than e^-88."""
    batch = {"completion_ids": torch.tensor([[5]]), "ref_per_token_logps": torch.tensor([[-1.0]])}
    more = {"completion_ids": torch.tensor([[6, 7]]), "ref_per_token_logps": torch.tensor([[-1.0, -2.0]])}
    wide = {"completion_ids": torch.tensor([[5], [8]]), "ref_per_token_logps": torch.tensor([[-1.0], [-3.0]])}
    merged = merge_batches(wide, more, [1], [0], pad_id=99)["ref_per_token_logps"]
    assert merged[1].tolist() == [-1.0, -2.0]
    difference = merged[0] - torch.tensor([-1.5, -200.0])
    kl = (difference.exp() - difference - 1) * torch.tensor([1, 0])
    assert kl.isfinite().all()
    assert torch.equal(merge_batches(batch, batch, [0], [0], pad_id=99)["ref_per_token_logps"], torch.tensor([[-1.0]]))


def test_rows_are_widened_prompts_on_the_left_and_the_rest_on_the_right():
    a = {
        "prompt_ids": torch.tensor([[1, 2], [3, 4]]),
        "completion_ids": torch.tensor([[5], [6]]),
        "completion_mask": torch.tensor([[1], [1]]),
        "advantages": torch.tensor([0.1, 0.2]),
        "num_items_in_batch": torch.tensor(2),
    }
    b = {
        "prompt_ids": torch.tensor([[7, 8, 9]]),
        "completion_ids": torch.tensor([[10, 11]]),
        "completion_mask": torch.tensor([[1, 1]]),
        "advantages": torch.tensor([0.3]),
        "num_items_in_batch": torch.tensor(2),
    }
    merged = merge_batches(a, b, [1], [0], pad_id=99)
    assert merged["prompt_ids"].tolist() == [[99, 1, 2], [7, 8, 9]]
    assert merged["completion_ids"].tolist() == [[5, 99], [10, 11]]
    assert merged["completion_mask"].tolist() == [[1, 0], [1, 1]]
    assert merged["advantages"].tolist() == pytest.approx([0.1, 0.3])
    assert a["prompt_ids"].shape == (2, 2)


# ------------------------------------------------------------------------------------------------ zeroed groups


def zeroes(*places: int):
    """A gate that silences these groups of a step, and leaves them in the loss's denominator."""

    def gate(groups, stats, rewards):
        zero = torch.tensor([p in places for p in range(groups.shape[0])])
        return GateResult(
            admit_P=torch.ones_like(zero),
            failed_PG=torch.zeros(groups.shape, dtype=torch.bool),
            rewards=rewards,
            reasons_P=["" if not z else "zeroed" for z in zero],
            rejected_P=zero,
            zero_P=zero,
        )

    return lab.component("zero", gate)


def test_a_zeroed_group_has_no_advantage_and_stays_in_the_denominator(tmp_path):
    batch = captured_batch(lab.trainer(tmp_path / "a", chosen=lab.pipeline(gate=zeroes(1))))
    plain = captured_batch(lab.trainer(tmp_path / "b"))
    assert not batch["advantages"][4:].any()
    torch.testing.assert_close(batch["advantages"][:4], plain["advantages"][:4])
    assert torch.equal(batch["completion_mask"], plain["completion_mask"])
    assert batch["num_items_in_batch"] == plain["num_items_in_batch"]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_step_of_zeroed_groups_leaves_weights_and_optimizer_state_bit_equal(tmp_path, beta):
    """After a first ordinary step, so that Adam has momentum that could still move the weights."""
    calls = []

    def gate(groups, stats, rewards):
        calls.append(1)
        silenced = range(groups.shape[0]) if len(calls) > 1 else ()
        return zeroes(*silenced)(groups, stats, rewards)

    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(gate=lab.component("zero", gate)),
        max_steps=3,
        beta=beta,
        learning_rate=1e-2,
        model=on_disk(tmp_path / "policy"),
    )
    states = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            moments = [v.clone() for s in trainer.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
            states.append((weights(trainer.model), moments))

    trainer.add_callback(Watch())
    before = weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], states[0][0][name]) for name in before)
    for later in states[1:]:
        assert all(torch.equal(states[0][0][name], later[0][name]) for name in before)
        assert all(torch.equal(x, y) for x, y in zip(states[0][1], later[1], strict=True))


# ------------------------------------------------------------------------------------------------ several rounds


@pytest.mark.parametrize(("teaching", "moves"), [((0,), True), ((1,), True), ((0, 1), True), ((), False)])
def test_an_update_of_several_sampling_rounds_is_made_if_one_of_them_teaches(tmp_path, teaching, moves):
    """Gradients of two rounds add up to one update: an empty second round must not throw the first one's away."""
    rounds = []

    def some(groups, stats, rewards):
        keep_PG = torch.full(groups.shape, len(rounds) in teaching)
        rounds.append(1)
        return FilterResult(keep_PG=keep_PG, reasons_P=["" if row.all() else "no" for row in keep_PG])

    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(filter=lab.component("some", some)),
        gradient_accumulation_steps=2,
        steps_per_generation=1,
        max_steps=1,
    )
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert len(rounds) == 2
    assert any(not torch.equal(before[name], after[name]) for name in before) == moves


def test_what_refill_left_out_stands_in_the_record_as_not_kept_with_its_reason(tmp_path, monkeypatch):
    """A random policy's answers are all wrong: no group has any spread, and no round finds one that has."""
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    chosen = ["reward=verifier", "filtering.refill=true", "filtering.max_rounds=2", "steps=1"]
    ended = run_main(small_run(policy, chosen))
    assert ended.code == 0, ended.err
    run = load_run(tmp_path / "run")
    left_out = run.rollouts[run.rollouts["reason"] == LEFT_OUT]
    assert len(left_out) == run.metrics["filter/refill_rollouts"].sum() > 0
    assert not left_out["kept"].any()
    assert (left_out["advantage"] == 0).all()
    assert len(run.rollouts) > len(left_out)  # the step's own rows are there too


def test_an_update_that_holds_dropped_rows_alone_changes_nothing(tmp_path):
    """Two updates a sampling round, one row kept after the first round: one of the two has nothing to learn from."""
    calls = []

    def one(groups, stats, rewards):
        calls.append(1)
        keep_PG = torch.zeros(groups.shape, dtype=torch.bool)
        keep_PG[0, 0] = True
        if len(calls) == 1:
            keep_PG[:] = True
        return FilterResult(keep_PG=keep_PG, reasons_P=["" if row.any() else "unwanted" for row in keep_PG])

    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(filter=lab.component("one", one)),
        per_device_train_batch_size=4,
        steps_per_generation=2,
        gradient_accumulation_steps=1,
        max_steps=4,
    )
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(weights(trainer.model))

    trainer.add_callback(Watch())
    trainer.train()
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(seen)]
    assert moved[0]  # the second update of the first round, in which all rows are kept
    assert sorted(moved[1:]) == [False, True]
