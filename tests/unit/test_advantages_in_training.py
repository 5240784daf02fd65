"""Token advantages on their way to the loss: pipeline, refill, record, several ranks, and TRL's batch."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from dro_lab.advantages.group_norm import group_norm
from dro_lab.advantages.leave_one_out import leave_one_out
from dro_lab.advantages.mean_baseline import mean_baseline
from dro_lab.advantages.reinforce_pp import reinforce_pp
from dro_lab.advantages.reinforce_pp_baseline import reinforce_pp_baseline
from dro_lab.launch.group import Ranks
from dro_lab.pipeline import has_signal, step_metrics
from dro_lab.training.ranks import over_all_ranks
from dro_lab.training.refill import Prompts, Refill
from dro_lab.types import Rewards, TokenStats
from tests import lab_fixture as lab
from tests.contract.test_trl_seam import captured_batch, keep_first, weights
from tests.tiny_step import groups_of

ALL = [group_norm, mean_baseline, leave_one_out, reinforce_pp, reinforce_pp_baseline]
NAN = float("nan")


def taking(estimator):
    return replace(lab.component(estimator.__name__, estimator), takes_process=True)


def two_points(groups, stats, outcome_PG=None, **more):
    """A segment reward on the first two tokens of each completion, other for each rollout; outcomes all 1."""
    places = torch.arange(groups.completion_mask_PGC.shape[-1])
    scored_PGC = groups.completion_mask_PGC & (places < 2)
    size_PG1 = torch.arange(groups.shape[1]).float().expand(groups.shape)[..., None]
    return Rewards(
        outcome_PG=torch.ones(groups.shape) if outcome_PG is None else outcome_PG,
        process_PGC=torch.where(scored_PGC, size_PG1, 0.0),
        process_mask_PGC=scored_PGC,
        process_weight=0.5,
        **more,
    )


# ------------------------------------------------------------------------------------------------ pipeline


def test_causal_credit_cuts_the_answer_and_leaves_the_process_as_it_is():
    groups = groups_of(2, 3)  # three reasoning tokens of eight
    outcome_PG = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    reward = lab.component("two", lambda g, s: two_points(g, s, outcome_PG, depends_on="reasoning"))
    given = {}
    for credit in ("completion", "causal"):
        chosen = lab.pipeline(reward, credit=credit)
        given[credit] = chosen.advantages(chosen.score(groups, TokenStats()), groups.completion_mask_PGC)
    assert torch.equal(given["causal"][..., :4], given["completion"][..., :4])
    assert not given["causal"][..., 4:].any()
    assert given["completion"][..., 4:].any()
    assert not torch.equal(given["causal"][..., 0], given["causal"][..., 3])  # credit on the first two alone


@pytest.mark.parametrize("change", [3, -2])
def test_the_loss_mask_may_be_wider_or_narrower_than_the_completions(change):
    groups = groups_of(1, 3)
    chosen = lab.pipeline(lab.component("two", two_points))
    scored = chosen.score(groups, TokenStats())
    want = chosen.advantages(scored, groups.completion_mask_PGC)
    mask_PGC = torch.nn.functional.pad(groups.completion_mask_PGC, (0, change))
    got = chosen.advantages(scored, mask_PGC)
    assert got.shape == want.shape
    assert torch.equal(got[..., : 8 + min(change, 0)], want[..., : 8 + min(change, 0)])


def signal(outcome, process=None, **more):
    rewards = Rewards(outcome_PG=torch.tensor([outcome]), process_weight=0.1)
    if process is not None:
        process_PGC = torch.tensor([process])
        rewards = replace(rewards, process_PGC=process_PGC, process_mask_PGC=~process_PGC.isnan(), **more)
    return has_signal(rewards).item()


@pytest.mark.parametrize(
    ("want", "arguments"),
    [
        (True, {"outcome": [1.0, 0.0]}),
        (False, {"outcome": [1.0, 1.0]}),
        (True, {"outcome": [NAN, 1.0, 0.0]}),
        (False, {"outcome": [NAN, NAN]}),
        (True, {"outcome": [1.0, 1.0], "process": [[0.1, NAN], [0.2, NAN]]}),
        (True, {"outcome": [1.0, 1.0], "process": [[0.1, 0.0], [NAN, NAN]]}),
        (False, {"outcome": [1.0, 1.0], "process": [[0.1, 0.1], [0.1, NAN]]}),
        (True, {"outcome": [1.0, 1.0], "process": [[0.1, 0.1], [0.1, NAN]], "process_center": False}),
        (False, {"outcome": [1.0, 1.0], "process": [[0.0, NAN], [0.0, NAN]], "process_center": False}),
        (False, {"outcome": [1.0, 1.0], "process": [[NAN, NAN], [NAN, NAN]]}),
        (False, {"outcome": [NAN, 1.0], "process": [[0.1, 0.2], [0.3, NAN]]}),  # the points of no scorable rollout
        (False, {"outcome": [1.0, 1.0], "process": [[0.1, NAN], [0.2, NAN]], "process_weight": 0.0}),
    ],
)
def test_which_groups_have_something_to_teach(want, arguments):
    assert signal(**arguments) == want


def test_a_group_that_only_its_process_can_teach_is_no_group_without_signal():
    def share(reward):
        scored = lab.pipeline(lab.component("two", reward)).score(groups_of(2, 3), TokenStats())
        return step_metrics(scored, "two")["groups/zero_signal_share"]

    assert share(two_points) == 0.0
    assert share(lambda groups, stats: Rewards(outcome_PG=torch.ones(groups.shape))) == 1.0


# ------------------------------------------------------------------------------------------------ several ranks


def exchange(index, barrier, board):
    """How the threads that stand for ranks tell each other what they have."""

    def all_values(value):
        board[index] = value
        barrier.wait()
        values = list(board)
        barrier.wait()
        return values

    return Ranks(index, barrier.parties, all_values)


def on_ranks(estimator, parts):
    """The advantages of every rank, each with its own share of the prompts."""
    barrier, board, found = threading.Barrier(len(parts), timeout=60), [None] * len(parts), [None] * len(parts)

    def work(index):
        found[index] = over_all_ranks(exchange(index, barrier, board))(estimator)(*parts[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("process", [True, False])
@pytest.mark.parametrize("estimator", ALL)
def test_ranks_together_give_what_one_gives_with_all_prompts(estimator, process):
    draw = torch.Generator().manual_seed(0)
    lengths_PG = torch.randint(2, 7, (4, 3), generator=draw)
    lengths_PG[:2] = lengths_PG[:2].clamp(max=4)  # the first rank's completions are narrower
    mask_PGC = torch.arange(6) < lengths_PG[..., None]
    rewards = Rewards(outcome_PG=torch.rand(4, 3, generator=draw), parts={"a": torch.ones(4, 3)})
    rewards.outcome_PG[0, 1] = NAN
    if process:
        scored_PGC = mask_PGC & (torch.rand(4, 3, 6, generator=draw) < 0.6)
        process_PGC = torch.randn(4, 3, 6, generator=draw)
        rewards = replace(rewards, process_PGC=process_PGC, process_mask_PGC=scored_PGC, process_weight=0.3)
    keep_PG = torch.ones(4, 3, dtype=torch.bool)
    keep_PG[3, 0] = False

    def part(rows, width):
        own = replace(rewards, outcome_PG=rewards.outcome_PG[rows], parts={"a": torch.ones(2, 3)})
        if process:
            cut = rewards.process_PGC[rows, :, :width], rewards.process_mask_PGC[rows, :, :width]
            own = replace(own, process_PGC=cut[0], process_mask_PGC=cut[1])
        return own, keep_PG[rows], mask_PGC[rows, :, :width]

    first, second = on_ranks(estimator, [part(slice(0, 2), 4), part(slice(2, 4), 6)])
    want = estimator(rewards, keep_PG, mask_PGC)
    assert want.any()
    torch.testing.assert_close(second, want[2:])
    torch.testing.assert_close(first, want[:2, :, :4] if process else want[:2])


def test_on_one_rank_the_estimator_is_left_as_it_is():
    assert over_all_ranks(Ranks())(group_norm) is group_norm


# ------------------------------------------------------------------------------------------------ TRL's batch


@pytest.mark.parametrize("estimator", ALL)
def test_trl_gets_token_advantages_and_trains_on_them(tmp_path, estimator):
    seen = []
    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(lab.component("two", two_points), advantage=taking(estimator)),
        observer=lambda step, advantages: seen.append((step, advantages)) or {},
        pad_to_multiple_of=32,
        max_steps=1,
    )
    batch = captured_batch(trainer)
    given = batch["advantages"]
    assert given.shape == batch["completion_ids"].shape
    assert given.dtype == torch.float32
    assert not given[~batch["completion_mask"].bool()].any()
    assert given[:, :2].any()
    assert not given[:, 2:].any()  # outcomes are all equal: nothing but credit, which ends with the second token
    step, recorded_PG = seen[0]
    assert recorded_PG.shape == step.scored.groups.shape
    used = given.unflatten(0, recorded_PG.shape)
    torch.testing.assert_close(recorded_PG, used.sum(-1) / (used != 0).sum(-1).clamp(min=1))
    before = weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer.model).items())


def test_refill_replaces_the_groups_that_neither_outcome_nor_process_can_teach(tmp_path):
    def reward(groups, stats):
        given = two_points(groups, stats)
        for p, columns in enumerate(groups.columns_P):
            if columns["id"] not in ("row-1", "row-4"):
                given.process_mask_PGC[p] = False
        return given

    seen = []
    trainer = lab.trainer(
        tmp_path,
        chosen=lab.pipeline(lab.component("two", reward)),
        observer=lambda step, advantages: seen.append(step) or {},
        extra={"refill": Refill(8, Prompts(len(lab.ROWS), seed=3))},
    )
    batch = captured_batch(trainer)
    (step,) = seen
    assert set(step.rows) <= {1, 4}
    assert batch["advantages"].shape == batch["completion_ids"].shape
    assert step.metrics["filter/refill_rounds"] >= 1
    groups, rewards = step.scored.groups, step.scored.rewards
    again = two_points(groups, None)
    assert torch.equal(rewards.process_mask_PGC, again.process_mask_PGC)  # merged with the groups they belong to
    assert torch.equal(rewards.process_PGC, again.process_PGC)


def test_a_dropped_group_with_process_rewards_leaves_the_loss(tmp_path):
    chosen = lab.pipeline(lab.component("two", two_points), filter=lab.component("keep_first", keep_first))
    batch = captured_batch(lab.trainer(tmp_path, chosen=chosen, loss_type="grpo"))
    assert batch["completion_mask"][4:].sum() == 0
    assert not batch["advantages"][4:].any()
    assert batch["advantages"][:4].any()
