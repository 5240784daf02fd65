"""The first version's reward on numbers that one can compute by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dro_lab.advantages.group_norm import group_norm
from dro_lab.errors import UserError
from dro_lab.rewards import r3_v1 as module
from dro_lab.rewards.r3_v1 import r3_v1
from dro_lab.types import Need, Stat, TokenStats
from tests.tiny_step import groups_of, stats_of

EOS = 0.5
E = math.e


def stats(*rollouts, masked=None):
    made = stats_of([[[*rollout, EOS] for rollout in rollouts]])
    if masked is None:
        return made
    return replace(made, masked_logps_PGR=stats_of([[[*rollout, EOS] for rollout in masked]]).reference_logps_PGR)


def rewards(made, **arguments):
    return r3_v1(groups_of(1, made.reference_logps_PGR.shape[1]), made, **arguments)


def outcome(made, **arguments):
    return rewards(made, **arguments).outcome_PG[0].tolist()


PLAIN = {"masked_baseline": False}


def test_weights_are_those_of_log_probabilities():
    # log p: (-4, -1) and (-2, -2): sigma 1 and .5
    made = stats([E**-4, E**-1], [E**-2, E**-2])
    got = rewards(made, **PLAIN)
    assert got.token_weights_PR[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert got.outcome_PG[0].tolist() == pytest.approx([-3.0, -2.0])
    assert rewards(made, omega=2.0, **PLAIN).token_weights_PR[0].tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert got.depends_on == "reasoning"


def test_the_masked_baseline_is_the_groups_mean_and_taken_off_each_token():
    made = stats([E**-4, E**-1], [E**-2, E**-2], masked=[[E**-5, E**-3], [E**-3, E**-1]])  # means -4 and -2
    assert outcome(made) == pytest.approx([0 * 2 / 3 + 1 / 3, 2 * 2 / 3])


def test_with_the_group_z_score_the_masked_baseline_cancels_and_unscaled_or_mixed_it_does_not():
    draw = torch.Generator().manual_seed(3)
    probabilities = (0.02 + 0.9 * torch.rand(4, 6, 8, generator=draw)).tolist()
    made = stats_of(probabilities)
    masked = torch.log(0.02 + 0.9 * torch.rand(4, 6, 8, generator=draw))  # not even constant within a group
    groups = groups_of(4, 6)
    with_it = r3_v1(groups, replace(made, masked_logps_PGR=masked))
    without = r3_v1(groups, made, masked_baseline=False)
    keep = torch.ones(4, 6, dtype=torch.bool)
    advantages = [group_norm(reward, keep, groups.completion_mask_PGC) for reward in (with_it, without)]
    assert advantages[0].abs().max() > 0.5
    torch.testing.assert_close(advantages[0], advantages[1], atol=1e-5, rtol=0)
    gap_PG = with_it.outcome_PG - without.outcome_PG
    assert gap_PG[:, 0].std() > 0.05  # another number for each group: it acts where groups are compared


def test_self_influence_takes_down_what_follows_an_unlikely_reflective_token():
    # sigma of log p: only token 1 varies, so it alone is reflective and has all the weight
    quiet = [0.5, 0.2, 0.5, 0.5], [0.5, 0.8, 0.5, 0.5]
    alone = rewards(stats(*quiet), masked_baseline=False, self_influence=True)
    assert alone.outcome_PG[0].tolist() == pytest.approx([math.log(0.2), math.log(0.8)])  # nothing stands before it
    # token 0 is the most reflective (share .1 of 2 is one token); token 1 varies too
    group = [0.1, 0.2], [0.9, 0.4]
    gamma = 0.5
    sigma = (math.log(0.9) - math.log(0.1)) / 2, (math.log(0.4) - math.log(0.2)) / 2
    weights = [s / sum(sigma) for s in sigma]
    want = [
        weights[0] * math.log(p0) + weights[1] * math.log(p1 * (p0 + (1 - p0) * (1 - math.exp(-gamma))))
        for p0, p1 in group
    ]
    assert outcome(stats(*group), masked_baseline=False, self_influence=True, gamma=gamma) == pytest.approx(want)


def test_self_influence_fades_with_distance_and_is_gone_for_a_large_gamma():
    far = [0.1, 0.5, 0.5, 0.3], [0.6, 0.5, 0.5, 0.4]
    plain = outcome(stats(*far), **PLAIN)
    assert outcome(stats(*far), gamma=100.0, masked_baseline=False, self_influence=True) == pytest.approx(plain)
    near = outcome(stats(*far), gamma=0.05, masked_baseline=False, self_influence=True)
    further = outcome(stats(*far), gamma=0.5, masked_baseline=False, self_influence=True)
    assert near[0] < further[0] < plain[0]


def test_the_length_term_is_counted_in_words_of_the_own_answer_alone():
    made = stats([0.5], [0.5], [0.5])
    groups = replace(
        groups_of(1, 3), references_P=["one two three four"], answers_PG=[["a b c d", "a b", "a b c d e f g h i j"]]
    )
    got = r3_v1(groups, made, length_beta=0.5, **PLAIN)
    assert got.parts["length"][0].tolist() == pytest.approx([1.0, 0.75, 0.25])
    assert got.outcome_PG[0].tolist() == pytest.approx([math.log(0.5) + x for x in (1.0, 0.75, 0.25)])
    assert got.depends_on == "completion"
    empty = replace(groups, answers_PG=[["", " ", "a"]])
    assert r3_v1(empty, made, length_beta=1.0, **PLAIN).parts["length"][0].tolist() == pytest.approx([0.0, 0.0, 0.25])


def test_no_signal_rewards_all_rollouts_alike():
    same = [E**-2, E**-4]
    assert outcome(stats(same, same), **PLAIN) == pytest.approx([-3.0, -3.0])
    assert outcome(stats(same), masked_baseline=False, self_influence=True) == pytest.approx([-3.0])
    assert outcome(stats(same, same, masked=[[E**-3, E**-3]] * 2)) == pytest.approx([0.0, 0.0])
    assert rewards(stats(same, same), **PLAIN).metrics["no_signal_share"] == 1.0


def test_rounding_noise_picks_no_token():
    noisy = [E**-2, E**-4], [E ** (-2 + 1e-6), E ** (-4 - 4e-6)]
    assert rewards(stats(*noisy), **PLAIN).token_weights_PR.tolist() == [[0.0, 0.0, 0.0]]


def test_a_reference_without_tokens_is_not_scorable():
    made = replace(stats_of([[[EOS]] * 2, [[0.2, EOS], [0.4, EOS]]]), masked_logps_PGR=torch.zeros(2, 2, 2))
    assert r3_v1(groups_of(2, 2), made).outcome_PG.isnan().tolist() == [[True, True], [False, False]]
    influenced = r3_v1(groups_of(2, 2), made, masked_baseline=False, self_influence=True)
    assert influenced.outcome_PG.isnan().tolist() == [[True, True], [False, False]]


def test_needs():
    assert module.needs() == {Need(Stat.REFERENCE), Need(Stat.MASKED)}
    assert module.needs(masked_baseline=False, omega=2.0) == {Need(Stat.REFERENCE)}
    with pytest.raises(ValueError, match=r"Stat\.MASKED"):
        rewards(stats([0.5], [0.6]))
    with pytest.raises(ValueError, match=r"Stat\.REFERENCE"):
        r3_v1(groups_of(1, 2), TokenStats())


BAD = [
    ({"self_influence": True}, r"reward\.self_influence=true with reward\.masked_baseline=true.*masked_baseline=false"),
    ({"omega": -1}, r"reward\.omega=-1"),
    ({"gamma": -0.1}, r"reward\.gamma=-0\.1: must be a number of at least 0"),
    ({"length_beta": -1}, r"reward\.length_beta=-1"),
    ({"length_beta": "long"}, r"reward\.length_beta=long"),
    ({"reflective_share": 0}, r"reward\.reflective_share=0: must be a share"),
    ({"masked_baseline": "yes"}, r"reward\.masked_baseline=yes: must be true or false"),
    ({"weighting": "soft"}, r"reward\.weighting=soft"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        module.check(**arguments)
