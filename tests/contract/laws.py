"""The laws that every reward, gate, filter and advantage estimator obeys. Each takes a subject and asserts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dro_lab.types import Need
from tests.contract.steps import (
    LENGTHS,
    G,
    OnlyDeclared,
    P,
    Step,
    a_step,
    assert_same,
    axes,
    emptied,
    flat,
    reorder,
    widen,
    without_process,
)


@dataclass(frozen=True)
class Subject:
    """A component under test: how it is called on a step, and what it declares."""

    call: Callable[[Step], Any]
    needs: frozenset[Need] = frozenset()

    def __call__(self, step: Step) -> dict[str, Any]:
        return flat(self.call(step))


def every_axis_has_its_size(subject: Subject) -> None:
    step = a_step()
    sizes = {"P": P, "G": G, "C": step.loss_mask_PGC.shape[-1], "R": max(LENGTHS) + 1}
    for name, value in subject(step).items():
        if isinstance(value, Tensor):
            assert tuple(value.shape) == tuple(sizes[axis] for axis in axes(name)), name
        elif axes(name):
            assert len(value) == sizes[axes(name)[0]], name


def numbers_are_float32_and_the_rest_bool(subject: Subject) -> None:
    for name, value in subject(a_step()).items():
        if isinstance(value, Tensor):
            assert value.dtype in (torch.float32, torch.bool), name
            wants_bool = name.startswith(
                ("admit", "failed", "rejected", "zero", "keep", "rewards_process_mask", "process_mask")
            )
            assert (value.dtype is torch.bool) == wants_bool, name


def nothing_carries_a_gradient(subject: Subject) -> None:
    for name, value in subject(a_step()).items():
        assert not (isinstance(value, Tensor) and value.requires_grad), name


def _permuted(named: dict[str, Any], axis: str, order: list[int]) -> dict[str, Any]:
    out = dict(named)
    for name, value in named.items():
        if axis not in axes(name):
            continue
        if isinstance(value, Tensor):
            out[name] = value.index_select(axes(name).index(axis), torch.tensor(order))
        elif axes(name).index(axis) == 0:
            out[name] = [value[place] for place in order]
        else:  # a list by prompt of lists by rollout
            out[name] = [[of_prompt[place] for place in order] for of_prompt in value]
    return out


def permuting_rollouts_permutes_results(subject: Subject) -> None:
    step, order = a_step(), [3, 0, 4, 1, 2]
    assert_same(subject(reorder(step, "G", order)), _permuted(subject(step), "G", order))


def permuting_prompts_permutes_results(subject: Subject) -> None:
    step, order = a_step(), [2, 0, 1]
    assert_same(subject(reorder(step, "P", order)), _permuted(subject(step), "P", order))


def wider_padding_changes_nothing(subject: Subject) -> None:
    step = a_step()
    want = subject(step)
    for axis in "CRKV":
        got = subject(widen(step, axis))
        for name in got:
            if axis in axes(name):
                dimension = axes(name).index(axis)
                width = want[name].shape[dimension]
                assert not got[name].narrow(dimension, width, 3).any(), name
                got[name] = got[name].narrow(dimension, 0, width)
        assert_same(got, want)


def _never_infinite(named: dict[str, Any]) -> None:
    for name, value in named.items():
        if isinstance(value, Tensor | float):
            assert not torch.isinf(torch.as_tensor(value)).any(), name


def one_rollout_is_never_infinite(subject: Subject) -> None:
    _never_infinite(subject(reorder(a_step(), "G", [2])))


def identical_rollouts_are_treated_alike(subject: Subject) -> None:
    named = subject(reorder(a_step(), "G", [2] * G))
    _never_infinite(named)
    for name, value in named.items():
        if isinstance(value, Tensor) and axes(name).startswith("PG"):
            first = value[:, :1].expand_as(value)
            torch.testing.assert_close(value, first, atol=1e-6, rtol=1e-6, equal_nan=True, msg=name)


def an_empty_rollout_is_never_infinite_and_touches_no_other_group(subject: Subject) -> None:
    step = a_step()
    want, got = subject(step), subject(emptied(step, 0, 1))
    _never_infinite(got)
    for name, value in want.items():
        if isinstance(value, Tensor) and axes(name):
            torch.testing.assert_close(got[name][1:], value[1:], atol=1e-6, rtol=1e-6, equal_nan=True, msg=name)


def an_empty_rollout_is_never_infinite(subject: Subject) -> None:
    """All that can be asked of a method that looks at the whole batch."""
    _never_infinite(subject(emptied(a_step(), 0, 1)))


def a_fully_masked_step_is_never_infinite(subject: Subject) -> None:
    step = a_step()
    for p in range(P):
        for g in range(G):
            step = emptied(step, p, g)
    _never_infinite(subject(step))


def only_declared_needs_are_read(subject: Subject) -> None:
    step = a_step()
    subject(replace(step, stats=OnlyDeclared(step.stats, subject.needs)))


def inputs_are_left_unmodified(subject: Subject) -> None:
    step = a_step()
    before = copy.deepcopy(step)
    subject(step)
    for got, want in ((step.groups, before.groups), (step.stats, before.stats), (step.rewards, before.rewards)):
        assert_same(flat(got), flat(want), tolerance=0)
    assert torch.equal(step.keep_PG, before.keep_PG)
    assert torch.equal(step.loss_mask_PGC, before.loss_mask_PGC)


def the_same_step_gives_the_same_twice(subject: Subject) -> None:
    assert_same(subject(a_step()), subject(a_step()), tolerance=0)


LAWS = [
    every_axis_has_its_size,
    numbers_are_float32_and_the_rest_bool,
    nothing_carries_a_gradient,
    permuting_rollouts_permutes_results,
    permuting_prompts_permutes_results,
    wider_padding_changes_nothing,
    one_rollout_is_never_infinite,
    identical_rollouts_are_treated_alike,
    an_empty_rollout_is_never_infinite_and_touches_no_other_group,
    a_fully_masked_step_is_never_infinite,
    only_declared_needs_are_read,
    inputs_are_left_unmodified,
    the_same_step_gives_the_same_twice,
]


def laws_of(looks_at: str) -> list[Callable[[Subject], None]]:
    """The laws of a method that looks at a ``group`` at a time, or at the whole ``batch``."""
    if looks_at == "group":
        return LAWS
    alone = an_empty_rollout_is_never_infinite_and_touches_no_other_group
    return [an_empty_rollout_is_never_infinite if law is alone else law for law in LAWS]


# ------------------------------------------------------------------------------------------------ laws of one kind


def token_weights_are_shares_of_reference_tokens(subject: Subject) -> None:
    """Not negative, 0 off the reference, summing to 1 or (no signal) to 0."""
    step = a_step()
    weights_PR = subject(step).get("token_weights_PR")
    if weights_PR is None:
        return
    counted_PR = step.stats.reference_mask_PR | step.stats.reference_eos_PR
    assert (weights_PR >= 0).all()
    assert not weights_PR[~counted_PR].any()
    sums_P = weights_PR.sum(-1)
    assert torch.isclose(sums_P, sums_P.round(), atol=1e-5).all()
    assert (sums_P < 1.5).all()


def process_credit_lies_where_it_was_scored_inside_the_reasoning(subject: Subject) -> None:
    """Finite, 0 where the mask is False, and scored on reasoning tokens alone: none behind it, none on padding.

    With values that no model should give (an empty reference, nan, infinity) too.
    """
    step = a_step()
    spoilt = replace(step.stats, reference_mask_PR=step.stats.reference_mask_PR.clone())
    spoilt.reference_mask_PR[1] = False
    spoilt = replace(spoilt, prefix_logps_PGKR=step.stats.prefix_logps_PGKR.clone())
    spoilt.prefix_logps_PGKR[0, 1, 0, 0] = -torch.inf
    spoilt.prefix_logps_PGKR[2, 0, 0, 0] = torch.nan
    for case in (step, emptied(step, 0, 1), replace(step, stats=spoilt)):
        named = subject(case)
        process_PGC, mask_PGC = named.get("process_PGC"), named.get("process_mask_PGC")
        assert (process_PGC is None) == (mask_PGC is None)
        if process_PGC is None:
            return
        assert process_PGC.isfinite().all()
        assert mask_PGC.any()
        assert not process_PGC[~mask_PGC].any()
        assert not (mask_PGC & ~(case.groups.reasoning_mask_PGC & case.groups.completion_mask_PGC)).any()


def a_reason_stands_exactly_where_a_group_is_dropped(subject: Subject) -> None:
    named = subject(a_step())
    if "admit_P" in named:  # a gate may also leave a group in the loss and take its advantage
        kept_P = named["admit_P"] & ~named["zero_P"] if "zero_P" in named else named["admit_P"]
    else:
        kept_P = named["keep_PG"].any(-1)
    assert [reason == "" for reason in named["reasons_P"]] == kept_P.tolist()


def what_is_not_kept_or_not_scorable_gets_no_advantage(subject: Subject) -> None:
    step = a_step()
    outcome_PG = step.rewards.outcome_PG.clone()
    outcome_PG[0, 2] = torch.nan
    (result,) = subject(replace(step, rewards=replace(step.rewards, outcome_PG=outcome_PG))).values()
    assert result.isfinite().all()
    assert not result[~step.keep_PG].any()
    assert not result[0, 2].any()
    assert result[0].any()


def _credit(subject: Subject, step: Step) -> Tensor:
    """What process rewards add, by token of the loss."""
    (whole,) = subject(step).values()
    assert whole.ndim == 3
    (outcome_only,) = subject(replace(step, rewards=without_process(step.rewards))).values()
    assert outcome_only.ndim == 2
    return whole - outcome_only[..., None] * step.loss_mask_PGC


def process_credit_ends_with_the_last_scored_token(subject: Subject) -> None:
    """And reaches back to the first token."""
    step = a_step()
    later_PGC = step.rewards.process_mask_PGC.flip(-1).cumsum(-1).flip(-1) > 0
    credit_PGC = _credit(subject, step)
    assert not credit_PGC[~later_PGC].any()
    assert credit_PGC[0, :, 0].any()


def process_credit_grows_with_its_weight(subject: Subject) -> None:
    step = a_step()
    doubled = replace(step, rewards=replace(step.rewards, process_weight=2 * step.rewards.process_weight))
    assert_same({"PGC": _credit(subject, doubled)}, {"PGC": 2 * _credit(subject, step)})
    none = replace(step, rewards=replace(step.rewards, process_weight=0.0))
    assert not _credit(subject, none).any()


def tokens_outside_the_loss_get_no_advantage(subject: Subject) -> None:
    step = a_step()
    mask_PGC = step.loss_mask_PGC.clone()
    mask_PGC[:, 0, 5:] = mask_PGC[:, 1, 0] = False
    (result,) = subject(replace(step, loss_mask_PGC=mask_PGC)).values()
    assert not result[~mask_PGC].any()


def equal_outcomes_still_teach_by_their_process(subject: Subject) -> None:
    step = a_step()
    (result,) = subject(replace(step, rewards=replace(step.rewards, outcome_PG=torch.ones(P, G)))).values()
    assert result[0].any()
    assert not result[-1].any()  # no scored token either


def values_off_the_process_mask_are_not_read(subject: Subject) -> None:
    step = a_step()
    rubbish = step.rewards.process_PGC.masked_fill(~step.rewards.process_mask_PGC, torch.nan)
    assert_same(subject(replace(step, rewards=replace(step.rewards, process_PGC=rubbish))), subject(step), tolerance=0)
