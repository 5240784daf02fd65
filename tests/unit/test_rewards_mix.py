"""Weighted sums of rewards: the sum, its breakdown, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dro_lab.build import build_pipeline
from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.rewards import mix as module
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.rewards.mix import mix
from dro_lab.rewards.r3 import r3
from dro_lab.types import Need, Rewards, Stat, TokenStats
from tests.tiny_step import groups_of, stats_of

EOS = 0.5
STATS = stats_of([[[0.2, 0.4, EOS], [0.8, 0.6, EOS]]], quality=[[1.0, 0.25]])
GROUPS = replace(groups_of(1, 2), references_P=["a b"], answers_PG=[["a b", "c"]])


def reward(name, **keys):
    return {"_target_": f"dro_lab.rewards.{name}.{name}", "_partial_": True, **keys}


def parts(**weights):
    return {name: {"weight": weight, "reward": reward(name)} for name, weight in weights.items()}


def test_the_sum_and_its_breakdown():
    got = mix(GROUPS, STATS, parts=parts(avg_prob=2.0, verifier=-0.5, rouge=0.1))
    mean, quality, overlap = [0.3, 0.7], [1.0, 0.25], [1.0, 0.0]
    want = [2 * m - 0.5 * q + 0.1 * o for m, q, o in zip(mean, quality, overlap, strict=True)]
    assert got.outcome_PG[0].tolist() == pytest.approx(want)
    assert got.parts["avg_prob"][0].tolist() == pytest.approx(mean)
    assert got.parts["verifier_weighted"][0].tolist() == pytest.approx([-0.5, -0.125])
    assert got.parts["rouge_weighted"][0].tolist() == pytest.approx([0.1, 0.0])
    torch.testing.assert_close(sum(v for k, v in got.parts.items() if k.endswith("_weighted")), got.outcome_PG)
    assert got.metrics["verifier/unjudged_share"] == 0.0


def test_the_parts_of_a_part_are_kept_under_its_name():
    got = mix(GROUPS, STATS, parts=parts(r3=1.0))
    alone = r3(GROUPS, STATS)
    assert torch.equal(got.parts["r3/mean_probability"], alone.parts["mean_probability"])
    assert got.metrics["r3/sigma_bar"] == alone.metrics["sigma_bar"]
    assert torch.equal(got.outcome_PG, alone.outcome_PG)


def test_normalised_parts_are_added_as_the_groups_z_scores():
    stats = stats_of([[[0.2, EOS], [0.4, EOS], [0.6, EOS]]], quality=[[0.0, 0.0, 0.0]])
    got = mix(groups_of(1, 3), stats, parts=parts(avg_prob=2.0, verifier=5.0), normalise="group")
    z = [-0.2 / (0.2 + 1e-4), 0.0, 0.2 / (0.2 + 1e-4)]
    assert got.outcome_PG[0].tolist() == pytest.approx([2 * v for v in z], abs=1e-6)  # the verifier never varies
    single = mix(groups_of(1, 1), stats_of([[[0.2, EOS]]]), parts=parts(avg_prob=2.0), normalise="group")
    assert single.outcome_PG.tolist() == [[0.0]]


@pytest.mark.parametrize("normalise", ["none", "group"])
def test_a_rollout_that_one_part_cannot_score_is_not_scored_and_the_others_are(normalise):
    stats = replace(STATS, verifier_PG=torch.tensor([[float("nan"), 0.25]]))
    got = mix(GROUPS, stats, parts=parts(avg_prob=1.0, verifier=1.0), normalise=normalise)
    assert got.outcome_PG.isnan().tolist() == [[True, False]]


def test_the_sum_depends_on_the_completion_if_any_part_does():
    assert mix(GROUPS, STATS, parts=parts(avg_prob=1.0, r3=1.0)).depends_on == "reasoning"
    assert mix(GROUPS, STATS, parts=parts(avg_prob=1.0, rouge=0.1)).depends_on == "completion"


def test_token_weights_are_those_of_the_part_with_the_largest_weight_that_has_any():
    got = mix(GROUPS, STATS, parts=parts(avg_prob=0.5, r3=-2.0, rouge=9.0))
    assert torch.equal(got.token_weights_PR, r3(GROUPS, STATS).token_weights_PR)
    assert not torch.equal(got.token_weights_PR, avg_prob(GROUPS, STATS).token_weights_PR)
    assert mix(GROUPS, STATS, parts=parts(rouge=9.0)).token_weights_PR is None


def test_needs_are_those_of_all_parts():
    assert module.needs(parts=parts(rouge=1.0)) == frozenset()
    assert module.needs(parts=parts(rouge=1.0, verifier=1.0, r3_v1=0.1)) == {
        Need(Stat.VERIFIER),
        Need(Stat.REFERENCE),
        Need(Stat.MASKED),
    }


def test_the_command_line_adds_takes_away_and_sets_parts():
    cfg = compose(
        [
            "reward=mix",
            "+reward@reward.parts.sure.reward=seq_prob",
            "+reward.parts.sure.weight=0.5",
            "~reward.parts.rouge",
            "reward.parts.r3.reward.omega=1",
        ]
    )
    part = build_pipeline(cfg, {}).reward
    got = part(GROUPS, STATS)
    assert {name for name in got.parts if name.endswith("_weighted")} == {"r3_weighted", "sure_weighted"}
    want = r3(GROUPS, STATS, omega=1).outcome_PG + 0.5 * torch.tensor([[0.08, 0.48]])
    torch.testing.assert_close(got.outcome_PG, want)


def test_a_mix_may_hold_a_mix():
    inner = {"_target_": "dro_lab.rewards.mix.mix", "parts": parts(avg_prob=2.0)}
    got = mix(GROUPS, STATS, parts={"inner": {"weight": 0.5, "reward": inner}})
    torch.testing.assert_close(got.outcome_PG, avg_prob(GROUPS, STATS).outcome_PG)


def process_reward(groups, stats) -> Rewards:
    outcome = torch.zeros(groups.shape)
    return Rewards(outcome_PG=outcome, process_PGC=torch.zeros(*groups.shape, 2))


def test_process_rewards_have_no_sum():
    odd = {"odd": {"weight": 1.0, "reward": {"_target_": f"{__name__}.process_reward"}}}
    with pytest.raises(UserError, match=r"reward\.parts\.odd: gives process rewards"):
        mix(GROUPS, TokenStats(), parts=odd)


BAD = [
    ({}, r"reward\.parts=\{\}: must hold at least one part by name; add one with `\+reward@reward"),
    ("r3", r"reward\.parts=r3: must hold"),
    ({"r3": {"reward": reward("r3")}}, r"reward\.parts\.r3: has no weight"),
    ({"r3": {"weight": 1.0}}, r"reward\.parts\.r3: has no reward"),
    ({"r3": 0.5}, r"reward\.parts\.r3: has no reward"),
    ({"r3": {"weight": "much", "reward": reward("r3")}}, r"reward\.parts\.r3\.weight=much: must be a number"),
    ({"r3": {"weight": float("nan"), "reward": reward("r3")}}, r"reward\.parts\.r3\.weight=nan"),
    ({"r3": {"weight": 1, "wait": 2, "reward": reward("r3")}}, r"reward\.parts\.r3\.wait: unknown key"),
    ({"r3": {"weight": 1, "reward": reward("r3", omega=-1)}}, r"reward\.parts\.r3\.reward\.omega=-1: must be"),
    ({"r3": {"weight": 1, "reward": reward("r3", omga=1)}}, r"reward\.parts\.r3\.reward\.omga: unknown key"),
    ({"x": {"weight": 1, "reward": {"omega": 1}}}, r"reward\.parts\.x\.reward: its yaml must name a function"),
    ({"x": {"weight": 1, "reward": {"_target_": "no.such.thing"}}}, r"reward\.parts\.x\.reward\._target_=no\.such"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_parts_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        module.check(parts=given)


def test_a_bad_normalisation_is_refused():
    with pytest.raises(UserError, match=r"reward\.normalise=batch: must be one of none, group"):
        module.check(parts=parts(r3=1.0), normalise="batch")


def test_a_part_that_gives_process_rewards_is_refused_before_anything_runs():
    odd = {
        "r3": {"weight": 1.0, "reward": reward("r3")},
        "p": {"weight": 1.0, "reward": reward("repro", outcome=reward("r3"))},
    }
    with pytest.raises(
        UserError, match=r"reward\.parts\.p: gives process rewards .*reward=repro reward@reward\.outcome=mix"
    ):
        module.check(parts=odd)
    inner = {"inner": {"weight": 1.0, "reward": {**reward("mix"), "parts": odd}}}
    with pytest.raises(UserError, match="gives process rewards"):
        module.check(parts=inner)
