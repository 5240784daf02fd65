"""REPRO: magnitude, stability and process rewards on literal numbers, released values and invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.components import REFERENCE_NEED, component
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.rewards import repro as module
from dro_lab.rewards._repro import magnitude, smoothed
from dro_lab.rewards.repro import repro
from dro_lab.types import Need, PrefixPlan, Rewards, Stat, TokenStats
from tests.contract.steps import a_step, reorder, widen
from tests.prefix_step import VERIFIER, prefix_fields, process, reasoning_groups, scored
from tests.tiny_step import stats_of

MAGNITUDE, STABILITY = {"w": 0.0}, {"w": 1.0}


# ------------------------------------------------------------------------------------------------ literal numbers


def test_magnitude_by_hand():
    """Baseline -2: J = -2 gives 1 - tanh 1, J = -1 gives 1 - tanh 0.5, J = 0 gives 1."""
    got = scored([[[-2.0, -1.0, 0.0]]], [-2.0], [[[1, 3, 7]]], **MAGNITUDE)
    assert process(got) == {
        1: pytest.approx(0.2384058, abs=1e-6),
        3: pytest.approx(0.5378828 - 0.2384058, abs=1e-6),
        7: pytest.approx(1 - 0.5378828, abs=1e-6),
    }
    assert got.parts["magnitude"].tolist() == [[1.0]]
    assert got.parts["gain"].tolist() == [[2.0]]


def test_stability_by_hand():
    """J_b -3, then -2, -2.5, -1: tau over 1, 3 and 6 pairs is 1, 1/3 and 4/6."""
    got = scored([[[-2.0, -2.5, -1.0]]], [-3.0], **STABILITY)
    scores = [1.0, (1 / 3 + 1) / 2, (4 / 6 + 1) / 2]
    wanted = [scores[0], scores[1] - scores[0], scores[2] - scores[1]]
    assert list(process(got).values()) == pytest.approx(wanted, abs=1e-6)
    assert got.parts["stability"].item() == pytest.approx(scores[2])


def test_both_are_weighed():
    points, baseline = [[[-2.0, -2.5, -1.0]]], [-3.0]
    size, steady = (scored(points, baseline, **keys) for keys in (MAGNITUDE, STABILITY))
    both = scored(points, baseline, w=0.25)
    torch.testing.assert_close(both.process_PGC, 0.75 * size.process_PGC + 0.25 * steady.process_PGC)


def test_j_is_the_mean_over_the_references_tokens_and_its_end_does_not_count():
    fields = prefix_fields([[[[-1.0, -3.0]]]], [[-2.0, -6.0]])
    fields["prefix_logps_PGKR"] = torch.cat([fields["prefix_logps_PGKR"], torch.full((1, 1, 1, 1), -9.0)], -1)
    fields["no_reasoning_logps_PR"] = torch.cat([fields["no_reasoning_logps_PR"], torch.full((1, 1), -9.0)], -1)
    fields["reference_mask_PR"] = torch.tensor([[True, True, False]])
    fields["reference_eos_PR"] = torch.tensor([[False, False, True]])
    got = repro(reasoning_groups(1, 1), TokenStats(verifier_PG=torch.ones(1, 1), **fields), outcome=VERIFIER, w=0.0)
    assert process(got)[0] == pytest.approx(1 - math.tanh(2 / 4), abs=1e-6)


def test_smoothing_by_hand():
    series = torch.tensor([-4.0, -2.0, -3.0])
    assert smoothed(series, 0.5).tolist() == [-4.0, -3.0, -3.0]
    assert smoothed(series, 1.0).tolist() == series.tolist()
    assert smoothed(series, None) is series
    rough, smooth = (scored([[[-2.0, -3.0]]], [-4.0], ema=ema, **STABILITY) for ema in (None, 0.5))
    assert rough.parts["stability"].item() == pytest.approx((1 / 3 + 1) / 2)
    assert smooth.parts["stability"].item() == pytest.approx((2 / 3 + 1) / 2)  # up, up, equal
    assert scored([[[-2.0, -3.0]]], [-4.0], ema=0.5, **MAGNITUDE).parts["magnitude"].item() == pytest.approx(
        1 - math.tanh(3 / 4), abs=1e-6
    )  # the magnitude is not smoothed


def test_a_change_within_rounding_is_a_tie():
    assert scored([[[-2.0 + 5e-7]]], [-2.0], **STABILITY).parts["stability"].item() == 0.5
    assert scored([[[-2.0 + 1e-4]]], [-2.0], **STABILITY).parts["stability"].item() == 1.0


def test_a_score_of_zero_change_is_a_value_and_not_padding():
    got = scored([[[-1.0, -1.0]]], [-2.0], **MAGNITUDE)
    assert list(process(got).values()) == [pytest.approx(1 - math.tanh(0.5), abs=1e-6), 0.0]
    assert got.process_mask_PGC.sum() == 2


# ------------------------------------------------------------------------------------------------ edges


def test_known_without_reasoning_is_guarded_and_counted():
    """Baseline -0.001, J = -0.05: unguarded 1 - tanh 50 = 0 for a change of 0.05 nat; with the floor 1 - tanh 0.5."""
    got = scored([[[-0.05]], [[-1.0]]], [-0.001, -2.0], **MAGNITUDE)
    assert got.parts["magnitude"].flatten().tolist() == pytest.approx([1 - math.tanh(0.5), 1 - math.tanh(0.5)])
    assert got.metrics["known_without_reasoning_share"] == 0.5
    assert scored([[[0.0]]], [0.0], **MAGNITUDE).parts["magnitude"].item() == 1.0
    assert scored([[[-0.05]]], [-0.001], baseline_floor=0.05, **MAGNITUDE).parts["magnitude"].item() == pytest.approx(
        1 - math.tanh(1), abs=1e-6
    )


@given(st.floats(-3, 0), st.floats(-3, 0), st.floats(1e-3, 0.5), st.floats(0.01, 2))
def test_one_nat_moves_the_magnitude_by_one_over_the_floor_at_most(baseline, logp, change, floor):
    one, other = (
        magnitude(torch.tensor([[[value]]], dtype=torch.float64), torch.tensor([baseline]).double(), floor=floor)
        for value in (logp, logp - change)
    )
    assert 0 <= (one - other).item() <= change / floor + 1e-9


def test_a_reasoning_without_tokens_is_scored_and_sits_on_no_token():
    got = scored([[[-1.0], [-1.5, -1.0]]], [-2.0], [[[-1], [2, 5]]], **MAGNITUDE)
    assert process(got, 0, 0) == {}
    assert len(process(got, 0, 1)) == 2
    assert got.parts["magnitude"][0, 0] == got.parts["magnitude"][0, 1]
    assert got.metrics["scored_points"] == 1.0
    assert got.metrics["unscored_share"] == 0.5


def test_a_reference_without_tokens_gives_no_points():
    got = scored([[[-1.0, -0.5]], [[-1.0, -0.5]]], [[], [-2.0]])
    assert got.process_mask_PGC.sum((1, 2)).tolist() == [0, 2]
    assert not got.process_PGC[0].any()
    assert got.parts["magnitude"].isnan().tolist() == [[True], [False]]
    assert got.metrics["baseline_logprob"] == -2.0


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_value_that_is_no_number_leaves_its_rollout_without_points_and_the_others_alone(value):
    points = [[[-1.0, value, -0.5], [-1.0, -0.7]]]
    got, alone = scored(points, [-2.0]), scored([points[0][1:]], [-2.0])
    assert process(got, 0, 0) == {}
    assert process(got, 0, 1) == process(alone)
    assert got.process_PGC.isfinite().all()
    assert not scored([[[-1.0]]], [value]).process_mask_PGC.any()


def test_points_behind_the_reasoning_or_the_completion_are_not_scored():
    got = scored([[[-1.0, -0.7, -0.5]]], [-2.0], [[[2, 9, 40]]])  # the reasoning has 8 tokens, the completion 12
    assert list(process(got)) == [2]


def test_the_share_of_points_that_make_the_reference_less_likely():
    got = scored([[[-1.0, -1.5, -0.5, -0.6]]], [-2.0], **MAGNITUDE)
    assert got.metrics["negative_process_share"] == 0.5
    assert got.metrics["scored_points"] == 4.0
    assert got.metrics["unscored_share"] == 0.0


def test_the_estimators_settings_pass_through():
    plain = scored([[[-1.0]]], [-2.0])
    assert (plain.process_weight, plain.process_center, plain.process_count_correction) == (0.1, True, False)
    other = scored([[[-1.0]]], [-2.0], alpha=0.05, center=False, count_correction=True)
    assert (other.process_weight, other.process_center, other.process_count_correction) == (0.05, False, True)


# ------------------------------------------------------------------------------------------------ invariants

LOGPS = st.floats(-4, 0)
SERIES = st.lists(LOGPS, min_size=1, max_size=8)


@given(SERIES, LOGPS, st.floats(0, 1), st.one_of(st.none(), st.floats(0.01, 1)))
def test_scores_lie_in_their_range_and_differences_add_up_to_the_last(series, baseline, w, ema):
    keys = {"w": w, "ema": ema, "baseline_floor": 0.1}
    got = scored([[series]], [baseline], **keys)
    size, steady = got.parts["magnitude"].item(), got.parts["stability"].item()
    assert 0 < size <= 1
    assert 0 <= steady <= 1
    assert got.process_PGC.sum().item() == pytest.approx((1 - w) * size + w * steady, abs=1e-5)
    sums = got.process_PGC[0, 0, : len(series)].cumsum(0)
    assert (sums >= -1e-5).all()
    assert (sums <= 1 + 1e-5).all()


@given(SERIES, LOGPS)
def test_magnitude_rises_with_j_and_is_a_quarter_at_the_baseline(series, baseline):
    got = scored([[[value] for value in sorted(series)]], [baseline], **MAGNITUDE).parts["magnitude"][0]
    assert (got.diff() >= 0).all()
    if baseline < -0.1:
        at = scored([[[baseline]]], [baseline], **MAGNITUDE).parts["magnitude"].item()
        assert at == pytest.approx(1 - math.tanh(1), abs=1e-6)


def assert_equal(got: Rewards, want: Rewards, tokens: int) -> None:
    assert torch.equal(got.outcome_PG, want.outcome_PG)
    torch.testing.assert_close(got.process_PGC[..., :tokens], want.process_PGC, atol=1e-6, rtol=1e-6)
    assert torch.equal(got.process_mask_PGC[..., :tokens], want.process_mask_PGC)
    assert not got.process_PGC[..., tokens:].any()
    assert not got.process_mask_PGC[..., tokens:].any()
    for name, value in want.parts.items():
        torch.testing.assert_close(got.parts[name], value, equal_nan=True, msg=name)
    assert got.metrics == pytest.approx(want.metrics)


@pytest.mark.parametrize("axes", ["C", "K", "R", "CKR"])
def test_wider_padding_changes_nothing(axes):
    step = a_step()
    want = repro(step.groups, step.stats, outcome=VERIFIER)
    assert want.process_mask_PGC.any()
    wide = step
    for axis in axes:
        wide = widen(wide, axis)
    assert_equal(repro(wide.groups, wide.stats, outcome=VERIFIER), want, step.loss_mask_PGC.shape[-1])


def test_permuting_rollouts_permutes_the_credit():
    step, order = a_step(), [3, 0, 4, 1, 2]
    got = repro(*(reorder(part, "G", order) for part in (step.groups, step.stats)), outcome=VERIFIER)
    want = repro(step.groups, step.stats, outcome=VERIFIER)
    assert torch.equal(got.process_PGC, want.process_PGC[:, order])
    assert not torch.equal(got.process_PGC, want.process_PGC)


# ------------------------------------------------------------------------------------------------ outcomes

OUTCOMES = ["verifier", "avg_prob", "avg_logprob", "seq_prob", "r3", "r3_v1", "rouge", "mix"]


def chosen(name, *overrides):
    node = compose([f"reward={name}", *overrides]).reward
    return component("reward", node, name=name, default_needs=REFERENCE_NEED)


@pytest.mark.parametrize("variant", ["repro", "repro_magnitude", "repro_stability"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_one_override(outcome, variant):
    step = a_step()
    alone = chosen(outcome)
    part = chosen(variant, f"reward@reward.outcome={outcome}")
    assert part.gives_process
    assert part.needs == alone.needs | {Need(Stat.PREFIXES, plan=PrefixPlan())}
    got, want = part(step.groups, step.stats), alone(step.groups, step.stats)
    assert torch.equal(got.outcome_PG, want.outcome_PG)
    assert got.depends_on == want.depends_on
    assert (got.token_weights_PR is None) == (want.token_weights_PR is None)
    if want.token_weights_PR is not None:
        assert torch.equal(got.token_weights_PR, want.token_weights_PR)
    assert {name: got.metrics[f"{outcome}/{name}"] for name in want.metrics} == pytest.approx(
        dict(want.metrics), nan_ok=True
    )
    for name, value in want.parts.items():
        assert torch.equal(got.parts[f"{outcome}/{name}"], value)
    own = repro(
        step.groups,
        step.stats,
        outcome=VERIFIER,
        w={"repro": 0.25, "repro_magnitude": 0, "repro_stability": 1}[variant],
    )
    assert torch.equal(got.process_PGC, own.process_PGC)


def test_the_command_line_sets_the_outcomes_keys_and_the_plan():
    step = a_step()
    part = chosen(
        "repro",
        "reward@reward.outcome=r3",
        "reward.outcome.omega=1",
        "reward.k=3",
        "reward.segment_on=line",
        "reward.score_at=end",
        "reward.close_prefix=true",
    )
    assert Need(Stat.PREFIXES, plan=PrefixPlan(3, "line", "end", True)) in part.needs
    alone = chosen("r3", "reward.omega=1")
    assert torch.equal(part(step.groups, step.stats).outcome_PG, alone(step.groups, step.stats).outcome_PG)
    assert not torch.equal(alone(step.groups, step.stats).outcome_PG, chosen("r3")(step.groups, step.stats).outcome_PG)


@pytest.mark.parametrize("w", [0.0, 0.25, 1.0])
def test_needs_do_not_depend_on_w(w):
    assert module.needs(outcome=VERIFIER, w=w) == {Need(Stat.VERIFIER), Need(Stat.PREFIXES, plan=PrefixPlan())}


def test_the_data_set_is_prepared_as_the_outcome_wants_it(monkeypatch):
    from dro_lab.rewards import verifier

    monkeypatch.setattr(verifier, "prepare", lambda task: f"prepared {task}")
    assert module.prepare("task", outcome=VERIFIER, w=0.5) == "prepared task"
    assert module.prepare("task", outcome={"_target_": "dro_lab.rewards.r3.r3"}) == "task"


def gives_process(groups, stats) -> Rewards:
    return Rewards(outcome_PG=torch.zeros(groups.shape), process_PGC=torch.zeros(*groups.shape, 2))


def test_an_outcome_with_process_rewards_that_does_not_say_so_is_refused_when_called():
    with pytest.raises(UserError, match=r"reward\.outcome: gives_process gives process rewards"):
        scored([[[-1.0]]], [-2.0], outcome={"_target_": f"{__name__}.gives_process"})


def test_prefixes_that_were_not_scored_are_named():
    stats = stats_of([[[0.5, 0.5]]], quality=[[1.0]])
    with pytest.raises(ValueError, match=r"Stat\.PREFIXES"):
        repro(reasoning_groups(1, 1), stats, outcome=VERIFIER)


BAD = [
    ({"w": -0.1}, r"reward\.w=-0\.1: must be a number in \[0, 1\]"),
    ({"alpha": math.nan}, r"reward\.alpha=nan: must be a number in \[0, 10\]"),
    ({"k": 2.5}, r"reward\.k=2\.5: must be a whole number of at least 1"),
    ({"ema": 1.5}, r"reward\.ema=1\.5: must be a share above 0 and at most 1; or null"),
    ({"segment_on": "token"}, r"reward\.segment_on=token: must be one of blank_line, line"),
    ({"score_at": "middle"}, r"reward\.score_at=middle: must be one of start, end"),
    ({"close_prefix": 1}, r"reward\.close_prefix=1: must be true or false"),
    ({"count_correction": "no"}, r"reward\.count_correction=no: must be true or false"),
    ({"center": None}, r"reward\.center=None: must be true or false"),
    ({"baseline_floor": 0}, r"reward\.baseline_floor=0: must be a number in \[1e-06, 10\]"),
    ({"outcome": "r3"}, r"reward\.outcome=r3: .* type reward@reward\.outcome=r3"),
    ({"outcome": None}, r"reward\.outcome=None: .* type reward@reward\.outcome=verifier"),
    ({"outcome": {"omega": 1}}, r"reward\.outcome: its yaml must name a function"),
    ({"outcome": {"_target_": "no.such.thing"}}, r"reward\.outcome\._target_=no\.such\.thing: cannot be imported"),
    ({"outcome": {"_target_": "dro_lab.rewards.r3.r3", "omega": -1}}, r"^reward\.outcome\.omega=-1: must be"),
    ({"outcome": {"_target_": "dro_lab.rewards.r3.r3", "omga": 1}}, r"^reward\.outcome\.omga: unknown key"),
    (
        {"outcome": {"_target_": "dro_lab.rewards.repro.repro", "outcome": VERIFIER}},
        r"reward\.outcome: repro gives process rewards .* itself",
    ),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(UserError, match=message):
        module.check(**{"outcome": VERIFIER, **keys})


def test_the_bounds_themselves_are_allowed():
    module.check(outcome=VERIFIER, w=0, alpha=0, k=1, ema=1, baseline_floor=10)
    module.check(outcome=VERIFIER, w=1, alpha=10, k=500, ema=0.01, baseline_floor=1e-6)
