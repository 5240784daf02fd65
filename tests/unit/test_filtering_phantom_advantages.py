"""The phantom-advantage trap: in a group whose rollouts all failed, a shaped reward still varies.

Group normalisation divides by that small spread, so noise teaches at full size. A filter on variance does not see that
everybody failed; a gate on the outcome does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from dro_lab.components import component
from dro_lab.pipeline import Pipeline, step_metrics
from tests.tiny_step import groups_of, stats_of

EOS = 0.5
FAILED = [[0.20, 0.30, EOS], [0.26, 0.30, EOS], [0.23, 0.30, EOS], [0.21, 0.30, EOS]]  # sigma_bar 0.023
MIXED = [[0.40, 0.30, EOS], [0.43, 0.30, EOS], [0.44, 0.30, EOS], [0.41, 0.30, EOS]]  # sigma_bar 0.016
FLAT = [[0.40, 0.30, EOS]] * 4  # sigma_bar 0
CHECKS = [{"id": "fact", "text": "Is the fact stated?"}, {"id": "name", "text": "Is the name kept?"}]


def part(group, name, **keys):
    node = OmegaConf.create({"_target_": f"dro_lab.{name}", **keys})
    return component(group, node, name=name)


def judged(*, gating="none.none", tau=0.01):
    """Three groups through R3, the gate and the variance filter, then the group's z-score."""
    pipeline = Pipeline(
        reward=part("reward", "rewards.r3.r3"),
        gate=part("gating", f"gating.{gating}"),
        filter=part("filtering", "filtering.r3_variance.r3_variance", tau=tau),
        advantage=part("advantage", "advantages.group_norm.group_norm"),
    )
    verdicts_PGV = torch.ones(3, 4, 2, dtype=torch.int8)
    verdicts_PGV[0] = 0  # nobody met anything
    verdicts_PGV[1, 0] = 0  # the rollout with the lowest reward failed
    stats = replace(
        stats_of([FAILED, MIXED, FLAT]),
        verdicts_PGV=verdicts_PGV,
        checks_mask_PV=torch.ones(3, 2, dtype=torch.bool),
    )
    groups = groups_of(3, 4)
    groups = replace(groups, columns_P=[{**columns, "rubric": CHECKS} for columns in groups.columns_P])
    scored = pipeline.score(groups, stats)
    return scored, pipeline.advantages(scored, groups.completion_mask_PGC)


def test_a_variance_filter_lets_the_noise_of_an_all_failed_group_teach_at_full_size():
    scored, advantages = judged()
    assert scored.keep_PG[:, 0].tolist() == [True, True, False]
    spread = scored.rewards.outcome_PG.std(dim=1)
    assert spread[0] < 0.03  # noise
    assert advantages[0].abs().max() > 1.0  # full size
    assert advantages[0].norm() == pytest.approx(advantages[1].norm().item(), rel=0.01)


def test_no_tau_drops_the_failed_group_and_keeps_the_one_that_has_something_to_teach():
    kept = {tau: judged(tau=tau)[0].keep_PG[:, 0].tolist() for tau in (0.0, 0.01, 0.02, 0.03)}
    assert [kept[tau][0] for tau in kept] == [True, True, True, False]
    assert all(failed or not mixed for failed, mixed, _ in kept.values())


def test_a_gate_on_the_outcome_removes_it_and_the_filter_still_does_its_own_work():
    scored, advantages = judged(gating="rubric.rubric")
    assert scored.keep_PG[:, 0].tolist() == [False, True, False]
    assert not advantages[0].any()
    assert advantages[1].abs().max() > 1.0
    metrics = step_metrics(scored, "r3")
    assert metrics["gate/rejected_share"] == pytest.approx(1 / 3)  # the two rates are told apart
    assert metrics["filter/dropped_share"] == pytest.approx(1 / 3)
    failed, taught, flat = (reasons[0] for reasons in scored.reasons_PG)
    assert "sigma_bar" not in failed
    assert failed
    assert taught == ""
    assert flat == "sigma_bar 0 < tau 0.01"
