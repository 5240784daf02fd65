"""Coverage, consistency and on_reject on literal tables, and against an independent implementation."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dro_lab.errors import UserError
from dro_lab.gating._decide import Rules, check_rules, decide, portion
from dro_lab.types import Rewards

NAN = math.nan


def gate(table, outcome, mask=None, process=None, names=None, **rules):
    """One group: ``table[rollout]`` is a string of y (met), n (not met), ? (unknown)."""
    verdicts_PGV = torch.tensor([[[{"y": 1, "n": 0, "?": -1}[c] for c in row] for row in table]], dtype=torch.int8)
    mask_PV = torch.ones(1, verdicts_PGV.shape[-1], dtype=torch.bool) if mask is None else torch.tensor([mask])
    rewards = Rewards(outcome_PG=torch.tensor([outcome], dtype=torch.float32))
    if process is not None:
        process_PGC = torch.tensor([process], dtype=torch.float32)
        rewards = Rewards(outcome_PG=rewards.outcome_PG, process_PGC=process_PGC, process_mask_PGC=~process_PGC.isnan())
    return decide(verdicts_PGV, mask_PV, rewards, rules=Rules(**rules), names_PV=names)


FOUR = [0.9, 0.7, 0.5, 0.1]

# table, outcome, rules -> admitted, words of the reason
LITERAL = {
    "each check is met by another rollout": (["yn", "ny", "yy", "nn"], FOUR, {"nu": 0.5}, True, ""),
    "a check that nobody meets": (["yn", "yn", "yn", "yn"], FOUR, {"nu": 0.5}, False, "coverage: check b met by none"),
    "unknown is no yes for coverage": (["y?", "y?", "yn", "y?"], FOUR, {"nu": 0.5}, False, "check b met by none"),
    "unknown is no yes for consistency": (["y?", "yy", "yy", "yy"], FOUR, {}, False, "consistency: 1 of the top 1"),
    "mu is a count": (["yy", "yn", "yn", "yn"], FOUR, {"mu": 2}, False, "check b met by 1 of at least mu=2"),
    "mu met exactly": (["yy", "yy", "yn", "yn"], FOUR, {"mu": 2}, True, ""),
    "mu above the group": (["yy", "yy", "yy", "yy"], FOUR, {"mu": 5}, False, "met by 4 of at least mu=5"),
    "the best fails": (["nn", "yy", "yy", "yy"], FOUR, {}, False, "consistency"),
    "only the rest fails": (["yy", "nn", "nn", "nn"], FOUR, {}, True, ""),
    "nu reached exactly": (["yyynn", "yyyyy", "yyyyy", "yyyyy"], FOUR, {"nu": 0.6}, True, ""),
    "one below nu": (["yynnn", "yyyyy", "yyyyy", "yyyyy"], FOUR, {"nu": 0.6}, False, "nu=0.6"),
    "two fail in the top half": (["nn", "nn", "yy", "yy"], FOUR, {"rho": 0.5}, False, "2 of the top 2 rollouts"),
    "rho * G = 1.2 asks two": (["yy", "nn", "yy", "yy"], FOUR, {"rho": 0.3}, False, "1 of the top 2 rollouts"),
    "rho * G = 1 asks one": (["yy", "nn", "yy", "yy"], FOUR, {"rho": 0.25}, True, ""),
    "rho * G below 1 asks one": (["yy", "nn", "yy", "yy"], FOUR, {"rho": 0.01}, True, ""),
    "ties at the border all count": (["yy", "yy", "nn", "yy"], [0.9, 0.7, 0.7, 0.1], {"rho": 0.5}, False, "top 3"),
    "all tied: all are the top": (["yy", "yy", "yy", "nn"], [0.5] * 4, {"rho": 0.25}, False, "1 of the top 4"),
    "a nan is never the top": (["nn", "yy", "yy", "yy"], [NAN, 0.7, 0.5, 0.1], {}, True, ""),
    "nan does not make the top smaller": (["yy", "nn", "yy", "yy"], [0.9, 0.1, NAN, NAN], {"rho": 0.5}, False, "top 2"),
    "fewer rewards than the top": (["yy", "nn", "nn", "nn"], [0.9, NAN, NAN, NAN], {"rho": 0.75}, True, ""),
    "no reward at all: coverage alone": (["yy", "nn", "nn", "nn"], [NAN] * 4, {}, True, ""),
    "one rollout passes": (["yyn"], [0.3], {"mu": 1, "nu": 0.6}, False, "check c met by none"),
    "one rollout that meets all": (["yyy"], [0.3], {}, True, ""),
    "both gates are named": (["nn", "ny", "ny", "ny"], FOUR, {}, False, "coverage: check a met by none; consistency"),
    "further checks are counted": (["nny", "nny", "nny", "nny"], FOUR, {}, False, "check a met by none (and 1 more"),
}


@pytest.mark.parametrize("case", LITERAL)
def test_a_group_is_admitted_or_rejected_with_its_reason(case):
    table, outcome, rules, admitted, words = LITERAL[case]
    result = gate(table, outcome, names=["abcdefghij"], **rules)
    assert result.admit_P.tolist() == [admitted]
    assert result.rejected_P.tolist() == [not admitted]
    assert (result.reasons_P[0] == "") == admitted
    assert words in result.reasons_P[0]


def test_a_query_without_checks_is_not_gated():
    result = gate(["n", "n"], [0.1, 0.2], mask=[False])
    assert result.admit_P.tolist() == [True]
    assert not result.failed_PG.any()
    assert result.metrics["ungated_share"] == 1.0
    assert math.isnan(result.metrics["yes_share"])


def test_padding_checks_do_not_count():
    result = gate(["yn", "yn"], [0.1, 0.2], mask=[True, False])
    assert result.admit_P.tolist() == [True]
    assert result.metrics["no_share"] == 0.0


@pytest.mark.parametrize(
    ("part", "count", "want"),
    [(0.25, 16, 4), (0.25, 17, 5), (0.1, 30, 3), (0.07, 100, 7), (0.28, 25, 7), (0.55, 100, 55), (1.0, 7, 7)],
)
def test_a_portion_is_exact_where_floating_point_is_not(part, count, want):
    assert portion(part, count) == want


def test_floating_point_would_be_wrong():
    assert math.ceil(0.07 * 100) == 8
    assert math.ceil(0.28 * 25) == 8


def test_zero_keeps_the_group_in_the_loss_without_advantage():
    result = gate(["nn", "yn"], [0.2, 0.1], on_reject="zero")
    assert result.admit_P.tolist() == [True]
    assert result.zero_P.tolist() == [True]
    assert result.reasons_P[0]


def test_floor_takes_the_lowest_reward_before_flooring_and_only_from_those_that_fail():
    result = gate(["nn", "yy", "yn", "yy"], [0.9, 0.7, 0.5, 0.1], nu=0.6, on_reject="floor")
    torch.testing.assert_close(result.rewards.outcome_PG, torch.tensor([[0.1, 0.7, 0.1, 0.1]]))
    torch.testing.assert_close(result.rewards.parts["before_floor"], torch.tensor([[0.9, 0.7, 0.5, 0.1]]))
    assert result.failed_PG.tolist() == [[True, False, True, False]]
    assert result.admit_P.tolist() == [True]
    assert result.rejected_P.tolist() == [False]
    assert result.zero_P.tolist() == [False]
    assert result.reasons_P == [""]
    assert result.metrics["floored_share"] == 0.5
    assert result.metrics["consistency_rejected_share"] == 1.0  # what a group gate would have done


def test_floor_judges_by_known_checks_only():
    result = gate(["y??", "n??", "???", "yn?"], [0.9, 0.8, 0.7, 0.1], nu=0.6, on_reject="floor")
    assert result.failed_PG.tolist() == [[False, True, False, True]]
    torch.testing.assert_close(result.rewards.outcome_PG, torch.tensor([[0.9, 0.1, 0.7, 0.1]]))


def test_floor_leaves_a_nan_and_does_not_take_it_for_the_lowest():
    result = gate(["n", "y", "n"], [0.9, 0.4, NAN], on_reject="floor")
    torch.testing.assert_close(result.rewards.outcome_PG, torch.tensor([[0.4, 0.4, NAN]]), equal_nan=True)


def test_a_floored_rollout_loses_its_process_credit():
    process = [[1.0, 2.0, NAN], [3.0, NAN, 4.0]]
    kept = gate(["n", "y"], [0.9, 0.4], process=process, on_reject="floor").rewards
    assert kept.process_mask_PGC.tolist() == [[[False, False, False], [True, False, True]]]
    assert not kept.process_PGC[0, 0].any()
    assert kept.process_PGC[0, 1, 0] == 3.0
    untouched = gate(["n", "y"], [0.9, 0.4], process=process, on_reject="drop").rewards
    assert untouched.process_mask_PGC[0, 0].tolist() == [True, True, False]


def test_floor_of_a_group_in_which_all_fail_carries_no_signal():
    result = gate(["n", "n"], [0.9, 0.4], on_reject="floor")
    assert result.rewards.outcome_PG.unique().numel() == 1
    assert result.rejected_P.tolist() == result.zero_P.tolist() == [True]
    assert "every rollout" in result.reasons_P[0]


def test_floor_with_one_failing_rollout_and_no_other_reward_carries_no_signal():
    assert gate(["n", "y"], [0.9, NAN], on_reject="floor").rejected_P.tolist() == [True]


def test_drop_and_zero_leave_rewards_alone():
    for on_reject in ("drop", "zero"):
        result = gate(["n", "y"], [0.9, 0.4], on_reject=on_reject)
        torch.testing.assert_close(result.rewards.outcome_PG, torch.tensor([[0.9, 0.4]]))
        assert result.metrics["floored_share"] == 0.0


def test_verdict_shares_are_of_the_checks_asked():
    metrics = gate(["yn?", "y??"], [0.9, 0.4]).metrics
    assert [metrics[f"{name}_share"] for name in ("yes", "no", "unknown")] == pytest.approx([2 / 6, 1 / 6, 3 / 6])


# ------------------------------------------------------------------------------------------ independent implementation


def by_hand(verdicts, asked, outcome, mu, rho, nu):
    """(coverage holds, consistency holds, failing rollouts) of one group, from the sentences of the paper."""
    checks = [v for v, own in enumerate(asked) if own]
    covered = all(len([g for g in verdicts if g[v] == 1]) >= mu for v in checks)
    scorable = sorted((r for r in outcome if r == r), reverse=True)
    size = max(1, -(-Fraction(str(rho)) * len(outcome) // 1))
    border = scorable[min(int(size), len(scorable)) - 1] if scorable else None
    consistent, failing = True, []
    for row, reward in zip(verdicts, outcome, strict=True):
        yes, known = sum(row[v] == 1 for v in checks), sum(row[v] >= 0 for v in checks)
        failing.append(yes < Fraction(str(nu)) * known)
        if reward == reward and reward >= border and yes < Fraction(str(nu)) * len(checks):
            consistent = False
    return covered, consistent, failing


@st.composite
def groups(draw):
    rollouts, checks = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    cell = st.sampled_from([1, 1, 1, 0, -1])
    verdicts = draw(st.lists(st.lists(cell, min_size=checks, max_size=checks), min_size=rollouts, max_size=rollouts))
    asked = draw(st.lists(st.booleans(), min_size=checks, max_size=checks))
    outcome = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, NAN]), min_size=rollouts, max_size=rollouts))
    return verdicts, asked, outcome


@given(
    group=groups(),
    mu=st.integers(1, 3),
    rho=st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0]),
    nu=st.sampled_from([0.2, 0.5, 0.6, 0.7, 1.0]),
)
def test_the_gates_agree_with_an_independent_implementation(group, mu, rho, nu):
    verdicts, asked, outcome = group
    results = {
        on_reject: decide(
            torch.tensor([verdicts], dtype=torch.int8),
            torch.tensor([asked]),
            Rewards(outcome_PG=torch.tensor([outcome])),
            rules=Rules(mu=mu, rho=rho, nu=nu, on_reject=on_reject),
        )
        for on_reject in ("drop", "floor")
    }
    covered, consistent, failing = by_hand(verdicts, asked, outcome, mu, rho, nu)
    dropped = results["drop"]
    assert dropped.admit_P.item() == (covered and consistent)
    assert dropped.metrics["coverage_rejected_share"] == float(not covered)
    assert dropped.metrics["consistency_rejected_share"] == float(not consistent)
    assert dropped.failed_PG[0].tolist() == failing
    scorable = [r for r in outcome if r == r]
    want = [min(scorable) if fails and r == r else r for r, fails in zip(outcome, failing, strict=True)]
    assert results["floor"].rewards.outcome_PG[0].tolist() == pytest.approx(want, nan_ok=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mu": 0}, "gating.mu=0: must be a whole number of at least 1"),
        ({"mu": 0.5}, "gating.mu=0.5: must be a whole number"),
        ({"rho": 0}, "gating.rho=0: must be a share above 0 and at most 1"),
        ({"rho": 1.5}, "gating.rho=1.5"),
        ({"rho": True}, "gating.rho=True"),
        ({"nu": -0.1}, "gating.nu=-0.1"),
        ({"nu": "most"}, "gating.nu=most"),
        ({"nu": NAN}, "gating.nu=nan"),
        ({"on_reject": "keep"}, "gating.on_reject=keep: must be one of drop, zero, floor"),
        ({"patience": 0}, "gating.patience=0"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(change, words):
    good = {"mu": 1, "rho": 0.25, "nu": 0.6, "on_reject": "drop", "patience": 5}
    check_rules(**good)
    with pytest.raises(UserError) as error:
        check_rules(**(good | change))
    assert words in str(error.value)
