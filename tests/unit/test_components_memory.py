"""Methods with memory: which functions have one, and in which groups."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

from dro_lab.components import component
from dro_lab.errors import UserError

MODULE = """
def forgetful(groups, stats):
    return "reward"

def counting(groups, stats, rewards, *, state):
    return "kept", {"seen": state["seen"] + 1}

def remembering(groups, stats, *, state):
    return "reward", state

def initial_state():
    return {"seen": 0}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda group, name: component(group, OmegaConf.create({"_target_": f"mine.{name}"}), name=name)
    sys.modules.pop("mine", None)


def test_a_module_may_hold_a_filter_with_memory_beside_a_reward_without(mine):
    reward, kept = mine("reward", "forgetful"), mine("filtering", "counting")
    assert reward.initial_state is None
    assert reward(None, None) == "reward"
    assert kept.remember(None, None, None, state=None) == ("kept", {"seen": 1})
    assert kept.remember(None, None, None, state={"seen": 4}) == ("kept", {"seen": 5})


@pytest.mark.parametrize("group", ["reward", "advantage", "reward.parts.mine.reward"])
def test_memory_that_no_run_would_keep_is_refused_before_training(mine, group):
    with pytest.raises(UserError, match=rf"{group}\._target_: remembering .*gating and filtering only"):
        mine(group, "remembering")
