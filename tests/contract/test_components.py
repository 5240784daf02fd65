"""Every component that `conf/` ships, under the laws of its kind; and every law, shown to fail once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dro_lab.build import without_refill
from dro_lab.components import REFERENCE_NEED, component
from dro_lab.data.__main__ import compose
from dro_lab.types import FilterResult, GateResult, Rewards
from tests.contract import laws
from tests.contract.laws import LAWS, Subject
from tests.contract.steps import a_step, emptied, without_process

CONF = Path(__file__).parents[2] / "conf"

CALLS = {
    "reward": lambda part: lambda step: part(step.groups, step.stats),
    "gating": lambda part: lambda step: part(step.groups, step.stats, step.rewards),
    "filtering": lambda part: lambda step: part.remember(step.groups, step.stats, step.rewards, state=None)[0],
    "advantage": lambda part: lambda step: part(step.rewards, step.keep_PG, step.loss_mask_PGC),
}
EXTRA = {
    "reward": [
        laws.token_weights_are_shares_of_reference_tokens,
        laws.process_credit_lies_where_it_was_scored_inside_the_reasoning,
    ],
    "gating": [laws.a_reason_stands_exactly_where_a_group_is_dropped],
    "filtering": [laws.a_reason_stands_exactly_where_a_group_is_dropped],
    "advantage": [
        laws.what_is_not_kept_or_not_scorable_gets_no_advantage,
        laws.process_credit_ends_with_the_last_scored_token,
        laws.process_credit_grows_with_its_weight,
        laws.tokens_outside_the_loss_get_no_advantage,
        laws.equal_outcomes_still_teach_by_their_process,
        laws.values_off_the_process_mask_are_not_read,
    ],
}
LOOKS_AT_THE_BATCH = {("advantage", "reinforce_pp"), ("advantage", "reinforce_pp_baseline")}
SHIPPED = [(group, path.stem) for group in CALLS for path in sorted((CONF / group).glob("*.yaml"))]


@cache
def chosen(group: str, name: str):
    """The group's node; composed by Hydra where its yaml is made of others."""
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    if "defaults" in node:
        node = OmegaConf.create(OmegaConf.to_container(compose([f"{group}={name}"])[group], resolve=True))
    return node


def subject_of(group: str, name: str, **changes) -> Subject:
    node = OmegaConf.merge(chosen(group, name), changes)
    default = REFERENCE_NEED if group == "reward" else frozenset()
    node = without_refill(node) if group == "filtering" else node  # keys that the trainer reads
    part = component(group, node, name=name, default_needs=default)
    return Subject(CALLS[group](part), part.needs)


def _id(value) -> str:
    return value.__name__ if callable(value) else "-".join(value)


def laws_of(shipped):
    return [*laws.laws_of("batch" if shipped in LOOKS_AT_THE_BATCH else "group"), *EXTRA[shipped[0]]]


CASES = [(shipped, law) for shipped in SHIPPED for law in laws_of(shipped)]


@pytest.mark.parametrize(("shipped", "law"), CASES, ids=[f"{_id(s)}-{_id(law)}" for s, law in CASES])
def test_shipped_component_obeys(shipped, law):
    law(subject_of(*shipped))


OUTCOMES_ALONE = [
    (name, law)
    for group, name in SHIPPED
    if group == "advantage"
    for law in laws_of((group, name))
    if law not in EXTRA["advantage"][1:]
]


@pytest.mark.parametrize(("name", "law"), OUTCOMES_ALONE)
def test_shipped_estimator_obeys_without_process_rewards(name, law):
    whole = subject_of("advantage", name)
    law(Subject(lambda step: whole.call(replace(step, rewards=without_process(step.rewards)))))


ADVANTAGE_VARIANTS = [{"process_center": False}, {"process_count_correction": True}]
ESTIMATORS = [name for group, name in SHIPPED if group == "advantage"]


@pytest.mark.parametrize("changes", ADVANTAGE_VARIANTS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_obeys_whatever_the_reward_asks_for(name, changes):
    whole = subject_of("advantage", name)
    for law in laws_of(("advantage", name)):
        law(Subject(lambda step: whole.call(replace(step, rewards=replace(step.rewards, **changes)))))


VARIANTS = [
    {"weighting": "exp"},
    {"sigma_on": "raw"},
    {"omega": 0.0},
    {"omega": 32.0},
    {"clip_low": 0.0, "clip_high": 1.0},
    {"include_eos": True},
]


@pytest.mark.parametrize(("changes", "law"), itertools.product(VARIANTS, [*LAWS, *EXTRA["reward"]]))
def test_every_variant_of_r3_obeys(changes, law):
    law(subject_of("reward", "r3", **changes))


REWARD_VARIANTS = [
    ("r3_v1", {"masked_baseline": False}),
    ("r3_v1", {"masked_baseline": False, "self_influence": True, "reflective_share": 0.3, "include_eos": True}),
    ("r3_v1", {"length_beta": 0.5, "weighting": "exp", "omega": 4.0}),
    ("rouge", {"stemmer": True}),
    ("mix", {"normalise": "group"}),
    ("mix", {"parts": {"v": {"weight": -0.5, "reward": {"_target_": "dro_lab.rewards.verifier.verifier"}}}}),
    ("repro", {"w": 0.6, "alpha": 1.0, "ema": 0.3, "center": False, "count_correction": True}),
    ("repro", {"score_at": "end", "segment_on": "line", "close_prefix": True, "k": 2, "baseline_floor": 3.0}),
    ("repro_magnitude", {"alpha": 0.0}),
]
OUTCOMES = sorted({name for group, name in SHIPPED if group == "reward" and not name.startswith("repro")})


@pytest.mark.parametrize(("outcome", "law"), itertools.product(OUTCOMES, [*LAWS, *EXTRA["reward"]]))
def test_repro_obeys_whatever_its_outcome_is(outcome, law):
    """The outcome takes the verifier's place, as `reward@reward.outcome=OUTCOME` puts it there."""
    node = OmegaConf.create({**chosen("reward", "repro"), "outcome": chosen("reward", outcome)})
    part = component("reward", node, name="repro", default_needs=REFERENCE_NEED)
    assert part.needs > component("reward", chosen("reward", outcome), name=outcome).needs
    law(Subject(CALLS["reward"](part), part.needs))


@pytest.mark.parametrize(("variant", "law"), itertools.product(REWARD_VARIANTS, [*LAWS, *EXTRA["reward"]]))
def test_every_variant_of_a_reward_obeys(variant, law):
    name, changes = variant
    law(subject_of("reward", name, **changes))


FILTER_VARIANTS = [
    ("r3_variance", {"tau": 0.3}),
    ("r3_variance", {"tau": 0.2, "sigma_on": "raw", "include_eos": True, "top_share": 1.0}),
    ("rank", {"top_k": 33, "worst_share": 0.2}),
]


@pytest.mark.parametrize(("variant", "law"), itertools.product(FILTER_VARIANTS, [*LAWS, *EXTRA["filtering"]]))
def test_every_variant_of_a_filter_obeys(variant, law):
    name, changes = variant
    law(subject_of("filtering", name, **changes))


GATE_VARIANTS = [
    ("rubric", {"on_reject": "zero"}),
    ("rubric", {"on_reject": "floor", "nu": 0.9}),
    ("rubric", {"mu": 2, "rho": 0.5}),
    ("schema", {"nu": 0.6, "on_reject": "floor"}),
]


@pytest.mark.parametrize(("variant", "law"), itertools.product(GATE_VARIANTS, [*LAWS, *EXTRA["gating"]]))
def test_every_variant_of_a_gate_obeys(variant, law):
    name, changes = variant
    law(subject_of("gating", name, **changes))


def test_conf_is_discovered():
    assert {("reward", "r3"), ("gating", "none"), ("filtering", "none")} <= set(SHIPPED)
    assert set(ESTIMATORS) == {
        "group_norm", "mean_baseline", "leave_one_out", "reinforce_pp", "reinforce_pp_baseline",
    }  # fmt: skip
    assert set(SHIPPED) >= LOOKS_AT_THE_BATCH


@pytest.mark.parametrize("name", ["r3", "r3_v1", "avg_prob", "avg_logprob", "seq_prob", "verifier", "repro"])
def test_rewards_of_tokens_and_verdicts_ignore_masks_as_documented(name):
    step = a_step()
    subject = subject_of("reward", name)
    assert torch.equal(subject(step)["outcome_PG"], subject(emptied(step, 0, 1))["outcome_PG"])


# ------------------------------------------------------------------------------------------------ each law fails once


def honest(step):
    """A reward that obeys every law."""
    mask_P1R = step.stats.reference_mask_PR[:, None]
    probs_PGR = step.stats.reference_logps_PGR.exp().where(mask_P1R, 0.0)
    return Rewards(outcome_PG=probs_PGR.sum(-1) / mask_P1R.sum(-1))


def with_outcome(change):
    return lambda step: Rewards(outcome_PG=change(step, honest(step).outcome_PG))


def with_process(change, mask=lambda step: step.groups.reasoning_mask_PGC):
    """The honest reward, and process credit that ``change`` gives."""

    def reward(step):
        process_PGC = change(step, torch.ones(step.groups.completion_mask_PGC.shape))
        return replace(honest(step), process_PGC=process_PGC, process_mask_PGC=mask(step))

    return reward


def spoil_inputs(step):
    step.stats.reference_logps_PGR.mul_(0.5)
    return honest(step)


def reads_verdicts(step):
    return Rewards(outcome_PG=step.stats.verifier_PG)


def kept(keep_PG, reasons_P):
    return lambda step: FilterResult(keep_PG=keep_PG(step), reasons_P=reasons_P)


def places(step):
    return torch.arange(step.groups.shape[1]).float()


def estimate(credit):
    """An estimator whose process part is ``credit`` of the weighted segment rewards."""

    def estimator(step):
        rewards = step.rewards
        outcome_PG = rewards.outcome_PG - rewards.outcome_PG.mean(1, keepdim=True)
        if rewards.process_PGC is None:
            return outcome_PG
        return outcome_PG[..., None] + credit(step, rewards.process_weight * rewards.process_PGC)

    return estimator


COUNTER = itertools.count()

BROKEN = [
    (laws.every_axis_has_its_size, with_outcome(lambda step, r: r.mean(1))),
    (laws.every_axis_has_its_size, kept(lambda step: step.keep_PG, [""])),
    (laws.numbers_are_float32_and_the_rest_bool, with_outcome(lambda step, r: r.double())),
    (laws.numbers_are_float32_and_the_rest_bool, kept(lambda step: step.keep_PG.float(), [""] * 3)),
    (laws.nothing_carries_a_gradient, with_outcome(lambda step, r: r.requires_grad_())),
    (laws.permuting_rollouts_permutes_results, with_outcome(lambda step, r: r + places(step))),
    (laws.permuting_prompts_permutes_results, with_outcome(lambda step, r: r - r[:1])),
    (
        laws.wider_padding_changes_nothing,
        with_outcome(lambda step, r: step.stats.reference_logps_PGR.exp().mean(-1)),  # padding counts
    ),
    (
        laws.wider_padding_changes_nothing,
        with_outcome(lambda step, r: step.groups.completion_mask_PGC.float().mean(-1)),
    ),
    (laws.one_rollout_is_never_infinite, with_outcome(lambda step, r: 1 / r.std(1, correction=0)[:, None] + r)),
    (laws.identical_rollouts_are_treated_alike, with_outcome(lambda step, r: r + places(step))),
    (
        laws.an_empty_rollout_is_never_infinite_and_touches_no_other_group,
        with_outcome(lambda step, r: r / step.groups.completion_mask_PGC.sum(-1)),
    ),
    (
        laws.an_empty_rollout_is_never_infinite_and_touches_no_other_group,
        with_outcome(lambda step, r: r - step.groups.reasoning_mask_PGC.float().mean()),
    ),
    (
        laws.an_empty_rollout_is_never_infinite,
        with_outcome(lambda step, r: r / step.groups.completion_mask_PGC.sum(-1)),
    ),
    (
        laws.a_fully_masked_step_is_never_infinite,
        with_outcome(lambda step, r: r / step.groups.completion_mask_PGC.any().float()),
    ),
    (laws.only_declared_needs_are_read, reads_verdicts),
    (laws.inputs_are_left_unmodified, spoil_inputs),
    (laws.the_same_step_gives_the_same_twice, with_outcome(lambda step, r: r + next(COUNTER))),
    (
        laws.token_weights_are_shares_of_reference_tokens,
        lambda step: replace(honest(step), token_weights_PR=torch.full((3, 13), 0.5)),
    ),
    (
        laws.wider_padding_changes_nothing,
        with_outcome(lambda step, r: r + step.stats.prefix_logps_PGKR.mean((-1, -2))),  # masked prefixes count
    ),
    *(
        (laws.process_credit_lies_where_it_was_scored_inside_the_reasoning, broken)
        for broken in (
            with_process(lambda step, ones: ones),  # credit behind the reasoning
            with_process(lambda step, ones: ones, lambda step: step.groups.completion_mask_PGC),
            with_process(  # a reference without tokens
                lambda step, ones: (
                    ones.where(step.groups.reasoning_mask_PGC, 0.0)
                    / step.stats.reference_mask_PR.any(-1)[:, None, None].float()
                )
            ),
            with_process(  # nan of the model
                lambda step, ones: (
                    step.stats.prefix_logps_PGKR[:, :, 0, :1].exp().where(step.groups.reasoning_mask_PGC, 0.0)
                )
            ),
            lambda step: replace(honest(step), process_PGC=torch.zeros(step.groups.completion_mask_PGC.shape)),
        )
    ),
    (
        laws.a_reason_stands_exactly_where_a_group_is_dropped,
        kept(lambda step: step.keep_PG, ["", "", ""]),
    ),
    (
        laws.a_reason_stands_exactly_where_a_group_is_dropped,
        lambda step: GateResult(
            admit_P=torch.ones(3, dtype=torch.bool),
            failed_PG=torch.zeros(3, 5, dtype=torch.bool),
            rewards=step.rewards,
            reasons_P=["", "coverage", ""],
        ),
    ),
    (
        laws.a_reason_stands_exactly_where_a_group_is_dropped,
        lambda step: GateResult(
            admit_P=torch.ones(3, dtype=torch.bool),
            failed_PG=torch.zeros(3, 5, dtype=torch.bool),
            rewards=step.rewards,
            reasons_P=["", "", ""],  # a group without advantage, and without a reason
            zero_P=torch.tensor([False, True, False]),
        ),
    ),
    (
        laws.what_is_not_kept_or_not_scorable_gets_no_advantage,
        lambda step: step.rewards.outcome_PG.nan_to_num(0.0),  # forgets what was dropped
    ),
    (
        laws.what_is_not_kept_or_not_scorable_gets_no_advantage,
        lambda step: step.rewards.outcome_PG.where(step.keep_PG, 0.0),  # lets nan through
    ),
    (
        laws.process_credit_ends_with_the_last_scored_token,
        estimate(lambda step, credit_PGC: credit_PGC.sum(-1, keepdim=True)),  # on the answer too
    ),
    (
        laws.process_credit_ends_with_the_last_scored_token,
        estimate(lambda step, credit_PGC: credit_PGC),  # on the scored tokens alone: none before the first
    ),
    (laws.process_credit_ends_with_the_last_scored_token, lambda step: step.rewards.outcome_PG),
    (
        laws.process_credit_grows_with_its_weight,
        estimate(lambda step, credit_PGC: credit_PGC / step.rewards.process_weight),  # which it is then without
    ),
    (
        laws.tokens_outside_the_loss_get_no_advantage,
        estimate(lambda step, credit_PGC: torch.ones_like(credit_PGC)),
    ),
    (
        laws.equal_outcomes_still_teach_by_their_process,
        estimate(lambda step, credit_PGC: credit_PGC * step.rewards.outcome_PG.std(1)[:, None, None]),
    ),
    (
        laws.values_off_the_process_mask_are_not_read,
        lambda step: step.rewards.process_PGC.cumsum(-1),
    ),
]


@pytest.mark.parametrize(("law", "broken"), BROKEN, ids=[f"{n}-{_id(law)}" for n, (law, _) in enumerate(BROKEN)])
def test_law_fails_on_a_broken_component(law, broken):
    with pytest.raises(AssertionError):
        law(Subject(broken, REFERENCE_NEED))


@pytest.mark.parametrize("law", [*LAWS, *EXTRA["reward"]])
def test_law_holds_for_an_honest_component(law):
    law(Subject(honest, REFERENCE_NEED))


def test_every_law_was_shown_to_fail():
    every = {*LAWS, *laws.laws_of("batch"), *itertools.chain.from_iterable(EXTRA.values())}
    assert every == {law for law, _ in BROKEN}
