"""The order of the pipeline, and which tokens an outcome teaches, on literal tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dro_lab.components import Component
from dro_lab.errors import UserError
from dro_lab.filtering.none import none as no_filter
from dro_lab.gating.none import none as no_gate
from dro_lab.pipeline import Pipeline, step_metrics
from dro_lab.types import FilterResult, GateResult, Rewards, RolloutGroups, TokenStats
from tests.lab_fixture import component, group_norm

REASONING = torch.tensor(
    [
        [[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]],  # <think> r r </think> a a   <think> r </think> a a .
        [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],  # no reasoning                never closed
    ],
    dtype=torch.bool,
)


def groups() -> RolloutGroups:
    return RolloutGroups(
        prompts_P=[[{"role": "user", "content": str(p)}] for p in range(2)],
        references_P=["x", "y"],
        completions_PG=[["c"] * 2] * 2,
        reasonings_PG=[["r"] * 2] * 2,
        answers_PG=[["a"] * 2] * 2,
        truncated_PG=torch.zeros(2, 2, dtype=torch.bool),
        malformed_PG=torch.zeros(2, 2, dtype=torch.bool),
        completion_ids_PGC=torch.zeros(2, 2, 6, dtype=torch.int64),
        completion_mask_PGC=torch.ones(2, 2, 6, dtype=torch.bool),
        reasoning_mask_PGC=REASONING,
        columns_P=[{"id": "0"}, {"id": "1"}],
    )


def reward(depends_on: str):
    outcome = torch.tensor([[1.0, 3.0], [4.0, 2.0]])
    return component("fixed", lambda groups, stats: Rewards(outcome_PG=outcome, depends_on=depends_on))


def pipeline(reward_: Component, credit: str = "completion", **parts: Component) -> Pipeline:
    defaults = {
        "gate": component("none", no_gate),
        "filter": component("none", no_filter),
        "advantage": component("group_norm", group_norm),
    }
    return Pipeline(reward=reward_, credit=credit, **{**defaults, **parts})


def advantages(depends_on: str, credit: str) -> torch.Tensor:
    chosen = pipeline(reward(depends_on), credit)
    step = groups()
    return chosen.advantages(chosen.score(step, TokenStats()), step.completion_mask_PGC)


@pytest.mark.parametrize(("depends_on", "credit"), [("completion", "causal"), ("reasoning", "completion")])
def test_the_whole_completion_is_taught_unless_both_reward_and_configuration_say_otherwise(depends_on, credit):
    assert advantages(depends_on, credit).shape == (2, 2)


def test_causal_credit_ends_with_the_decision_to_stop_reasoning():
    given = advantages("reasoning", "causal")
    taught = [
        [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]],
        [[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    ]
    assert (given != 0).int().tolist() == taught
    plain = advantages("reasoning", "completion")
    assert torch.equal(given.sum(-1) / torch.tensor(taught).sum(-1), plain)


def test_a_group_that_the_gate_rejects_or_the_filter_drops_is_not_kept_and_says_why():
    def gate(groups, stats, rewards):
        return GateResult(
            admit_P=torch.tensor([False, True]),
            failed_PG=torch.zeros(2, 2, dtype=torch.bool),
            rewards=rewards,
            reasons_P=["rubric", ""],
        )

    def drop(groups, stats, rewards):
        return FilterResult(keep_PG=torch.tensor([[True, True], [False, False]]), reasons_P=["", "sigma"])

    chosen = pipeline(reward("completion"), gate=component("gate", gate), filter=component("drop", drop))
    scored = chosen.score(groups(), TokenStats())
    assert not scored.keep_PG.any()
    assert scored.reasons_PG == (("rubric", "rubric"), ("sigma", "sigma"))
    metrics = step_metrics(scored, "fixed")
    assert metrics["gate/rejected_share"] == 0.5
    assert metrics["filter/dropped_share"] == 0.5
    assert metrics["reward/sampled"] == 2.5
    assert metrics["reward/trained"] != metrics["reward/trained"]  # nan: nothing was trained


@pytest.mark.parametrize("kind", ["malformed", "truncated"])
@pytest.mark.parametrize("mask", [False, True])
def test_malformed_and_truncated_completions_teach_only_where_the_configuration_lets_them(mask, kind):
    step = replace(groups(), **{f"{kind}_PG": torch.tensor([[True, False], [False, False]])})
    chosen = Pipeline(
        reward=reward("completion"),
        gate=component("none", no_gate),
        filter=component("none", no_filter),
        advantage=component("group_norm", group_norm),
        **{f"mask_{kind}": mask},
    )
    scored = chosen.score(step, TokenStats())
    assert scored.keep_PG.tolist() == [[not mask, True], [True, True]]
    assert scored.reasons_PG == ((kind if mask else "", ""), ("", ""))
    assert step_metrics(scored, "fixed")["rollouts/kept_share"] == (0.75 if mask else 1.0)
    given = chosen.advantages(scored, step.completion_mask_PGC)
    assert (given[0, 0] == 0) == mask
    assert given[0, 1] != 0


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(2, 2, dtype=torch.float64), "float64"),
        (torch.full((2, 2), torch.inf), "infin"),
    ],
)
def test_a_reward_of_the_wrong_kind_is_told_so(outcome, found):
    broken = pipeline(component("mine", lambda groups, stats: Rewards(outcome_PG=outcome)))
    with pytest.raises(UserError, match=found):
        broken.score(groups(), TokenStats())


@pytest.mark.parametrize(
    ("outcome", "share", "spread"),
    [
        ([[1.0, 3.0], [4.0, 4.0]], 0.5, 0.5),
        ([[1.0, torch.nan], [4.0, 2.0]], 0.5, 0.5),  # one scored rollout differs from none
        ([[torch.nan, torch.nan], [4.0, 2.0]], 0.5, 1.0),  # nothing scored: nothing taught
    ],
)
def test_a_rollout_without_a_reward_hides_no_group_without_signal(outcome, share, spread):
    fixed = component("fixed", lambda groups, stats: Rewards(outcome_PG=torch.tensor(outcome)))
    metrics = step_metrics(pipeline(fixed).score(groups(), TokenStats()), "fixed")
    assert metrics["groups/zero_signal_share"] == share
    assert metrics["reward/group_std"] == pytest.approx(spread)
