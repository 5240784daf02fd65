"""The evaluator over a tiny policy: parts by split and decoding, the base, and that it changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dro_lab.evaluation.evaluate import Evaluation, Evaluator
from dro_lab.judges.exact import ExactJudge
from dro_lab.training import rollouts
from dro_lab.types import Need, PrefixPlan, Provenance, Row, Stat, Task, TokenStats
from tests.lab_fixture import ROWS, component, count_reward, pipeline, trainer
from tests.unit.test_evaluation_settings import settings

OOD = [Row(id=f"ood-{i}", prompt=[{"role": "user", "content": f"Other {i}"}], reference="No.") for i in range(3)]


def length(answer: str, row: Row) -> float:
    return (len(answer) % 5) / 4


def lengths(answers, rows):
    assert len(answers) == len(rows)
    return {"mean_length": sum(map(len, answers)) / len(answers)}


def quality(groups) -> torch.Tensor:
    return torch.tensor([[length(a, ROWS[0]) for a in answers] for answers in groups.answers_PG])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    made = trainer(tmp_path_factory.mktemp("eval"))
    made.scoring.quality = quality
    return made


def evaluator(lab, **changes) -> Evaluator:
    chosen = settings(**{"samples": 2, "prompts": 4, "bootstrap": 20, "corpus_bootstrap": 10, **changes})
    task = Task(
        name="t",
        provenance=Provenance(dataset="t", kind="file", location="f"),
        splits={},
        metric=length,
        metric_name="length",
        corpus_metric=lengths,
    )
    rows = {"validation": ROWS[:4], "ood": OOD}
    return Evaluator(
        sample=lab.sample,
        scoring=lab.scoring,
        model=lambda: lab.policy,
        rows=rows,
        task=task,
        judge=ExactJudge(task),
        settings=chosen,
    )


@pytest.fixture(scope="module")
def whole(lab) -> Evaluation:
    return evaluator(lab)(0)


def test_each_part_has_its_answers_and_its_numbers(whole):
    assert [(part.split, part.decoding) for part in whole.parts] == [
        ("validation", "sampled"),
        ("validation", "greedy"),
        ("ood", "sampled"),
        ("ood", "greedy"),
    ]
    for part in whole.parts:
        assert [len(answers) for answers in part.answers] == [2 if part.decoding == "sampled" else 1] * len(part.rows)
        expected = [
            sum(length(a, row) for a in answers) / len(answers)
            for answers, row in zip(part.answers, part.rows, strict=True)
        ]
        assert part.estimates["quality"].value == pytest.approx(sum(expected) / len(expected))
        assert part.estimates["quality"].n == len(part.rows) == (4 if part.split == "validation" else 3)
        texts = [a for answers in part.answers for a in answers]
        assert part.estimates["mean_length"].value == sum(map(len, texts)) / len(texts)
        total, reasoning, answer = (
            part.estimates[f"{name}_tokens"].value for name in ("completion", "reasoning", "answer")
        )
        assert total == pytest.approx(reasoning + answer)
        assert {"segments", "backtracking_share"} <= part.estimates.keys()
        assert not {"certain_at", "certain_share"} & part.estimates.keys(), "nobody scores prefixes"
        assert ("pass@2" in part.estimates) == (part.decoding == "sampled")
        assert ("reward" in part.estimates) == (part is whole.parts[0])
        assert "win_rate" not in part.estimates, "there is no base yet"


def test_the_full_names_hold_every_part(whole):
    assert whole.estimates["quality"].value == whole.parts[0].estimates["quality"].value
    assert whole.estimates["quality/ood/greedy"].value == whole.parts[3].estimates["quality"].value
    assert whole.estimates["quality/ood/greedy"].metric == "quality/ood/greedy"
    assert sum(len(part.estimates) for part in whole.parts) == len(whole.estimates)


def test_greedy_answers_are_the_likeliest_tokens_by_a_plain_loop(lab, whole):
    row = ROWS[0]
    (prompt,) = lab.scoring.prompt_ids([row])
    ids = list(prompt)
    model = lab.policy.eval()
    ends = {lab.scoring.tokenizer.eos_token_id}
    with torch.no_grad():
        while len(ids) - len(prompt) < 12 and not (len(ids) > len(prompt) and ids[-1] in ends):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert lab.sample([prompt], 1, batch_size=4, seed=0, greedy=True) == [ids[len(prompt) :]]
    assert lab.sample([prompt], 1, batch_size=4, seed=1, greedy=True) == [ids[len(prompt) :]]


def test_greedy_decoding_leaves_sampling_as_it_was(lab):
    prompts = lab.scoring.prompt_ids(ROWS[:2])
    config, given = lab.generation_config, dict(lab.generation_kwargs)
    before = lab.sample(prompts, 2, batch_size=4, seed=5)
    lab.sample(prompts, 1, batch_size=4, seed=5, greedy=True)
    assert lab.sample(prompts, 2, batch_size=4, seed=5) == before
    assert lab.generation_config is config
    assert lab.generation_kwargs == given
    assert config.do_sample


def test_the_same_policy_against_itself_wins_half(lab, whole):
    again = evaluator(lab)(5, whole)
    for part, before in zip(again.parts, whole.parts, strict=True):
        assert part.answers == before.answers, "the same random numbers each time"
        assert part.estimates["win_rate"].value == pytest.approx(0.5)
        assert part.estimates["win_unknown_share"].value == 0.0


def test_extras_may_come_later_and_are_the_same(lab, whole):
    short = evaluator(lab)(0, extras=False)
    assert [(part.split, part.decoding) for part in short.parts] == [("validation", "sampled")]
    full = evaluator(lab).with_extras(short)
    assert [part.answers for part in full.parts] == [part.answers for part in whole.parts]
    assert full.estimates.keys() == whole.estimates.keys()
    assert evaluator(lab).with_extras(full).parts == full.parts


def test_an_evaluation_draws_no_random_number_of_training(lab):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    evaluator(lab)(0)
    assert torch.equal(torch.rand(3), expected)


def test_a_row_that_cannot_be_judged_is_left_out_and_counted(lab):
    made = evaluator(lab, also=[], greedy=False)
    lab.scoring.quality = lambda groups: torch.cat([torch.full((1, 2), math.nan), quality(groups)[1:]])
    try:
        found = made(0).estimates
    finally:
        lab.scoring.quality = quality
    assert found["quality"].n == found["pass@1"].n == 3


OWN_PLAN = Need(Stat.PREFIXES, plan=PrefixPlan(k=2, score_at="end"))


@pytest.mark.parametrize("certainty", ["auto", True, False])
@pytest.mark.parametrize("needs", [frozenset(), frozenset({OWN_PLAN})], ids=["outcome", "process"])
def test_certainty_is_measured_where_it_is_asked_for_or_costs_nothing(lab, monkeypatch, certainty, needs):
    """The reward's own points are taken where it has some; it gets to see no prefixes that it did not ask for."""
    seen: list[TokenStats] = []
    asked: list[frozenset[Need]] = []

    def reward(groups, stats):
        seen.append(stats)
        return count_reward(groups, stats)

    def collect(wanted, groups, split, **given):
        asked.append(frozenset(need for need in wanted if need.stat is Stat.PREFIXES))
        stats = plain(frozenset(need for need in wanted if need.stat is not Stat.PREFIXES), groups, split, **given)
        if not asked[-1]:
            return stats
        (p, g), r = groups.shape, stats.reference_mask_PR.shape[1]
        sure = torch.full((p, g, 1, r), 0.95).log()
        sure[:, 1] -= 1  # every other rollout never is
        ends = groups.reasoning_mask_PGC.long().cumsum(-1).argmax(-1, keepdim=True)
        mask = torch.ones(p, g, 1, dtype=torch.bool)
        return replace(stats, prefix_logps_PGKR=sure, prefix_mask_PGK=mask, prefix_ends_PGK=ends)

    plain = rollouts.collect
    monkeypatch.setattr(rollouts, "collect", collect)
    monkeypatch.setattr(lab.scoring, "pipeline", pipeline(component("r", reward, needs)))
    found = evaluator(lab, certainty=certainty, certain_points=3, also=[], greedy=False)(0).estimates
    own = {Need(Stat.PREFIXES, plan=PrefixPlan(k=3))} if certainty is True else set()
    assert asked == [needs or own]
    assert (seen[0].prefix_logps_PGKR is not None) == bool(needs)
    measured = certainty is True or (certainty == "auto" and bool(needs))
    assert ("certain_at" in found) == ("certain_share" in found) == measured
    if measured:
        assert (found["certain_share"].value, found["certain_share"].n) == (0.5, 4)
        assert 0 <= found["certain_at"].value <= 12


def test_the_scorer_measures_prefixes_for_an_outcome_reward_too(lab):
    """A random policy is sure of nothing, and at once where next to nothing is asked of it."""
    never = evaluator(lab, certainty=True, certain=0.999, also=[], greedy=False)(0).estimates
    assert (never["certain_share"].value, never["certain_at"].n) == (0.0, 0)
    found = evaluator(lab, certainty=True, certain=1e-9, also=[], greedy=False)(0).estimates
    assert (found["certain_share"].value, found["certain_at"].n) == (1.0, 4)
    assert 0 <= found["certain_at"].value <= found["reasoning_tokens"].value
