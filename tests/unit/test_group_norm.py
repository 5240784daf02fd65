"""Group normalisation: TRL's own arithmetic, and what it does with rollouts that do not count."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.advantages import group_norm as module
from dro_lab.advantages.group_norm import group_norm
from dro_lab.errors import UserError
from dro_lab.types import Rewards

NAN = float("nan")


def advantages(reward_PG, keep_PG=None, **arguments):
    reward_PG = torch.tensor(reward_PG)
    keep_PG = torch.ones_like(reward_PG, dtype=torch.bool) if keep_PG is None else torch.tensor(keep_PG)
    loss_mask_PGC = torch.ones(*reward_PG.shape, 3, dtype=torch.bool)
    return group_norm(Rewards(outcome_PG=reward_PG), keep_PG, loss_mask_PGC, **arguments)


def trl_advantages(reward_PG, scale_rewards):
    """Runs the statements of the installed TRL that turn rewards into advantages, taken from its source."""
    import trl.trainer.grpo_trainer as trl

    source = textwrap.dedent(inspect.getsource(trl.GRPOTrainer._generate_and_score_completions))
    body = ast.parse(source).body[0].body
    texts = [ast.unparse(node) for node in body]
    start = next(i for i, text in enumerate(texts) if text.startswith("unscorable_mask ="))
    stop = next(i for i, text in enumerate(texts) if text.startswith("advantages = torch.nan_to_num"))
    trainer = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize", scale_rewards=scale_rewards, reward_weights=torch.ones(1)
    )
    scope = {
        "torch": torch,
        "nanstd": trl.nanstd,
        "self": trainer,
        "device": "cpu",
        "rewards_per_func": reward_PG.reshape(-1, 1),
        "num_generations": reward_PG.shape[1],
    }
    exec("\n".join(texts[start : stop + 1]), scope)
    return scope["advantages"].view_as(reward_PG)


VALUES = st.one_of(st.floats(-5, 5, width=32), st.just(NAN), st.just(0.25))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5).flatmap(lambda g: st.lists(st.lists(VALUES, min_size=g, max_size=g), min_size=1, max_size=4)))
def test_equals_trl(rows):
    reward_PG = torch.tensor(rows, dtype=torch.float32)
    for scale, name in ((True, "group"), (False, "none")):
        want = trl_advantages(reward_PG.clone(), name)
        got = group_norm(
            Rewards(outcome_PG=reward_PG),
            torch.ones_like(reward_PG).bool(),
            torch.ones(*reward_PG.shape, 1),
            scale=scale,
        )
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_by_hand():
    got = advantages([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    assert got[0].tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001])
    assert got[1].tolist() == [0.0, 0.0, 0.0]
    assert advantages([[1.0, 3.0]], scale=False).tolist() == [[-1.0, 1.0]]
    assert advantages([[1.0, 3.0]], eps=1.0).tolist()[0] == pytest.approx([-1 / (2**0.5 + 1), 1 / (2**0.5 + 1)])


def test_a_rollout_that_cannot_be_scored_leaves_the_baseline_and_gets_zero():
    got = advantages([[1.0, NAN, 3.0]])
    assert got[0].tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 0.0, 1 / (2**0.5 + 1e-4)])
    assert advantages([[7.0, NAN, NAN], [NAN, NAN, NAN]]).tolist() == [[0.0] * 3] * 2


def test_a_rollout_that_is_not_kept_gets_zero_but_stays_in_the_baseline():
    keep = [[True, False, True], [False, False, False]]
    got = advantages([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], keep)
    assert got[0].tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001])
    assert got[1].tolist() == [0.0, 0.0, 0.0]
    assert advantages([[1.0, 2.0, 9.0]], [[True, True, False]])[0, 0] == pytest.approx(-3 / (19**0.5 + 1e-4))


def test_a_group_of_one_has_nothing_to_compare_with():
    assert advantages([[3.0], [NAN]]).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"eps": 0}, r"advantage\.eps=0"), ({"scale": 1}, r"advantage\.scale=1")]
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        module.check(**arguments)
    module.check(eps=1e-6, scale=False)
