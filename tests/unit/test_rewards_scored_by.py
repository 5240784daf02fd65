"""`scored_by`: whose probabilities a reward reads while the policy trains away from where it began."""

from __future__ import annotations

import pytest
import torch

from dro_lab.components import REFERENCE_NEED
from dro_lab.judges.none import NoJudge
from dro_lab.judges.quality import verdicts
from dro_lab.rewards.avg_logprob import avg_logprob
from dro_lab.scoring.reference import ReferenceScorer
from dro_lab.scoring.split import ReasoningFormat
from dro_lab.training.policies import Policies
from dro_lab.training.rollouts import RolloutScorer
from dro_lab.types import Need, Rewards, Stat
from tests import lab_fixture as lab
from tests.tiny import byte_tokenizer, tiny_qwen3

ROWS = lab.ROWS[:2]


class Bench:
    """A policy that is moved before every step, and the rewards of the same completions at each."""

    def __init__(self, *, scored_by, lag=16):
        self.tokenizer, fmt = byte_tokenizer(), ReasoningFormat(answer_marker="")
        self.model = tiny_qwen3(len(self.tokenizer))
        policies = Policies(scored_by=scored_by, lag=lag)
        policies.start(self.model)
        self.scoring = RolloutScorer(
            tokenizer=self.tokenizer,
            fmt=fmt,
            pipeline=lab.pipeline(lab.component("avg_logprob", avg_logprob, REFERENCE_NEED), scored_by=scored_by),
            scorer=ReferenceScorer(self.tokenizer, fmt),
            quality=lambda groups: torch.zeros(groups.shape),
            verdicts=lambda groups: verdicts(groups, NoJudge()),
            policies=policies,
            chat_template_kwargs={},
        )
        self.completions = [self.tokenizer.encode(f"<think>{n}</think> {n}") for n in range(4)]

    def move(self):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1.03)

    def reward(self, step, model=None, *, held_out=False):
        scored = self.scoring.score(
            model or self.model, ROWS, self.completions, group_size=2, step=step, progress=0.0, held_out=held_out
        ).scored
        return scored.sampled.outcome_PG

    def series(self, steps):
        """The reward at each step, the policy moving after it as an optimizer would move it."""
        rewards = []
        for step in range(steps):
            rewards.append(self.reward(step))
            self.move()
        return rewards


def distinct(rewards):
    """For each step the first step with equal rewards."""
    return [next(i for i, first in enumerate(rewards) if torch.equal(first, reward)) for reward in rewards]


def test_the_current_policys_probabilities_change_every_step():
    assert distinct(Bench(scored_by="current").series(4)) == [0, 1, 2, 3]


def test_the_reference_policys_stay_those_of_the_start():
    bench = Bench(scored_by="reference")
    untouched = Bench(scored_by="current").reward(0)
    rewards = bench.series(4)
    assert distinct(rewards) == [0, 0, 0, 0]
    assert torch.equal(rewards[-1], untouched)


def test_the_lagged_policys_change_only_every_lag_steps_and_are_then_the_current_ones():
    bench = Bench(scored_by="lagged", lag=3)
    rewards = bench.series(8)
    assert distinct(rewards) == [0, 0, 0, 3, 3, 3, 6, 6]
    moved = Bench(scored_by="current").series(8)
    assert torch.equal(rewards[0], moved[0])
    assert torch.equal(rewards[3], moved[3])
    assert torch.equal(rewards[6], moved[6])


def test_an_evaluation_does_not_refresh_the_lagged_policy():
    bench = Bench(scored_by="lagged", lag=3)
    before = bench.reward(0)
    bench.move()
    assert torch.equal(bench.reward(3, held_out=True), before)
    assert torch.equal(bench.reward(2), before)
    bench.move()
    assert not torch.equal(bench.reward(4), before)  # the copy was taken at 0: due from 3 on, and only in training


@pytest.mark.parametrize("scored_by", ["reference", "lagged"])
def test_the_copy_takes_no_gradient_and_leaves_the_policy_as_it_is(scored_by):
    bench = Bench(scored_by=scored_by)
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    bench.model.train()
    bench.reward(0)
    assert bench.model.training
    copy = bench.scoring.policies.models(bench.model, step=0)[scored_by]
    assert copy is not bench.model
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(parameter.requires_grad for parameter in bench.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in bench.model.state_dict().items())


def test_no_copy_is_made_that_nobody_asks_for():
    for scored_by, names in (("current", {"current"}), ("lagged", {"current", "lagged"})):
        bench = Bench(scored_by=scored_by)
        assert set(bench.scoring.policies.models(bench.model, step=0)) == names


@pytest.mark.parametrize("scored_by", ["reference", "lagged"])
def test_the_copies_follow_the_policy_to_its_device_in_place(scored_by):
    """They are taken before the trainer moves the policy to a GPU, and the judge has the very same object."""
    policy = tiny_qwen3(len(byte_tokenizer()))
    policies = Policies(scored_by=scored_by, judged_by_reference=True)
    policies.start(policy)
    judges = policies.reference
    models = policies.models(policy.to("meta"), step=None)
    assert policies.reference is judges
    assert {name: model.device.type for name, model in models.items()} == dict.fromkeys(
        {"current", "reference", scored_by}, "meta"
    )


def test_reports_take_the_references_probabilities_from_the_forward_that_a_component_asked_for():
    """A component that reads ranks alone: an evaluation must not score the reference under two policies."""

    def low_ranks(groups, stats):
        return Rewards(outcome_PG=-stats.reference_ranks_PGR.mean(-1))

    bench = Bench(scored_by="reference")
    ranks = lab.component("low_ranks", low_ranks, frozenset({Need(Stat.RANKS)}))
    bench.scoring.pipeline = lab.pipeline(ranks, scored_by="reference")

    def evaluated():
        step = bench.scoring.score(
            bench.model, ROWS, bench.completions, group_size=2, step=0, progress=0.0, held_out=True
        )
        assert step.scored.stats.reference_logps_PGR is None
        return step.stats_for_reports.reference_logps_PGR

    before = evaluated()
    bench.move()
    assert torch.equal(evaluated(), before)
