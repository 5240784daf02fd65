"""The study's arithmetic on literal data: correlations, truth scores, the table's verdicts."""

import math

import numpy as np
import pytest

from experiments.r3_vs_avg_prob.step0 import group_spearman, truth_scores
from experiments.r3_vs_avg_prob.study import PRESETS, REWARDS, jobs, steps_of
from experiments.r3_vs_avg_prob.table import markdown

STEP0 = {
    "prompts": 2,
    "rollouts": 4,
    "correlation": {"r3_w2": {"value": 0.9, "low": 0.8, "high": 0.95}},
    "truth": {"weight_share": 0.5, "precision": 1.0, "precision_top_tenth": 0.4, "recall_top_tenth": 1.0},
    "sigma": {"reflective": 0.4, "other": 0.05},
}


def test_spearman_is_taken_within_groups():
    reward = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    quality = np.array([[0.1, 0.5, 0.9], [0.1, 0.5, 0.9], [0.0, 0.5, 1.0], [0.5, 0.5, 0.5]])
    found = group_spearman(reward, quality)
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(-1)
    assert found[2] == 0  # a reward without spread ranks nothing
    assert math.isnan(found[3])  # quality does not vary: nothing to rank


def test_truth_scores_of_a_known_ranking():
    weights = [0.5, 0.3, 0.1, 0.1, 0, 0, 0, 0, 0, 0, 0]
    truth = [True, False, True, False, *[False] * 7]
    rows = [{"weight": w, "truth": t} for w, t in zip(weights, truth, strict=True)]
    found = truth_scores([rows])
    assert found["weight_share"] == pytest.approx(0.6)
    assert found["precision"] == 0.5  # of the top two, one is true
    assert found["precision_top_tenth"] == 0.5  # the top ceil(1.1) = 2
    assert found["recall_top_tenth"] == 0.5


def curve(*values: float) -> list[tuple[int, float]]:
    return [(4 * i, value) for i, value in enumerate(values)]


def page(avg: list[tuple[int, float]], r3: list[tuple[int, float]], preset: str = "default") -> str:
    curves = {preset: {"avg_prob": {0: avg, 1: avg}, "r3_w2": {0: r3, 1: r3}}}
    return markdown(curves, {preset: STEP0}, seeds=[0, 1], seconds=1.0, commits=["abc"])


SLOW = curve(0.3, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5)
FAST = curve(0.3, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7)


def test_a_claim_that_holds_is_said_to_hold():
    text = page(SLOW, FAST)
    assert "the claim that R3 (omega 2) needs at most half the steps holds" in text
    assert "| avg_prob | 28 | 28 28 | 28 | 1 |" in text
    assert "| r3_w2 | 28 | 12 12 | 12 | 2.33 [2.33, 2.33] |" in text


def test_a_claim_that_fails_is_said_to_fail():
    assert "does not hold: ratio 1.00" in page(SLOW, SLOW)


def test_a_baseline_that_gains_too_little_sets_no_target():
    text = page(curve(*[0.3] * 8), FAST)
    assert "**No target**" in text
    assert "no ratio is claimed" in text


def test_a_run_that_never_arrives_is_a_dash():
    assert "| r3_w2 | 28 | - - | - |" in page(SLOW, curve(*[0.3] * 8))


def test_where_no_effect_was_predicted_an_effect_is_reported_against_the_prediction():
    assert "gains nothing" in page(SLOW, SLOW, preset="mild")
    assert "against the prediction" in page(SLOW, FAST, preset="mild")


def test_every_job_has_a_folder_of_its_own_and_the_baseline_runs_longest(tmp_path):
    planned = jobs(tmp_path, [0, 1], list(PRESETS))
    assert len({job.folder for job in planned}) == len(planned) == 2 * sum(map(len, PRESETS.values()))
    assert steps_of("default", "avg_prob") == 100
    assert {steps_of("default", reward) for reward in REWARDS if reward != "avg_prob"} == {48}
