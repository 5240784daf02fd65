"""Bad advantage estimators and bad process rewards: refused before training, or told in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dro_lab.build import build_pipeline
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.pipeline import Pipeline
from dro_lab.types import Rewards, TokenStats
from tests.cli_fixture import assert_refused, run_main, small_run
from tests.lab_fixture import component, pipeline
from tests.tiny_step import groups_of

pytestmark = pytest.mark.usefixtures("own_folder")

REWARD = """
import torch
from dro_lab.types import Rewards

{says}

def spread(groups, stats):
    mask = groups.reasoning_mask_PGC
    return Rewards(
        outcome_PG=torch.zeros(groups.shape), process_PGC=mask.float(), process_mask_PGC=mask, process_weight=0.1
    )

def needs():
    return frozenset()
"""
ESTIMATOR = """
{says}

def flat(rewards, keep_PG, loss_mask_PGC, values_PGC=None):
    return rewards.outcome_PG
"""
OWN = ["advantage=mean_baseline", "advantage._target_=my_estimator.flat"]
OWN_REWARD = ["reward=verifier", "reward._target_=my_reward.spread"]

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "unknown estimator": (["advantage=gae"], ["gae", "leave_one_out", "reinforce_pp_baseline"]),
    "group_norm eps": (["advantage.eps=0"], ["advantage.eps=0", "at least 1e-12", "1e-4"]),
    "group_norm scale": (["advantage.scale=2"], ["advantage.scale=2", "true or false"]),
    "reinforce_pp eps": (["advantage=reinforce_pp", "advantage.eps=-1"], ["advantage.eps=-1", "1e-8"]),
    "reinforce_pp eps is text": (["advantage=reinforce_pp", "advantage.eps=x"], ["advantage.eps=x", "a number"]),
    "baseline eps": (["advantage=reinforce_pp_baseline", "advantage.eps=0"], ["advantage.eps=0", "1e-8"]),
    "no such key": (["advantage=leave_one_out", "+advantage.eps=1"], ["advantage.eps", "leave_one_out takes no keys"]),
    "repro under an estimator that cannot": (
        ["reward=repro", *OWN],
        ["reward=repro", "advantage=mean_baseline", "process rewards", "advantage=group_norm"],
    ),
    "own reward under an own estimator": (
        [*OWN_REWARD, *OWN],
        ["reward=verifier", "process rewards", "advantage=group_norm"],
    ),
}


@pytest.fixture
def write(own_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a user's two modules; ``says`` is what they declare."""
    monkeypatch.syspath_prepend(str(own_folder))

    def modules(reward: str = "GIVES_PROCESS = True", estimator: str = "") -> None:
        Path("my_reward.py").write_text(REWARD.format(says=reward))
        Path("my_estimator.py").write_text(ESTIMATOR.format(says=estimator))

    yield modules
    for name in ("my_reward", "my_estimator"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.tried("bad inputs")
def test_a_bad_estimator_is_refused(name: str, policy: Path, tmp_path: Path, write) -> None:
    write()
    overrides, expected = REFUSED[name]
    assert_refused(run_main(small_run(policy, overrides)), tmp_path, expected)


def own_pipeline() -> Pipeline:
    cfg = compose(["dataset=pararev", *OWN_REWARD, *OWN])
    OmegaConf.set_readonly(cfg, False)
    return build_pipeline(cfg, {"reward": "spread", "advantage": "flat"})


def test_the_same_estimator_is_taken_once_it_says_that_it_takes_them(write) -> None:
    write(estimator="TAKES_PROCESS = True")
    chosen = own_pipeline()
    assert (chosen.reward.gives_process, chosen.advantage.takes_process) == (True, True)


def test_a_reward_that_does_not_say_what_it_gives_is_found_out_at_the_first_step(write) -> None:
    write(reward="")
    chosen, groups = own_pipeline(), groups_of(2, 3)
    scored = chosen.score(groups, TokenStats())
    with pytest.raises(UserError, match=r"reward=spread with advantage=flat: .*GIVES_PROCESS = True"):
        chosen.advantages(scored, groups.completion_mask_PGC)


VALUES, MASK = torch.zeros(2, 3, 8), torch.ones(2, 3, 8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("process", "mask", "found"),
    [
        (VALUES, None, "process_mask_PGC is a NoneType"),
        (None, MASK, "process_PGC is a NoneType"),
        (VALUES[..., :5], MASK, r"process_PGC is \(2, 3, 5\)"),
        (VALUES.double(), MASK, "process_PGC is .*float64"),
        (VALUES, MASK.float(), "process_mask_PGC is .*float32"),
        (VALUES, MASK[:1], r"process_mask_PGC is \(1, 3, 8\)"),
        (VALUES + torch.nan, MASK, "process_PGC is nan or infinite where"),
        (VALUES - torch.inf, MASK, "process_PGC is nan or infinite where"),
    ],
)
@pytest.mark.tried("bad inputs")
def test_process_rewards_of_the_wrong_kind_are_told_so(process, mask, found) -> None:
    rewards = Rewards(outcome_PG=torch.zeros(2, 3), process_PGC=process, process_mask_PGC=mask)
    with pytest.raises(UserError, match=f"reward=mine: {found}"):
        pipeline(component("mine", lambda groups, stats: rewards)).score(groups_of(2, 3), TokenStats())


def test_nan_where_nothing_was_scored_is_no_fault() -> None:
    rewards = Rewards(outcome_PG=torch.zeros(2, 3), process_PGC=VALUES + torch.nan, process_mask_PGC=~MASK)
    pipeline(component("mine", lambda groups, stats: rewards)).score(groups_of(2, 3), TokenStats())
