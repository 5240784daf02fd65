"""The study of the probe: how predicted and measured steps are compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
from scipy.stats import spearmanr

from experiments.probe import beds, figure, table
from experiments.probe.beds import Bed, archived
from experiments.probe.ranking import (
    Setting,
    agreement,
    entry_of,
    median,
    pairs_right,
    predictions_of,
    rank_correlation,
    settings_of,
    slowdowns,
    target,
)

NEVER = math.inf
LINE = [(0, 0.4), (4, 0.5), (8, 0.6), (12, 0.75), (16, 0.8), (20, 0.8), (24, 0.8)]
SLOW = [(0, 0.4), (4, 0.4), (8, 0.45), (12, 0.5), (16, 0.55), (20, 0.6), (24, 0.6), (28, 0.9)]


def setting(bed, arm, rho, steps, **predictions):
    return Setting(
        bed=bed,
        title=bed,
        arm=arm,
        target=0.7,
        horizon=48,
        steps=tuple(steps),
        predictions={"rho": -rho, "formula": math.nan, "floor": math.nan, **predictions},
    )


# ------------------------------------------------------------------------------------------------ measured steps


def probe(**rho):
    rewards = {name: {"rho": {"value": value}, "rho_formula": None, "over_floor": None} for name, value in rho.items()}
    omegas = [{"omega": 2.0, "rho": {"value": 0.9}, "rho_formula": 0.95, "over_floor": 2.0}]
    return {"rewards": rewards, "omegas": omegas}


def test_settings_are_compared_within_the_steps_that_all_were_trained_for():
    bed = Bed(
        name="b", title="b", overrides=(), load=lambda: {"avg_prob": {0: SLOW, 1: SLOW}, "omega_2": {0: LINE, 1: LINE}}
    )
    slow, fast = settings_of(bed, probe(avg_prob=0.3))
    # start .4, best mean of three .8: the target lies at .7, and what the slow one does at step 28 does not count
    assert (slow.target, slow.horizon) == (pytest.approx(0.7), 24)
    assert (slow.median, fast.median) == (NEVER, 16)
    assert fast.predictions == {"rho": -0.9, "formula": -0.95, "floor": -2.0}
    assert math.isnan(slow.predictions["formula"])


def test_the_target_is_three_quarters_of_the_way_to_the_best():
    assert target({"a": {0: LINE, 1: LINE}, "b": {0: SLOW[:7], 1: SLOW[:7]}}) == pytest.approx(0.4 + 0.75 * 0.4)


def test_a_bed_without_two_seeds_of_two_arms_says_nothing():
    bed = Bed(name="b", title="b", overrides=(), load=lambda: {"a": {0: LINE, 1: LINE}, "b": {0: LINE}})
    assert settings_of(bed, probe(a=0.3, b=0.4)) == []


@pytest.mark.parametrize(("arm", "rho"), [("r3_w2", 0.9), ("omega_2", 0.9), ("omega 2", 0.9), ("omega2", 0.9)])
def test_omegas_are_found_under_every_name_that_studies_give_them(arm, rho):
    assert predictions_of(entry_of(arm, probe()))["rho"] == -rho


def test_what_the_probe_does_not_know_is_left_out():
    assert entry_of("omega_3", probe()) is None
    assert entry_of("rouge", probe()) is None
    assert entry_of("rouge", {"rewards": {"rouge": {"reason": "no"}}, "omegas": []}) is None


def test_slowdowns_are_held_against_the_arm_that_training_found_fastest():
    some = [setting("a", "r3", 0.9, [20]), setting("a", "avg_prob", 0.2, [50]), setting("a", "rouge", 0.1, [NEVER])]
    expected = [replace(one, expected=steps) for one, steps in zip(some, [1.1, 2.2, 3.3], strict=True)]
    found = slowdowns(expected)
    assert found == {"r3": (1.0, 1.0), "avg_prob": (pytest.approx(2.0), 2.5)}
    assert slowdowns(expected[2:]) == {}


def test_half_censored_is_censored():
    assert median([8, NEVER]) == NEVER
    assert median([8, 12, NEVER]) == 12


# ------------------------------------------------------------------------------------------------ agreement


def test_on_one_bed_it_is_spearmans_correlation():
    predicted, measured = [-0.9, -0.7, -0.2, -0.4, -0.1], [20, 28, 24, NEVER, NEVER]
    expected = spearmanr(predicted, [20, 28, 24, 99, 99]).statistic
    assert rank_correlation(["a"] * 5, predicted, measured) == pytest.approx(expected)


def test_only_the_order_within_a_bed_counts():
    names = ["a", "a", "b", "b"]
    assert rank_correlation(names, [1, 2, 1, 2], [10, 20, 1000, 2000]) == pytest.approx(1.0)
    assert rank_correlation(names, [1, 2, 2, 1], [10, 20, 1000, 2000]) == pytest.approx(0.0)
    assert math.isnan(rank_correlation(names, [1, 2, 1, 2], [10, 10, 20, 20]))


def test_pairs_of_one_bed_with_different_steps_count():
    names = ["a", "a", "a", "b", "b"]
    # a: (1,2) right, (1,3) right, (2,3) the same steps; b: a predicted tie
    assert pairs_right(names, [1, 2, 3, 5, 5], [10, 20, 20, 1, 2]) == pytest.approx((1 + 1 + 0.5) / 3)
    assert math.isnan(pairs_right(["a"], [1], [1]))


def test_a_perfect_predictor_has_no_doubt_and_a_random_one_has():
    perfect = [setting(bed, str(n), 1 - n / 10, [10 + 10 * n] * 5) for bed in "abc" for n in range(4)]
    found = agreement(perfect, "rho", rank_correlation, over="seeds", resamples=100)
    assert (found.value, found.low, found.high, found.n) == (pytest.approx(1), pytest.approx(1), pytest.approx(1), 12)
    noisy = [setting(bed, str(n), n / 10, [20, 40, NEVER]) for bed in "abc" for n in range(4)]
    wide = agreement(noisy, "rho", rank_correlation, over="beds", resamples=100)
    assert wide.low < 0 < wide.high


def test_a_predictor_that_says_nothing_of_a_setting_leaves_it_out():
    some = [setting("a", "r3", 0.9, [10], formula=-0.9), setting("a", "avg_prob", 0.2, [20], formula=-0.2)]
    some.append(setting("a", "rouge", 0.1, [30]))
    assert agreement(some, "formula", rank_correlation, over="seeds", resamples=100).n == 2


# ------------------------------------------------------------------------------------------------ archives and page


def test_archived_runs_are_read_by_setting_arm_and_seed(tmp_path):
    evals = [[0, "validation", "sampled", "quality", 0.4], [0, "ood", "sampled", "quality", 0.1]]
    runs = ["pararev/avg_prob_s0", "pararev/omega_2_s1", "finqa/r3_s0"]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps({"run": run, "evals": evals}) + "\n" for run in runs))
    assert archived(tmp_path / "runs.jsonl", "pararev") == {"avg_prob": {0: [(0, 0.4)]}, "omega_2": {1: [(0, 0.4)]}}
    assert archived(tmp_path / "none.jsonl", "pararev") == {}


def test_every_bed_has_a_name_of_its_own_and_the_archived_ones_have_curves():
    every = beds.every()
    assert len({bed.name for bed in every}) == len(every)
    default = next(bed for bed in every if bed.name == "r3_vs_avg_prob_default").curves()
    assert set(default) == {"avg_prob", "avg_logprob", "r3_w1", "r3_w2", "r3_w4", "verifier"}
    assert len(default["avg_prob"]) == 5


def test_page_and_picture_follow_from_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "agreement", partial(agreement, resamples=50))
    some = [setting("a", "r3", 0.9, [10, 12]), setting("a", "avg_prob", 0.2, [NEVER, NEVER])]
    entry = {"seconds": 30.0, "commit": "abc", "recommended": "Train with r3.", "tokens": {}}
    rho = {"value": 0.3}
    entry |= {"rewards": {"avg_prob": {"rho": rho, "rho_formula": 0.4}}, "omegas": []}
    entry["tokens"] = {
        "threshold_precision": 0.8,
        "threshold_recall": 1.0,
        "sigma_r": 0.4,
        "sigma_n": 0.07,
        "together": 0.5,
    }
    text = table.markdown(some, {"a": entry}, missing=["b"])
    assert "| a | `avg_prob` | 0.20 | - | - | - | - - | 2 of 2 | - |" in text
    assert "Without runs so far: b." in text
    assert "| avg_prob | 1 | 0.100 | +0.100 | +0.100 |" in text
    assert "a precision of 0.80 to 0.80" in text
    figure.draw(some, tmp_path / "ranking.png", tmp_path / "ranking.csv")
    assert (tmp_path / "ranking.png").stat().st_size > 5000
    assert "a,avg_prob,0.200000,,,,2,2" in (tmp_path / "ranking.csv").read_text()
