"""What the probe recommends, on findings made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dro_lab.probe.advice import advise
from dro_lab.probe.findings import (
    CostFinding,
    FilterFinding,
    Findings,
    OmegaFinding,
    QualityFinding,
    RewardFinding,
    TokenFinding,
)
from dro_lab.probe.formula import relative_steps
from dro_lab.probe.measures import Interval


def held(value, width=0.04):
    return Interval(value=value, low=value - width, high=value + width, n=64)


def reward(name, rho=None, *, omega=None, over=None, **more):
    """A reward with a measured correlation, or one with a spread over its floor."""
    title = name if omega is None else f"{name} (omega {omega:g})"
    if rho is not None:
        more = {"rho": held(rho), "steps": float(relative_steps(rho / 0.97, g=2.1)), **more}
    if over is not None:
        reliability = math.sqrt(1 - over**-2) if over > 1 else 0.0
        steps = float(relative_steps(reliability, g=2.1))
        more = {"over_floor": held(over), "reliability": reliability, "steps": steps, **more}
    return RewardFinding(name=name, title=title, omega=omega, zero_signal=0.0, **more)


def omega(value, rho):
    steps = float(relative_steps(rho / 0.97, g=2.1))
    return OmegaFinding(
        omega=value,
        rho=held(rho),
        rho_formula=rho,
        steps=steps,
        steps_formula=steps,
        effective_tokens=50.0 / (1 + value),
        over_floor=None,
    )


LABELLED = QualityFinding(name="facts_right", note="quality is facts_right", mean=0.4, varied=1.0, oracle=0.97)
UNLABELLED = QualityFinding(name="", note="no quality label", mean=None, varied=None, oracle=None)


def findings(*rewards, quality=LABELLED, **more):
    made = Findings(
        setting={"dataset": "pararev", "overrides": ["dataset.twin.preset=mild", "filtering=r3_variance"]},
        quality=quality,
        rewards=rewards,
        omegas=[omega(0.0, 0.2), omega(2.0, 0.93), omega(4.0, 0.95)],
        omega_measured=2.0,
        omega_formula=4.0,
        formula_notes=(),
        tokens=TokenFinding(
            known=True,
            source="known",
            tokens=56.0,
            reflective=3.0,
            share=0.05,
            positions=(0.5,),
            sigma_r=0.45,
            sigma_n=0.07,
            s_r=1.0,
            s_n=3.5,
            coherence=6.0,
            together=0.5,
            shrink=0.8,
            threshold_precision=1.0,
            threshold_recall=1.0,
        ),
        filter=FilterFinding(
            name="r3_variance",
            configured=True,
            tau=0.2,
            kept=[True] * 3 + [False],
            sigma_bars=[0.3, 0.3, 0.3, 0.1],
            varied_kept=1.0,
            varied_dropped=1.0,
        ),
        gate="",
        cost=CostFinding(
            sampling_seconds=10.0,
            scoring_seconds=5.0,
            judging_seconds=0.0,
            completion_tokens=80_000.0,
            reasoning_tokens=22.0,
            truncated=0.0,
            malformed=0.0,
        ),
        top_tokens=(),
        queries=[{}] * 64,
        g=2.1,
        prompts=4,
    )
    return replace(made, **more)


def texts(advice, topic):
    return [point.text for point in advice.points if point.topic == topic]


# ------------------------------------------------------------------------------------------------ which reward


def test_the_reward_with_the_fewest_predicted_steps_is_recommended_with_its_omega():
    advice = advise(findings(reward("r3", 0.93, omega=4), reward("avg_prob", 0.2), reward("avg_logprob", 0.5)))
    assert advice.headline == "Train with r3 (omega 2)."
    assert (advice.reward, advice.omega) == ("r3", 2.0)
    assert "No simpler one" in texts(advice, "reward")[0]
    assert advice.command == "python -m dro_lab.run dataset=pararev reward=r3 reward.omega=2 dataset.twin.preset=mild"
    evidence = advice.points[0].evidence
    assert "avg_prob rho 0.20 [0.16, 0.24]" in evidence


def test_the_simpler_of_two_that_are_as_good_is_taken_and_named():
    advice = advise(findings(reward("r3", 0.95, omega=2), reward("avg_logprob", 0.90), reward("avg_prob", 0.2)))
    assert advice.reward == "avg_logprob"
    assert advice.omega is None
    assert "avg_logprob is as good as r3 (omega 2): take the simpler" in texts(advice, "reward")[0]


def test_the_label_itself_is_the_ceiling_and_no_rival():
    advice = advise(findings(reward("verifier", 0.97, is_label=True), reward("r3", 0.93, omega=2)))
    assert advice.reward == "r3"
    assert any("verifier is the quality itself" in text for text in texts(advice, "reward"))


def test_rewards_that_the_queries_do_not_tell_apart_are_named():
    near = reward("avg_logprob", 0.60, behind=Interval(value=0.13, low=-0.01, high=0.3, n=64))
    far = reward("avg_prob", 0.2, behind=held(0.7))
    advice = advise(findings(reward("r3", 0.93, omega=2, behind=held(0.0, 0.0)), near, far))
    assert advice.reward == "r3"
    assert texts(advice, "warning")[0].startswith("These queries do not tell r3 (omega 2) apart from avg_logprob: ")
    assert advice.points[1].evidence.endswith("on the same queries: avg_logprob 0.13 [-0.01, 0.30]")
    alone = reward("avg_logprob", 0.60, behind=Interval(value=0.13, low=math.nan, high=math.nan, n=1))
    assert "apart from avg_logprob" in texts(advise(findings(reward("r3", 0.93, omega=2), alone)), "warning")[0]
    clear = advise(findings(reward("r3", 0.93, omega=2), far))
    assert texts(clear, "warning") == []


def test_without_a_label_overlapping_intervals_are_not_told_apart():
    rivals = reward("r3", omega=2, over=2.0), reward("avg_logprob", over=1.95), reward("avg_prob", over=1.5)
    advice = advise(findings(*rivals, quality=UNLABELLED))
    assert "apart from avg_logprob:" in texts(advice, "warning")[0]


def test_where_a_verifier_is_at_hand_the_headline_says_so():
    advice = advise(findings(reward("r3", 0.93, omega=2), reward("verifier", 0.97, is_label=True)))
    said = "Train with r3 (omega 2), unless every training row can be checked: then with verifier."
    assert advice.headline == said


def test_a_policy_that_the_clip_band_blinds_is_warned_of():
    few = [replace(omega(0.0, 0.2), effective_tokens=1.0), omega(2.0, 0.93)]
    advice = advise(findings(reward("r3", 0.93, omega=2), omegas=few))
    assert any("R3 hardly sees the reference here" in text for text in texts(advice, "warning"))
    shown = next(point.evidence for point in advice.points if "hardly sees" in point.text)
    assert shown == "1.00 of 56.0 reference tokens carry weight at omega 0"
    none = [replace(omega(0.0, 0.2), effective_tokens=math.nan), omega(2.0, 0.93)]
    assert "hardly sees" in " ".join(texts(advise(findings(reward("r3", 0.93, omega=2), omegas=none)), "warning"))


def test_no_reward_has_signal():
    advice = advise(findings(reward("r3", 0.02, omega=2), reward("avg_prob", -0.1)))
    assert advice.headline == "No reward has signal here."
    assert (advice.reward, advice.command) == (None, None)
    assert "r3 (omega 2) 0.02 [-0.02, 0.06]" in advice.points[0].evidence


def test_a_poor_best_is_said():
    advice = advise(findings(reward("r3", 0.2, omega=2)))
    assert advice.reward == "r3"
    assert any("ranks rollouts poorly" in text for text in texts(advice, "warning"))


def test_quality_that_never_varies_teaches_nothing():
    quality = replace(LABELLED, mean=0.0, varied=0.0, oracle=math.nan)
    advice = advise(findings(reward("r3", omega=2), quality=quality))
    assert "Nothing can be learnt here" in advice.headline
    assert advice.reward is None
    judged = advise(findings(reward("r3", omega=2), quality=replace(quality, name="judge=policy")))
    assert judged.headline == "Nothing can be told here: judge=policy finds all rollouts of a query equally good."
    rivals = reward("r3", omega=2, over=2.0), reward("avg_prob", over=1.0)
    assert texts(advise(findings(*rivals, quality=quality)), "reward")[1].endswith("beyond chance: r3 (omega 2).")


# ------------------------------------------------------------------------------------------------ without a label


def test_without_a_label_the_spread_over_the_floor_decides_and_the_caution_is_said():
    advice = advise(findings(reward("r3", omega=2, over=2.0), reward("avg_prob", over=1.1), quality=UNLABELLED))
    assert advice.reward == "r3"
    assert "as far as can be told without a quality label" in advice.headline
    assert any("not that it ranks rollouts" in text for text in texts(advice, "warning"))
    assert "1.10 [1.06, 1.14] times its floor" in advice.points[0].evidence


def test_rewards_at_their_floor_are_chance():
    advice = advise(findings(reward("r3", omega=2, over=1.02), reward("avg_prob", over=0.9), quality=UNLABELLED))
    assert advice.headline == "No reward stands above its noise floor here."
    assert advice.reward is None


def test_with_neither_label_nor_floor_nothing_is_ranked():
    advice = advise(findings(reward("r3", omega=2), quality=UNLABELLED))
    assert "Nothing ranks the rewards" in advice.headline


# ------------------------------------------------------------------------------------------------ filter and gate


@pytest.mark.parametrize(
    ("kept", "dropped", "words", "used"),
    [
        (1.0, 1.0, "Leave the filter out", False),
        (1.0, 0.3, "A filter is worth it: filtering=r3_variance filtering.tau=0.200", True),
        (None, None, "Some queries hardly react", True),
    ],
)
def test_the_filter_is_judged_by_what_it_would_drop(kept, dropped, words, used):
    found = findings(reward("r3", 0.93, omega=2))
    bars = [0.3, 0.3, 0.3, 0.01]
    changed = replace(found.filter, varied_kept=kept, varied_dropped=dropped, sigma_bars=bars)
    advice = advise(replace(found, filter=changed))
    assert words in texts(advice, "filter")[0]
    assert ("filtering=r3_variance" in advice.command) == used


def test_a_filter_that_the_run_does_not_have_joins_the_command_where_it_is_worth_it():
    found = findings(reward("r3", 0.93, omega=2))
    changed = replace(found.filter, configured=False, varied_dropped=0.1)
    setting = {"dataset": "pararev", "overrides": ["dataset.sizes={train: 8}"]}
    advice = advise(replace(found, filter=changed, setting=setting))
    assert "'dataset.sizes={train: 8}'" in advice.command, "a shell would take it apart"
    assert advice.command.endswith("filtering=r3_variance filtering.tau=0.200")


@pytest.mark.parametrize(
    ("share", "words"), [(0.95, "would starve"), (0.6, "rejects most groups"), (0.1, "admits 90% of the groups")]
)
def test_the_gate_is_judged_by_what_it_rejects_under_the_recommended_reward(share, words):
    rivals = reward("r3", 0.93, omega=2, gate_rejected=share), reward("avg_prob", 0.2, gate_rejected=0.5)
    advice = advise(findings(*rivals, gate="rubric"))
    assert words in texts(advice, "gate")[0]
    assert "avg_prob 50%" in next(point.evidence for point in advice.points if point.topic == "gate")


def test_without_a_gate_nothing_is_said_of_it():
    assert texts(advise(findings(reward("r3", 0.93, omega=2))), "gate") == []


def test_notes_on_the_formula_are_passed_on():
    advice = advise(findings(reward("r3", 0.93, omega=2), formula_notes=["they are independent sub-answers"]))
    assert any(point.evidence == "they are independent sub-answers" for point in advice.points)


def test_few_queries_and_cut_completions_are_warned_of():
    found = findings(reward("r3", 0.93, omega=2), queries=[{}] * 4)
    advice = advise(replace(found, cost=replace(found.cost, truncated=0.4)))
    warnings = " ".join(texts(advice, "warning"))
    assert advice.points[0].text.startswith("Few queries"), "what weakens all the rest comes first"
    assert "cut off" in warnings
