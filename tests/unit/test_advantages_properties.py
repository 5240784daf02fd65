"""Every estimator against plain loops over Python numbers, and what must not change its advantages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_lab.advantages.group_norm import group_norm
from dro_lab.advantages.leave_one_out import leave_one_out
from dro_lab.advantages.mean_baseline import mean_baseline
from dro_lab.advantages.reinforce_pp import reinforce_pp
from dro_lab.advantages.reinforce_pp_baseline import reinforce_pp_baseline
from dro_lab.types import Rewards

NAN = float("nan")
ALL = [group_norm, mean_baseline, leave_one_out, reinforce_pp, reinforce_pp_baseline]
BATCHWISE = (reinforce_pp, reinforce_pp_baseline)
SCALED = (group_norm, reinforce_pp)
"""Their process part is scaled too."""


# ------------------------------------------------------------------------------------------------ loops


def mean(numbers):
    return math.fsum(numbers) / len(numbers) if numbers else 0.0


def spread(numbers, center, floor=0.0):
    """Unbiased standard deviation, or the root of the mean square; ``floor`` is added to the variance."""
    middle = mean(numbers) if center else 0.0
    squares = math.fsum((x - middle) ** 2 for x in numbers)
    return math.sqrt(squares / max(1, len(numbers) - (1 if center else 0)) + floor)


def loop_outcome(name, case, p, g):
    own = case["outcome"][p][g]
    group = [x for x in case["outcome"][p] if x == x]
    if name == "group_norm":
        return (own - mean(group)) / (spread(group, True) + 1e-4)
    if name == "mean_baseline":
        return own - mean(group)
    if name == "leave_one_out":
        others = [x for h, x in enumerate(case["outcome"][p]) if h != g and x == x]
        return own - mean(others) if others else 0.0
    tokens = []
    for row, masks in zip(case["outcome"], case["loss"], strict=True):
        base = mean([x for x in row if x == x]) if name == "reinforce_pp_baseline" else 0.0
        for x, mask in zip(row, masks, strict=True):
            tokens += [x - base] * sum(mask) if x == x else []
    base = mean(group) if name == "reinforce_pp_baseline" else 0.0
    return (own - base - mean(tokens)) / spread(tokens, True, 1e-8)


def points_of(case, p, g):
    if case["outcome"][p][g] != case["outcome"][p][g]:
        return []
    return [x for x, scored in zip(case["process"][p][g], case["scored"][p][g], strict=True) if scored]


def loop_segment(name, case, p, g, raw):
    """r' of one scored point."""
    rollouts, center = range(len(case["outcome"][p])), case["center"]
    group = [x for h in rollouts for x in points_of(case, p, h)]
    if name == "reinforce_pp":
        batch = [x for q in range(len(case["outcome"])) for h in rollouts for x in points_of(case, q, h)]
        return (raw - (mean(batch) if center else 0.0)) / spread(batch, center, 1e-8)
    if name == "leave_one_out":
        others = [x for h in rollouts if h != g for x in points_of(case, p, h)]
        return raw if not center else raw - mean(others) if others else 0.0
    less = raw - (mean(group) if center else 0.0)
    return less / (spread(group, center) + 1e-6) if name == "group_norm" else less


def loop_token(name, case, p, g, t):
    if case["outcome"][p][g] != case["outcome"][p][g] or not case["keep"][p][g] or not case["loss"][p][g][t]:
        return 0.0
    credit = 0.0
    for later in range(t, len(case["loss"][p][g])):
        if case["scored"][p][g][later]:
            credit += loop_segment(name, case, p, g, case["process"][p][g][later])
    if case["corrected"] and credit:
        counts = [len(points_of(case, p, h)) for h in range(len(case["outcome"][p]))]
        credit *= mean([n for n in counts if n]) / counts[g]
    return loop_outcome(name, case, p, g) + case["alpha"] * credit


# ------------------------------------------------------------------------------------------------ cases

EIGHTHS = st.integers(-24, 24).map(lambda n: n / 8)
"""Exact in float32, and never so near each other that a small eps decides."""


@st.composite
def cases(draw, holes=True):
    prompts, rollouts, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def table(values, *shape):
        if not shape:
            return draw(values)
        return [table(values, *shape[1:]) for _ in range(shape[0])]

    outcomes = st.one_of(EIGHTHS, st.just(NAN)) if holes else EIGHTHS
    return {
        "outcome": table(outcomes, prompts, rollouts),
        "keep": table(st.booleans() if holes else st.just(True), prompts, rollouts),
        "loss": table(st.booleans() if holes else st.just(True), prompts, rollouts, width),
        "process": table(EIGHTHS, prompts, rollouts, width),
        "scored": table(st.booleans(), prompts, rollouts, width),
        "center": draw(st.booleans()),
        "corrected": draw(st.booleans()),
        "alpha": draw(st.sampled_from([0.1, 1.0])),
    }


def tensors(case, process=True):
    rewards = Rewards(outcome_PG=torch.tensor(case["outcome"], dtype=torch.float32))
    if process:
        rewards = replace(
            rewards,
            process_PGC=torch.tensor(case["process"], dtype=torch.float32),
            process_mask_PGC=torch.tensor(case["scored"]),
            process_weight=case["alpha"],
            process_center=case["center"],
            process_count_correction=case["corrected"],
        )
    return rewards, torch.tensor(case["keep"]), torch.tensor(case["loss"])


def close(got, want, tolerance=1e-4):
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_equals_loops(estimator, case):
    name = estimator.__name__
    got = estimator(*tensors(case))
    want = [
        [[loop_token(name, case, p, g, t) for t in range(len(mask))] for g, mask in enumerate(masks)]
        for p, masks in enumerate(case["loss"])
    ]
    close(got, torch.tensor(want, dtype=torch.float32))


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_without_process_rewards_it_is_the_same_with_credit_0(estimator, case):
    rewards, keep_PG, loss_mask_PGC = tensors(case)
    got = estimator(replace(rewards, process_weight=0.0), keep_PG, loss_mask_PGC)
    plain = estimator(*tensors(case, process=False))
    close(got, plain[..., None] * loss_mask_PGC, 1e-6)


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases(), data=st.data())
def test_rollouts_and_prompts_may_stand_in_any_order(estimator, case, data):
    rewards, keep_PG, loss_mask_PGC = tensors(case)
    prompts, rollouts = keep_PG.shape
    rows = torch.tensor(data.draw(st.permutations(range(prompts))))
    places = torch.tensor(data.draw(st.permutations(range(rollouts))))

    def moved(tensor):
        return tensor[rows][:, places]

    shuffled = replace(
        rewards,
        outcome_PG=moved(rewards.outcome_PG),
        process_PGC=moved(rewards.process_PGC),
        process_mask_PGC=moved(rewards.process_mask_PGC),
    )
    want = estimator(rewards, keep_PG, loss_mask_PGC)
    close(estimator(shuffled, moved(keep_PG), moved(loss_mask_PGC)), moved(want), 1e-5)


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases(), extra=st.integers(1, 4))
def test_padding_changes_nothing(estimator, case, extra):
    rewards, keep_PG, loss_mask_PGC = tensors(case)
    pad = torch.nn.functional.pad
    wider = replace(
        rewards,
        process_PGC=pad(rewards.process_PGC, (0, extra), value=7.0),
        process_mask_PGC=pad(rewards.process_mask_PGC, (0, extra)),
    )
    got = estimator(wider, keep_PG, pad(loss_mask_PGC, (0, extra)))
    want = estimator(rewards, keep_PG, loss_mask_PGC)
    close(got[..., :-extra], want, 1e-6)
    assert not got[..., -extra:].any()


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases(), factor=st.sampled_from([0.5, 4.0, 64.0]))
def test_scaling_outcomes_scales_or_leaves_them(estimator, case, factor):
    """Divided by a spread: unchanged up to eps. Not divided: scaled alike."""
    rewards, keep_PG, loss_mask_PGC = tensors(case, process=False)
    got = estimator(replace(rewards, outcome_PG=factor * rewards.outcome_PG), keep_PG, loss_mask_PGC)
    want = estimator(rewards, keep_PG, loss_mask_PGC)
    divided = estimator is group_norm or estimator in BATCHWISE
    close(got, want if divided else factor * want, 5e-3 if divided else 1e-5)


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases(), factor=st.sampled_from([0.5, 4.0, 64.0]))
def test_scaling_segment_rewards_scales_or_leaves_their_credit(estimator, case, factor):
    rewards, keep_PG, loss_mask_PGC = tensors(case)
    base = estimator(*tensors(case, process=False))[..., None] * loss_mask_PGC
    want = estimator(rewards, keep_PG, loss_mask_PGC) - base
    got = estimator(replace(rewards, process_PGC=factor * rewards.process_PGC), keep_PG, loss_mask_PGC) - base
    close(got, want if estimator in SCALED else factor * want, 1e-3)


@pytest.mark.parametrize("estimator", ALL)
@settings(max_examples=40, deadline=None)
@given(case=cases(), shift=st.sampled_from([-2.0, 0.5, 8.0]))
def test_shifting_outcomes_and_centred_segment_rewards_changes_nothing(estimator, case, shift):
    rewards, keep_PG, loss_mask_PGC = tensors(case | {"center": True})
    moved = replace(rewards, outcome_PG=rewards.outcome_PG + shift, process_PGC=rewards.process_PGC + shift)
    close(estimator(moved, keep_PG, loss_mask_PGC), estimator(rewards, keep_PG, loss_mask_PGC), 1e-4)


@settings(max_examples=60, deadline=None)
@given(case=cases(holes=False))
def test_leave_one_out_is_the_mean_baseline_times_g_over_g_less_1(case):
    rewards, keep_PG, loss_mask_PGC = tensors(case, process=False)
    group = keep_PG.shape[1]
    got = leave_one_out(rewards, keep_PG, loss_mask_PGC)
    close(got, group / max(1, group - 1) * mean_baseline(rewards, keep_PG, loss_mask_PGC), 1e-5)


@pytest.mark.parametrize("estimator", BATCHWISE)
@settings(max_examples=60, deadline=None)
@given(case=cases(holes=False))
def test_whitened_outcomes_have_mean_0_and_variance_1_over_the_tokens(estimator, case):
    rewards, keep_PG, loss_mask_PGC = tensors(case, process=False)
    tokens = (estimator(rewards, keep_PG, loss_mask_PGC)[..., None] * loss_mask_PGC).flatten()
    assert tokens.mean().item() == pytest.approx(0.0, abs=1e-5)
    if tokens.any():
        assert tokens.var().item() == pytest.approx(1.0, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(case=cases(holes=False))
def test_centred_credit_of_a_prompt_sums_to_0_at_its_first_token(case):
    """All of a rollout's r' are at or after its first token, and the prompt's r' sum to 0."""
    case |= {"center": True, "corrected": False}
    for estimator in (mean_baseline, group_norm):
        outcome = estimator(*tensors(case, process=False))
        sums = (estimator(*tensors(case))[..., 0] - outcome).sum(1)
        close(sums, torch.zeros_like(sums), 1e-4)
