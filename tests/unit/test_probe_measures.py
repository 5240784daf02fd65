"""Correlations, token statistics and spreads: literals, independent implementations, invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dro_lab.probe.measures import (
    agreement,
    draws,
    effective_tokens,
    interval,
    mean_interval,
    rank_correlation,
    ratio_interval,
    reflective_by_threshold,
    relative_positions,
    reliability,
    spread,
    token_parts,
    varies,
    z_scores,
    z_sums,
)

NAN = math.nan


def groups(prompts=5, rollouts=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    quality = torch.randint(0, 4, (prompts, rollouts), generator=generator) / 3
    return quality + 0.5 * torch.randn(prompts, rollouts, generator=generator), quality


# ------------------------------------------------------------------------------------------------ correlations


def test_rank_correlation_is_scipys_group_by_group():
    reward, quality = groups()
    expected = [stats.spearmanr(r, q).statistic for r, q in zip(reward.numpy(), quality.numpy(), strict=True)]
    assert rank_correlation(reward, quality).tolist() == pytest.approx(expected)


def test_a_rollout_that_is_not_known_is_left_out():
    reward, quality = groups()
    reward[0, 2], quality[1, 5] = NAN, NAN
    found = rank_correlation(reward, quality)
    keep = [place for place in range(8) if place != 2]
    assert float(found[0]) == pytest.approx(stats.spearmanr(reward[0, keep], quality[0, keep]).statistic)
    keep = [place for place in range(8) if place != 5]
    assert float(found[1]) == pytest.approx(stats.spearmanr(reward[1, keep], quality[1, keep]).statistic)


def test_flat_quality_says_nothing_and_a_flat_reward_ranks_nothing():
    flat, quality = torch.full((1, 4), 0.3), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert rank_correlation(quality, flat).isnan().all()
    assert rank_correlation(flat, quality).tolist() == [0.0]
    rounding = flat + torch.tensor([[0.0, 1e-8, 2e-8, 3e-8]])
    assert rank_correlation(rounding, quality).tolist() == [0.0]
    assert float(z_sums(flat, quality).correlation()) == 0.0
    assert math.isnan(float(z_sums(quality, flat).correlation()))


def test_pooled_correlation_by_hand():
    reward = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 1.0, 0.0, 1.0]])
    quality = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    z = np.concatenate([stats.zscore(row) for row in reward.numpy()])
    q = np.concatenate([row - row.mean() for row in quality.numpy()])
    assert float(z_sums(reward, quality).correlation()) == pytest.approx(np.corrcoef(z, q)[0, 1])


def test_a_group_in_which_quality_does_not_vary_changes_nothing():
    reward, quality = groups()
    more = torch.cat([quality, torch.ones(1, 8)]), torch.cat([reward, torch.randn(1, 8)])
    assert float(z_sums(more[1], more[0]).correlation()) == pytest.approx(float(z_sums(reward, quality).correlation()))


def test_qualitys_own_correlation_is_1_in_one_group_and_below_where_groups_differ_in_spread():
    quality = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.1, 0.0, 0.1]])
    assert float(z_sums(quality[:1], quality[:1]).correlation()) == pytest.approx(1.0)
    # mean of the spreads over their root mean square: .275 / sqrt((.25 + .0025) / 2)
    assert float(z_sums(quality, quality).correlation()) == pytest.approx(0.275 / math.sqrt(0.12625), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 50), st.floats(-5, 5))
def test_scaling_and_shifting_a_reward_changes_no_correlation(seed, scale, shift):
    reward, quality = groups(seed=seed)
    moved = scale * reward.double() + shift
    assert float(z_sums(moved, quality).correlation()) == pytest.approx(
        float(z_sums(reward, quality).correlation()), abs=1e-6
    )
    assert rank_correlation(moved, quality).tolist() == pytest.approx(
        rank_correlation(reward, quality).tolist(), nan_ok=True
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_rollouts_and_of_prompts_changes_nothing(seed, random):
    reward, quality = groups(seed=seed)
    rollouts, prompts = random.sample(range(8), 8), random.sample(range(5), 5)
    moved = reward[prompts][:, rollouts], quality[prompts][:, rollouts]
    assert float(z_sums(*moved).correlation()) == pytest.approx(float(z_sums(reward, quality).correlation()))
    assert rank_correlation(*moved).tolist() == pytest.approx(
        rank_correlation(reward, quality)[prompts].tolist(), nan_ok=True
    )
    assert spread(moved[0]).tolist() == pytest.approx(spread(reward)[prompts].tolist())


def test_z_scores_have_mean_0_and_spread_1_where_there_is_any():
    found = z_scores(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, NAN, 3.0]]))
    assert found[0].tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert found[1].tolist() == [0, 0, 0]
    assert found[2].tolist() == pytest.approx([-1, NAN, 1], nan_ok=True)


def test_varies():
    values = torch.tensor([[0.0, 1.0], [0.5, 0.5], [NAN, 1.0], [NAN, NAN]])
    assert varies(values).tolist() == [True, False, False, False]


# ------------------------------------------------------------------------------------------------ intervals


def test_the_bootstrap_of_the_pooled_correlation_recomputes_it_on_the_drawn_groups():
    reward, quality = groups(prompts=6)
    index = draws(6, resamples=20, seed=3)
    drawn = z_sums(reward, quality).correlation(index)
    for d in range(20):
        again = float(z_sums(reward[index[d]], quality[index[d]]).correlation())
        assert float(drawn[d]) == pytest.approx(again)


def test_draws_are_the_same_for_the_same_seed():
    assert torch.equal(draws(7, resamples=5, seed=1), draws(7, resamples=5, seed=1))
    assert draws(7, resamples=5, seed=1).max() < 7


def test_an_interval_covers_a_planted_correlation():
    """The 90% interval over 40 queries, in 100 repetitions: it must hold the value of a large sample in most."""
    truth = float(z_sums(*groups(prompts=4000, rollouts=16, seed=10_000)).correlation())
    covered = 0
    for seed in range(100):
        found = z_sums(*groups(prompts=40, rollouts=16, seed=seed))
        held = interval(
            float(found.correlation()),
            found.correlation(draws(40, resamples=400, seed=seed)),
            confidence=0.9,
            n=40,
        )
        covered += held.low <= truth <= held.high
    assert 80 <= covered <= 98


def test_intervals_of_means_and_ratios():
    values = torch.tensor([1.0, 2.0, 3.0, NAN])
    index = draws(4, resamples=500, seed=0)
    found = mean_interval(values, index, confidence=0.9)
    assert (found.value, found.n) == (2.0, 3)
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    ratio = ratio_interval(2 * values, values, index, confidence=0.9)
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == (2.0, 2.0, 2.0, 3)
    alone = mean_interval(torch.tensor([1.0]), draws(1, resamples=10, seed=0), confidence=0.9)
    assert math.isnan(alone.low)


# ------------------------------------------------------------------------------------------------ spread and floor


def test_spread_by_hand():
    assert spread(torch.tensor([[0.0, 2.0], [1.0, 1.0 + 1e-8], [NAN, 3.0], [NAN, NAN]])).tolist() == pytest.approx(
        [1.0, 0.0, 0.0, NAN], nan_ok=True
    )


def test_reliability_is_rho_where_the_floor_is_the_noise():
    """signal and noise independent: spread^2 = signal^2 + noise^2, floor = noise, rho = signal / spread."""
    signal, noise = 3.0, 4.0
    assert reliability(5.0 / noise) == pytest.approx(signal / 5.0)
    assert reliability(0.9) == 0
    assert math.isnan(reliability(NAN))


# ------------------------------------------------------------------------------------------------ tokens

PROBS = torch.tensor(
    [
        [
            [0.9, 0.1, 0.50, 0.40, 0.0],
            [0.9, 0.1, 0.52, 0.42, 0.0],
            [0.1, 0.9, 0.54, 0.38, 0.0],
            [0.1, 0.9, 0.56, 0.36, 0.0],
        ]
    ]
)
MASK = torch.tensor([[True, True, True, True, False]])
TRUTH = torch.tensor([[True, True, False, False, False]])


def test_token_parts_by_hand():
    parts = token_parts(PROBS, MASK, TRUTH, clip_low=0.05, clip_high=0.85)
    sigma = PROBS[0, :, :4].double().std(0, correction=0)
    assert (int(parts.tokens_P), int(parts.reflective_P)) == (4, 2)
    assert float(parts.sigma_r_P) == pytest.approx(0.4)
    assert float(parts.sigma_n_P) == pytest.approx(float(sigma[2:].mean()))
    assert float(parts.s_r_P) == pytest.approx(0.0, abs=1e-6)  # the two move against each other
    assert float(parts.together_P) == pytest.approx(-1.0, abs=1e-6)
    sums = (PROBS[0, :, 2] + PROBS[0, :, 3]).double()
    assert float(parts.s_n_P) == pytest.approx(float(sums.std(correction=0)))
    alone = math.sqrt(float(sigma[2] ** 2 + sigma[3] ** 2))
    assert float(parts.coherence_P) == pytest.approx(float(sums.std(correction=0)) / alone)
    assert float(parts.shrink_P) == pytest.approx(0.375 / 0.4)  # .9 is cut to .85, the rest is inside the band


def test_tokens_that_all_move_together_are_as_coherent_as_can_be_and_independent_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    style = torch.rand(1, 400, 1, generator=generator)
    together, apart = 0.2 + 0.5 * style.expand(-1, -1, 9), torch.rand(1, 400, 9, generator=generator)
    mask, none = torch.ones(1, 9, dtype=torch.bool), torch.zeros(1, 9, dtype=torch.bool)
    found = [float(token_parts(p, mask, none, clip_low=0, clip_high=1).coherence_P) for p in (together, apart)]
    assert found[0] == pytest.approx(3.0)  # sqrt(N)
    assert found[1] == pytest.approx(1.0, abs=0.15)
    everything = token_parts(together, mask, mask, clip_low=0, clip_high=1)
    assert float(everything.together_P) == pytest.approx(1.0)
    assert everything.sigma_n_P.isnan().all()


def test_padding_changes_nothing():
    wide = torch.cat([PROBS, torch.rand(1, 4, 3)], -1)
    more = torch.zeros(1, 3, dtype=torch.bool)
    a = token_parts(PROBS, MASK, TRUTH, clip_low=0.05, clip_high=0.85)
    b = token_parts(wide, torch.cat([MASK, more], 1), torch.cat([TRUTH, ~more], 1), clip_low=0.05, clip_high=0.85)
    for name in a.__dataclass_fields__:
        assert getattr(a, name).tolist() == pytest.approx(getattr(b, name).tolist(), nan_ok=True)


def test_the_threshold_takes_a_share_of_the_largest_sigma():
    sigma = torch.tensor([[0.4, 0.2, 0.19, 0.0, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, True, False], [True] * 5])
    assert reflective_by_threshold(sigma, mask, share=0.5).tolist() == [[True, True, False, False, False], [False] * 5]


def test_positions_and_agreement():
    mask = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    found = torch.tensor([[True, False, False, True, True], [False, True, False, False, False]])
    assert relative_positions(found, mask) == pytest.approx([0.125, 0.875, 0.75])
    truth = torch.tensor([[True, True, False, False, False], [False, True, False, False, False]])
    assert agreement(found, truth, mask) == pytest.approx((2 / 3, 2 / 3))
    assert all(math.isnan(value) for value in agreement(~mask, ~mask, mask))


def test_the_effective_number_of_tokens_falls_from_all_to_one():
    probs = torch.tensor([[[0.1, 0.2, 0.3], [0.5, 0.6, 0.9]]])  # sigma .2, .2, .3
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = effective_tokens(probs, mask, [0, 1, 64])
    assert found[0] == pytest.approx(3.0)
    assert found[1] == pytest.approx(0.7**2 / (0.04 + 0.04 + 0.09), abs=1e-5)
    assert found[2] == pytest.approx(1.0, abs=1e-3)
    assert found == sorted(found, reverse=True)
