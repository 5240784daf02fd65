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
from tests.contract.steps import a_step, emptied

CONF = Path(__file__).parents[2] / "conf"

CALLS = {
    "reward": lambda part: lambda step: part(step.groups, step.stats),
    "gating": lambda part: lambda step: part(step.groups, step.stats, step.rewards),
    "filtering": lambda part: lambda step: part.remember(step.groups, step.stats, step.rewards, state=None)[0],
    "advantage": lambda part: lambda step: part(step.rewards, step.keep_PG, step.loss_mask_PGC),
}
EXTRA = {
    "reward": [laws.token_weights_are_shares_of_reference_tokens],
    "gating": [laws.a_reason_stands_exactly_where_a_group_is_dropped],
    "filtering": [laws.a_reason_stands_exactly_where_a_group_is_dropped],
    "advantage": [laws.what_is_not_kept_or_not_scorable_gets_no_advantage],
}
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


CASES = [(shipped, law) for shipped in SHIPPED for law in [*LAWS, *EXTRA[shipped[0]]]]


@pytest.mark.parametrize(("shipped", "law"), CASES, ids=[f"{_id(s)}-{_id(law)}" for s, law in CASES])
def test_shipped_component_obeys(shipped, law):
    law(subject_of(*shipped))


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
]


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
    assert {("reward", "r3"), ("gating", "none"), ("filtering", "none"), ("advantage", "group_norm")} <= set(SHIPPED)


@pytest.mark.parametrize("name", ["r3", "r3_v1", "avg_prob", "avg_logprob", "seq_prob", "verifier"])
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


def spoil_inputs(step):
    step.stats.reference_logps_PGR.mul_(0.5)
    return honest(step)


def reads_verdicts(step):
    return Rewards(outcome_PG=step.stats.verifier_PG)


def kept(keep_PG, reasons_P):
    return lambda step: FilterResult(keep_PG=keep_PG(step), reasons_P=reasons_P)


def places(step):
    return torch.arange(step.groups.shape[1]).float()


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
]


@pytest.mark.parametrize(("law", "broken"), BROKEN, ids=[f"{n}-{_id(law)}" for n, (law, _) in enumerate(BROKEN)])
def test_law_fails_on_a_broken_component(law, broken):
    with pytest.raises(AssertionError):
        law(Subject(broken, REFERENCE_NEED))


@pytest.mark.parametrize("law", [*LAWS, *EXTRA["reward"]])
def test_law_holds_for_an_honest_component(law):
    law(Subject(honest, REFERENCE_NEED))


def test_every_law_was_shown_to_fail():
    every = {*LAWS, *itertools.chain.from_iterable(EXTRA.values())}
    assert every == {law for law, _ in BROKEN}
