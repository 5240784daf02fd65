"""Every estimator on numbers worked by hand, with and without process rewards.

The batch of the process tests: two prompts of two rollouts, six tokens; `.` is a token without a score.

    prompt 0   outcomes 1, 0     segment rewards   . 1 . 3 . .     . . 2 . . .
    prompt 1   outcomes 5, 5     segment rewards   . . . . . .     . . . . . .
"""

from __future__ import annotations

import pytest
import torch

from dro_lab.advantages.group_norm import group_norm
from dro_lab.advantages.leave_one_out import leave_one_out
from dro_lab.advantages.mean_baseline import mean_baseline
from dro_lab.advantages.reinforce_pp import reinforce_pp
from dro_lab.advantages.reinforce_pp_baseline import reinforce_pp_baseline
from dro_lab.types import Rewards

NAN = float("nan")
ALL = [group_norm, mean_baseline, leave_one_out, reinforce_pp, reinforce_pp_baseline]

POINTS = [[[0, 1, 0, 3, 0, 0], [0, 0, 2, 0, 0, 0]], [[0] * 6, [0] * 6]]
SCORED = [[[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], [[0] * 6, [0] * 6]]
ALPHA = 0.5


def rewards_of(outcomes, points=POINTS, scored=SCORED, weight=ALPHA, **more):
    return Rewards(
        outcome_PG=torch.tensor(outcomes, dtype=torch.float32),
        process_PGC=torch.tensor(points, dtype=torch.float32),
        process_mask_PGC=torch.tensor(scored, dtype=torch.bool),
        process_weight=weight,
        **more,
    )


def call(estimator, rewards, keep=None, lengths=None, **arguments):
    """``lengths``: tokens of the loss by rollout; six of them where it is None."""
    shape, width = rewards.outcome_PG.shape, 6
    keep_PG = torch.ones(shape, dtype=torch.bool) if keep is None else torch.tensor(keep)
    counts_PG = torch.full(shape, width) if lengths is None else torch.tensor(lengths)
    loss_mask_PGC = torch.arange(width) < counts_PG[..., None]
    return estimator(rewards, keep_PG, loss_mask_PGC, **arguments)


def outcome(estimator, outcomes, **arguments):
    return call(estimator, Rewards(outcome_PG=torch.tensor(outcomes)), **arguments)


def near(got, want, tolerance=1e-5):
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float32), atol=tolerance, rtol=0)


def beside(outcome_PG, credit, weight=ALPHA):
    """Outcome advantages on six tokens, and credit by rollout of prompt 0."""
    rows = torch.tensor(outcome_PG, dtype=torch.float32)[..., None].expand(2, 2, 6).clone()
    rows[0] += weight * torch.tensor(credit, dtype=torch.float32)
    return rows.tolist()


# ------------------------------------------------------------------------------------------------ outcomes


def test_mean_baseline_subtracts_the_group_mean():
    near(outcome(mean_baseline, [[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]), [[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
    near(outcome(mean_baseline, [[1.0, NAN, 5.0], [9.0, NAN, NAN]]), [[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]])


def test_leave_one_out_subtracts_the_mean_of_the_others():
    # 1 - (2 + 6)/2, 2 - (1 + 6)/2, 6 - (1 + 2)/2
    near(outcome(leave_one_out, [[1.0, 2.0, 6.0]]), [[-3.0, -1.5, 4.5]])
    near(outcome(leave_one_out, [[1.0, NAN, 5.0], [9.0, NAN, NAN]]), [[-4.0, 0.0, 4.0], [0.0, 0.0, 0.0]])


def test_reinforce_pp_whitens_over_the_tokens_of_the_batch():
    # equal lengths: mean 1.5; of 24 tokens sum of squares 6 (2.25 + 0.25 + 0.25 + 2.25) = 30; var 30/23
    std = (30 / 23) ** 0.5
    near(outcome(reinforce_pp, [[0.0, 1.0], [2.0, 3.0]]), [[-1.5 / std, -0.5 / std], [0.5 / std, 1.5 / std]])
    # 1 token of outcome 0 and 3 of outcome 1: mean 3/4, var (9/16 + 3/16)/3 = 1/4
    near(outcome(reinforce_pp, [[0.0, 1.0]], lengths=[[1, 3]]), [[-1.5, 0.5]])
    # eps stands under the root: var 1/4 + 3/4
    near(outcome(reinforce_pp, [[0.0, 1.0]], lengths=[[1, 3]], eps=0.75), [[-0.75, 0.25]])


def test_reinforce_pp_teaches_a_group_all_right_and_one_all_wrong():
    assert outcome(reinforce_pp, [[1.0, 1.0], [0.0, 0.0]]).sign().tolist() == [[1.0, 1.0], [-1.0, -1.0]]


def test_reinforce_pp_baseline_subtracts_the_group_mean_and_whitens_over_the_batch():
    # centred -1, 1, -3, 3; of 24 tokens sum of squares 6 * 20 = 120; var 120/23
    std = (120 / 23) ** 0.5
    near(outcome(reinforce_pp_baseline, [[0.0, 2.0], [1.0, 7.0]]), [[-1 / std, 1 / std], [-3 / std, 3 / std]])
    # lengths 1 and 3: centred -1/2, 1/2; mean over tokens 1/4; var (9/16 + 3/16)/3 = 1/4
    near(outcome(reinforce_pp_baseline, [[0.0, 1.0]], lengths=[[1, 3]]), [[-1.5, 0.5]])
    near(outcome(reinforce_pp_baseline, [[0.0, 1.0]], lengths=[[1, 3]], eps=0.75), [[-0.75, 0.25]])


@pytest.mark.parametrize("estimator", [reinforce_pp, reinforce_pp_baseline])
def test_whitening_leaves_out_what_cannot_be_scored_and_what_has_no_tokens(estimator):
    whole = outcome(estimator, [[0.0, 1.0]], lengths=[[1, 3]])
    holey = outcome(estimator, [[0.0, 1.0, NAN]], lengths=[[1, 3, 6]])
    near(holey, [[*whole[0].tolist(), 0.0]])
    nothing = outcome(estimator, [[0.0, 1.0], [NAN, NAN]], lengths=[[0, 0], [6, 6]])
    assert not nothing.any()
    assert outcome(reinforce_pp, [[0.0, 1.0, 8.0]], lengths=[[1, 3, 0]])[0].tolist() == pytest.approx([-1.5, 0.5, 0.0])


@pytest.mark.parametrize("estimator", [reinforce_pp, reinforce_pp_baseline])
def test_equal_outcomes_and_one_token_are_whitened_to_0(estimator):
    assert not outcome(estimator, [[0.1, 0.1], [0.1, 0.1]], lengths=[[1, 6], [3, 5]]).any()
    assert not outcome(estimator, [[0.1, 0.7]], lengths=[[1, 0]]).any()


@pytest.mark.parametrize("estimator", ALL)
def test_a_rollout_that_is_not_kept_gets_0_and_stays_in_the_baseline(estimator):
    outcomes, lengths = [[1.0, 2.0, 6.0], [0.0, 3.0, 1.0]], [[1, 2, 3], [4, 5, 6]]
    full = outcome(estimator, outcomes, lengths=lengths)
    part = outcome(estimator, outcomes, lengths=lengths, keep=[[True, False, True], [False] * 3])
    near(part, [[full[0, 0].item(), 0.0, full[0, 2].item()], [0.0] * 3])
    assert full[0, 1] != 0


# ------------------------------------------------------------------------------------------------ process rewards


def test_group_norm_normalises_segments_by_the_group():
    # r 1, 3, 2: mean 2, unbiased std 1; r' = -1, 1, 0. Outcomes 1, 0: std 2^-1/2
    a = 0.5 / (0.5**0.5 + 1e-4)
    near(
        call(group_norm, rewards_of([[1, 0], [5, 5]])),
        beside([[a, -a], [0, 0]], [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]),
    )


def test_group_norm_without_centring_divides_by_the_spread_about_0():
    # r 1, 3, 2: root mean square (14/3)^1/2
    a, rms = 0.5 / (0.5**0.5 + 1e-4), (14 / 3) ** 0.5
    credit = [[4 / rms, 4 / rms, 3 / rms, 3 / rms, 0, 0], [2 / rms, 2 / rms, 2 / rms, 0, 0, 0]]
    got = call(group_norm, rewards_of([[1, 0], [5, 5]], process_center=False))
    near(got, beside([[a, -a], [0, 0]], credit))


CENTRED_BY_GROUP = [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
RAW = [[4, 4, 3, 3, 0, 0], [2, 2, 2, 0, 0, 0]]


@pytest.mark.parametrize(("center", "credit"), [(True, CENTRED_BY_GROUP), (False, RAW)])
def test_mean_baseline_subtracts_the_mean_segment_reward(center, credit):
    got = call(mean_baseline, rewards_of([[1, 0], [5, 5]], process_center=center))
    near(got, beside([[0.5, -0.5], [0, 0]], credit))
    near(call(group_norm, rewards_of([[1, 0], [5, 5]], process_center=center), scale=False), got.tolist())


# 1 - 2, 3 - 2 (the other rollout's mean is 2); 2 - (1 + 3)/2
@pytest.mark.parametrize(("center", "credit"), [(True, CENTRED_BY_GROUP), (False, RAW)])
def test_leave_one_out_subtracts_the_mean_segment_reward_of_the_others(center, credit):
    got = call(leave_one_out, rewards_of([[1, 0], [5, 5]], process_center=center))
    near(got, beside([[1.0, -1.0], [0, 0]], credit))


def test_leave_one_out_weighs_points_of_the_others_alike():
    points = [[[0, 1, 0, 3, 0, 0], [0, 0, 8, 0, 0, 0], [6, 0, 0, 0, 0, 0]]]
    scored = [[[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]]
    got = call(leave_one_out, rewards_of([[2, 2, 2]], points, scored, weight=1.0))
    # 1 - 7, 3 - 7; 8 - (1 + 3 + 6)/3; 6 - (1 + 3 + 8)/3
    c = 8 - 10 / 3
    near(got, [[[-10, -10, -4, -4, 0, 0], [c, c, c, 0, 0, 0], [2, 0, 0, 0, 0, 0]]])


def test_reinforce_pp_whitens_segments_over_the_batch():
    points = [[[0, 1, 0, 3, 0, 0], [0, 0, 2, 0, 0, 0]], [[0, 0, 6, 0, 0, 0], [0] * 6]]
    scored = [[[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], [[0, 0, 1, 0, 0, 0], [0] * 6]]
    got = call(reinforce_pp, rewards_of([[1, 0], [0, 1]], points, scored))
    # outcomes: mean 1/2, of 24 tokens var 24/4/23; segments 1, 3, 2, 6: mean 3, var (4 + 0 + 1 + 9)/3
    a, s = 0.5 / (6 / 23) ** 0.5, (14 / 3) ** 0.5
    want = torch.tensor(beside([[a, -a], [-a, a]], [[-2 / s, -2 / s, 0, 0, 0, 0], [-1 / s, -1 / s, -1 / s, 0, 0, 0]]))
    want[1, 0, :3] += ALPHA * 3 / s
    near(got, want.tolist())
    # not centred: mean square (1 + 9 + 4 + 36)/4
    s = 12.5**0.5
    got = call(reinforce_pp, rewards_of([[1, 0], [0, 1]], points, scored, process_center=False))
    credit = [[4 / s, 4 / s, 3 / s, 3 / s, 0, 0], [2 / s, 2 / s, 2 / s, 0, 0, 0]]
    want = torch.tensor(beside([[a, -a], [-a, a]], credit))
    want[1, 0, :3] += ALPHA * 6 / s
    near(got, want.tolist())


@pytest.mark.parametrize(("center", "credit"), [(True, CENTRED_BY_GROUP), (False, RAW)])
def test_reinforce_pp_baseline_centres_segments_and_whitens_the_outcome_only(center, credit):
    # centred outcomes 1/2, -1/2, 0, 0; of 24 tokens var 12/4/23
    a = 0.5 / (3 / 23) ** 0.5
    got = call(reinforce_pp_baseline, rewards_of([[1, 0], [5, 5]], process_center=center))
    near(got, beside([[a, -a], [0, 0]], credit))


@pytest.mark.parametrize("estimator", [mean_baseline, reinforce_pp_baseline])
def test_count_correction_weighs_a_rollouts_mean_credit(estimator):
    # 2 points and 1, 1.5 in the mean: credit times 3/4 and 3/2
    points = [[[0, 1, 0, 5, 0, 0], [0, 0, 9, 0, 0, 0]], [[0] * 6, [0] * 6]]
    plain = call(estimator, rewards_of([[1, 1], [1, 1]], points, weight=1.0))
    near(plain[0], [[-4, -4, 0, 0, 0, 0], [4, 4, 4, 0, 0, 0]])
    got = call(estimator, rewards_of([[1, 1], [1, 1]], points, weight=1.0, process_count_correction=True))
    near(got[0], [[-3, -3, 0, 0, 0, 0], [6, 6, 6, 0, 0, 0]])
    assert not got[1].any()


@pytest.mark.parametrize("estimator", ALL)
def test_with_count_correction_scoring_twice_as_often_changes_no_total(estimator):
    once = [[[0, 4, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0]]]
    often = [[[4, 4, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0]]]

    def total(points, corrected):
        scored = (torch.tensor(points) != 0).tolist()
        rewards = rewards_of([[1, 1]], points, scored, process_center=False, process_count_correction=corrected)
        got = call(estimator, rewards)[0, :, 0]
        return (got[0] / got[1]).item()

    assert total(once, True) == pytest.approx(2.0, rel=1e-5)
    assert total(often, True) == pytest.approx(2.0, rel=1e-5)
    assert total(often, False) == pytest.approx(4.0, rel=1e-5)


def test_a_group_with_equal_outcomes_teaches_by_its_process():
    got = call(group_norm, rewards_of([[1, 1], [5, 5]]))
    near(got, beside([[0, 0], [0, 0]], CENTRED_BY_GROUP))


@pytest.mark.parametrize("estimator", ALL)
def test_a_lone_point_has_nothing_to_compare_with(estimator):
    points = [[[0, 7, 0, 0, 0, 0], [0] * 6]]
    scored = [[[0, 1, 0, 0, 0, 0], [0] * 6]]
    for corrected in (True, False):
        got = call(estimator, rewards_of([[1, 1]], points, scored, process_count_correction=corrected))
        assert got.tolist() == torch.zeros(1, 2, 6).tolist()


def test_points_that_hardly_differ_stay_bounded_without_centring():
    points = [[[0, 0.238, 0, 0, 0, 0], [0, 0, 0.238001, 0, 0, 0]]]
    scored = [[[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]]
    got = call(group_norm, rewards_of([[1, 1]], points, scored, weight=1.0, process_center=False))
    near(got, [[[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]], 1e-4)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("estimator", ALL)
def test_equal_segment_rewards_are_no_noise(estimator, center):
    """0.1 has no exact binary form: a mean in float32 would leave a rest that eps 1e-6 turns into credit."""
    tenths = [[[0.1, 0.1, 0.1, 0, 0, 0], [0.1, 0.1, 0.1, 0.1, 0, 0]], [[0.1] * 6, [0.1, 0, 0, 0, 0, 0]]]
    scored = (torch.tensor(tenths) != 0).tolist()
    got = call(estimator, rewards_of([[1, 1], [1, 1]], tenths, scored, process_center=center))
    assert got.any() == (not center)


@pytest.mark.parametrize("estimator", ALL)
def test_a_rollout_without_an_outcome_has_no_part_in_the_process_either(estimator):
    points = [[[0, 1, 0, 3, 0, 0], [0, 0, 2, 0, 0, 0], [90, 90, 0, 0, 0, 0]]]
    scored = [[[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]]
    with_it = call(estimator, rewards_of([[1, 0, NAN]], points, scored, process_count_correction=True))
    without = call(estimator, rewards_of([[1, 0]], [points[0][:2]], [scored[0][:2]], process_count_correction=True))
    near(with_it[:, :2], without.tolist())
    assert not with_it[:, 2].any()


@pytest.mark.parametrize("estimator", ALL)
def test_a_rollout_that_is_not_kept_keeps_its_part_in_the_process_and_gets_nothing(estimator):
    full = call(estimator, rewards_of([[1, 0], [5, 3]]))
    part = call(estimator, rewards_of([[1, 0], [5, 3]]), keep=[[False, True], [True, True]])
    assert torch.equal(part[0, 1], full[0, 1])
    assert torch.equal(part[1], full[1])
    assert not part[0, 0].any()


@pytest.mark.parametrize("estimator", ALL)
def test_tokens_outside_the_loss_get_0_and_zeros_off_the_mask_are_no_scores(estimator):
    lengths = [[3, 4], [6, 2]]
    got = call(estimator, rewards_of([[1, 0], [5, 3]]), lengths=lengths)
    inside = torch.arange(6) < torch.tensor(lengths)[..., None]
    assert not got[~inside].any()
    assert got[0][inside[0]].all()  # no 0 but by the mask: outcome plus credit
    rubbish = torch.tensor(POINTS, dtype=torch.float32).masked_fill(~torch.tensor(SCORED).bool(), NAN)
    assert torch.equal(call(estimator, rewards_of([[1, 0], [5, 3]], rubbish.tolist()), lengths=lengths), got)


@pytest.mark.parametrize("estimator", ALL)
def test_a_score_of_0_counts_and_a_reward_without_any_point_adds_nothing(estimator):
    plain = outcome(estimator, [[1.0, 0.0], [5.0, 3.0]])
    none = call(estimator, rewards_of([[1, 0], [5, 3]], scored=torch.zeros(2, 2, 6).tolist()))
    assert torch.equal(none, plain[..., None].expand(2, 2, 6))
    more = torch.tensor(SCORED)
    more[0, 1, 4] = 1  # a segment without gain
    zero = call(estimator, rewards_of([[1, 0], [5, 3]], scored=more.tolist()))
    assert not torch.equal(zero, call(estimator, rewards_of([[1, 0], [5, 3]])))


@pytest.mark.parametrize("estimator", ALL)
def test_shapes_and_types(estimator):
    assert outcome(estimator, [[1.0, 0.0]]).shape == (1, 2)
    got = call(estimator, rewards_of([[1, 0], [5, 3]]))
    assert (got.shape, got.dtype) == ((2, 2, 6), torch.float32)
    assert outcome(estimator, [[1.0, 0.0]]).dtype == torch.float32
    values = torch.full((1, 2, 6), NAN)  # a critic's token values have their place, and no effect yet
    assert torch.equal(outcome(estimator, [[1.0, 0.0]], values_PGC=values), outcome(estimator, [[1.0, 0.0]]))
