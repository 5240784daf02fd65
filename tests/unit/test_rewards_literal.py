"""Rewards on numbers that one can compute by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.rewards import avg_logprob as avg_logprob_module
from dro_lab.rewards import avg_prob as avg_prob_module
from dro_lab.rewards import r3 as r3_module
from dro_lab.rewards import seq_prob as seq_prob_module
from dro_lab.rewards._tokens import group_sigma, sigma_bar
from dro_lab.rewards.avg_logprob import avg_logprob
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.rewards.r3 import r3
from dro_lab.rewards.seq_prob import seq_prob
from dro_lab.rewards.verifier import verifier
from dro_lab.types import Need, Stat, TokenStats
from tests.tiny_step import groups_of, stats_of

EOS = 0.5


def outcome(reward, *rollouts, **arguments):
    """One group, EOS appended; the outcome as a list."""
    stats = stats_of([[[*rollout, EOS] for rollout in rollouts]])
    return reward(groups_of(1, len(rollouts)), stats, **arguments).outcome_PG[0].tolist()


def weights(*rollouts, **arguments):
    stats = stats_of([[[*rollout, EOS] for rollout in rollouts]])
    return r3(groups_of(1, len(rollouts)), stats, **arguments).token_weights_PR[0].tolist()


def test_r3_by_hand():
    # sigma = (.3, .1): weights .09/.10 and .01/.10
    group = ([0.2, 0.4], [0.8, 0.6])
    assert weights(*group) == pytest.approx([0.9, 0.1, 0.0])
    assert outcome(r3, *group) == pytest.approx([0.9 * 0.2 + 0.1 * 0.4, 0.9 * 0.8 + 0.1 * 0.6])
    assert weights(*group, omega=1.0) == pytest.approx([0.75, 0.25, 0.0])
    assert weights(*group, omega=0.0) == pytest.approx([0.5, 0.5, 0.0])
    e = math.exp(2 * 0.3), math.exp(2 * 0.1)
    assert weights(*group, weighting="exp") == pytest.approx([e[0] / sum(e), e[1] / sum(e), 0.0])


def test_r3_clips_what_it_sums_and_by_default_what_it_weighs():
    group = ([0.01, 0.4], [0.99, 0.6])  # clipped to .05 and .85: sigma .4 and .1
    assert weights(*group) == pytest.approx([16 / 17, 1 / 17, 0.0])
    assert outcome(r3, *group) == pytest.approx([(16 * 0.05 + 0.4) / 17, (16 * 0.85 + 0.6) / 17])
    raw = 0.49**2 / (0.49**2 + 0.1**2)
    assert weights(*group, sigma_on="raw") == pytest.approx([raw, 1 - raw, 0.0])


def test_r3_leaves_out_tokens_that_stay_outside_the_band():
    group = ([0.86, 0.4], [0.99, 0.6])
    assert weights(*group) == pytest.approx([0.0, 1.0, 0.0])
    assert weights(*group, sigma_on="raw")[0] > 0.2


def test_r3_counts_rounding_noise_as_zero():
    group = ([0.5, 0.4], [0.5 + 1.8e-6, 0.6])  # sigma 9e-7
    assert weights(*group, omega=0.0) == [0.0, 1.0, 0.0]
    group = ([0.5, 0.4], [0.5 + 2.2e-6, 0.6])  # sigma 1.1e-6
    assert weights(*group, omega=0.0) == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("arguments", [{}, {"weighting": "exp"}, {"sigma_on": "raw"}, {"omega": 0.0}])
def test_r3_without_signal_rewards_all_rollouts_alike(arguments):
    values = outcome(r3, [0.9, 0.3], [0.9, 0.3], [0.9, 0.3], **arguments)
    assert values[0] == values[1] == values[2] == pytest.approx((0.85 + 0.3) / 2)
    assert outcome(r3, [0.9, 0.3], **arguments) == pytest.approx([(0.85 + 0.3) / 2])
    assert weights([0.9, 0.3], [0.9, 0.3], **arguments) == [0.0, 0.0, 0.0]


def test_r3_everything_clipped_is_no_signal():
    values = outcome(r3, [0.90, 0.001], [0.99, 0.04])
    assert values[0] == values[1] == pytest.approx((0.85 + 0.05) / 2)


def test_r3_survives_a_sharp_omega():
    assert weights([0.500, 0.4], [0.5001, 0.6], omega=64.0) == pytest.approx([0.0, 1.0, 0.0])
    assert sum(weights([0.5, 0.4], [0.50001, 0.40001], omega=64.0)) == pytest.approx(1.0)


def test_eos_counts_only_when_asked():
    stats = stats_of([[[0.5, 0.1], [0.5, 0.9]]])
    groups = groups_of(1, 2)
    assert r3(groups, stats).outcome_PG.tolist() == [[0.5, 0.5]]
    assert r3(groups, stats, include_eos=True).outcome_PG[0].tolist() == pytest.approx([0.1, 0.85])
    assert avg_prob(groups, stats, include_eos=True).outcome_PG[0].tolist() == pytest.approx([0.3, 0.7])
    assert avg_logprob(groups, stats, include_eos=True).outcome_PG[0, 0] == pytest.approx(math.log(0.05) / 2)
    assert seq_prob(groups, stats, include_eos=True).outcome_PG[0].tolist() == pytest.approx([0.05, 0.45])


def test_baselines_by_hand():
    group = ([0.25, 0.5], [1.0, 0.01])
    assert outcome(avg_prob, *group) == pytest.approx([0.375, 0.505])
    assert outcome(avg_logprob, *group) == pytest.approx([1.5 * math.log(0.5), math.log(0.1)])
    assert outcome(seq_prob, *group) == pytest.approx([0.125, 0.01])
    stats = stats_of([[[*rollout, EOS] for rollout in group]])
    assert avg_prob(groups_of(1, 2), stats).token_weights_PR.tolist() == [[0.5, 0.5, 0.0]]


def test_seq_prob_vanishes_on_long_references_and_says_so():
    got = seq_prob(groups_of(1, 2), stats_of([[[0.1] * 60 + [EOS], [0.9] * 60 + [EOS]]]))
    assert got.outcome_PG[0, 0] == 0
    assert got.metrics["vanished_share"] == 0.5


@pytest.mark.parametrize("reward", [r3, avg_prob, avg_logprob, seq_prob])
def test_a_reference_without_tokens_is_not_scorable(reward):
    got = reward(groups_of(2, 2), stats_of([[[EOS]] * 2, [[0.2, EOS], [0.4, EOS]]]))
    assert got.outcome_PG.isnan().tolist() == [[True, True], [False, False]]


def test_r3_reports_what_its_weights_look_like():
    # group 1: weights .9 and .1; group 2: no signal
    got = r3(groups_of(2, 2), stats_of([[[0.2, 0.4, EOS], [0.8, 0.6, EOS]], [[0.99, 0.01, EOS]] * 2]))
    assert got.metrics["effective_tokens"] == pytest.approx(1 / (0.81 + 0.01))
    assert got.metrics["top_weight"] == pytest.approx(0.9)
    assert got.metrics["no_signal_share"] == 0.5
    assert got.metrics["sigma_bar"] == pytest.approx((0.3 + 0.0) / 2)
    assert got.metrics["clipped_low_share"] == pytest.approx(2 / 8)
    assert got.metrics["clipped_high_share"] == pytest.approx(2 / 8)
    assert got.parts["mean_probability"].tolist()[0] == pytest.approx([0.3, 0.7])


def test_sigma_is_the_population_std():
    values = torch.tensor([[[0.1], [0.2], [0.6]]])
    sigma = group_sigma(values, torch.tensor([[True]]))
    assert sigma.item() == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 3))


@pytest.mark.parametrize(
    ("tokens", "share", "top"),
    [(1, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (20, 0.1, 2), (31, 0.1, 4), (100, 0.07, 7), (3, 1.0, 3)],
)
def test_sigma_bar_takes_the_top_share_rounded_up(tokens, share, top):
    sigma = torch.arange(1.0, tokens + 1)
    padded = torch.cat([sigma, torch.tensor([999.0])])[None]
    mask = torch.tensor([[True] * tokens + [False]])
    assert sigma_bar(padded, mask, share=share).item() == pytest.approx(sigma[-top:].mean().item())


def test_verifier_passes_quality_on():
    quality = torch.tensor([[0.0, float("nan"), 1.0]])
    got = verifier(groups_of(1, 3), TokenStats(verifier_PG=quality)).outcome_PG
    torch.testing.assert_close(got, quality, equal_nan=True)


def test_a_missing_statistic_is_an_error_not_a_zero():
    for reward in (r3, avg_prob, avg_logprob, seq_prob, verifier):
        with pytest.raises(ValueError, match="Stat"):
            reward(groups_of(1, 2), TokenStats())
    stats = stats_of([[[0.5, EOS]] * 2])
    without_eos = TokenStats(reference_logps_PGR=stats.reference_logps_PGR, reference_mask_PR=stats.reference_mask_PR)
    with pytest.raises(ValueError, match="include_eos"):
        avg_prob(groups_of(1, 2), without_eos, include_eos=True)


BAD = [
    ({"omega": -1}, r"reward\.omega=-1: must be a number of at least 0; 1 to 2 is good"),
    ({"omega": float("nan")}, r"reward\.omega=nan"),
    ({"omega": "two"}, r"reward\.omega=two"),
    ({"omega": True}, r"reward\.omega=True"),
    ({"clip_low": 0.9}, r"reward\.clip_low=0\.9 with reward\.clip_high=0\.85"),
    ({"clip_low": 0.5, "clip_high": 0.5}, r"must be below clip_high"),
    ({"clip_low": -0.1}, r"reward\.clip_low=-0\.1: must be a number in \[0, 1\]"),
    ({"clip_high": 1.5}, r"reward\.clip_high=1\.5"),
    ({"weighting": "soft"}, r"reward\.weighting=soft: must be one of power, exp"),
    ({"sigma_on": "both"}, r"reward\.sigma_on=both"),
    ({"include_eos": "yes"}, r"reward\.include_eos=yes: must be true or false"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_of_r3_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        r3_module.check(**arguments)


def test_good_arguments_pass():
    r3_module.check(omega=0, clip_low=0, clip_high=1, weighting="exp", sigma_on="raw", include_eos=True)
    for module in (avg_prob_module, avg_logprob_module, seq_prob_module):
        module.check(include_eos=True)
        with pytest.raises(UserError, match=r"reward\.include_eos=1"):
            module.check(include_eos=1)


def test_needs():
    assert r3_module.needs(omega=2.0) == {Need(Stat.REFERENCE)}
