"""The first version's rank filter on numbers that one can compute by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.filtering import rank as module
from dro_lab.filtering.rank import rank
from dro_lab.types import Need, Rewards, Stat
from tests.tiny_step import groups_of, stats_of

EOS = 0.5


def judged(ranks, probabilities=None, *, state=None, step=0, **arguments):
    """Groups of ranks ``[prompt][rollout][token]``; EOS is appended with a rank that would drop everything."""
    probabilities = probabilities or [[[0.2 + 0.3 * g] * len(row) for g, row in enumerate(group)] for group in ranks]
    stats = stats_of([[[*row, EOS] for row in group] for group in probabilities])
    ranks_PGR = torch.zeros_like(stats.reference_logps_PGR)
    for p, group in enumerate(ranks):
        for g, row in enumerate(group):
            ranks_PGR[p, g, : len(row) + 1] = torch.tensor([*row, 1e6])
    groups = replace(groups_of(len(ranks), len(ranks[0])), step=step)
    return rank(
        groups,
        replace(stats, reference_ranks_PGR=ranks_PGR),
        Rewards(outcome_PG=torch.zeros(groups.shape)),
        state=module.initial_state() if state is None else state,
        **arguments,
    )


def test_one_rollout_within_reach_is_enough():
    reached, lost = [[500, 0], [9, 0]], [[500, 0], [10, 0]]
    result, _ = judged([reached, lost], top_k=10, worst_share=0.5)
    assert result.keep_PG.tolist() == [[True, True], [False, False]]
    assert list(result.reasons_P) == ["", "worst tokens' rank 10 >= top_k 10"]
    assert result.metrics["worst_rank"] == pytest.approx(9.5)
    assert result.metrics["out_of_reach_share"] == 0.5


def test_the_worst_share_is_rounded_up_and_its_ranks_are_averaged():
    row = [30, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1]  # the worst tenth of 11 tokens: 2 of them, mean 25
    assert judged([[row, row]], top_k=26)[0].keep_PG.all()
    assert not judged([[row, row]], top_k=25)[0].keep_PG.any()
    assert judged([[row, row]], top_k=6, worst_share=1.0)[0].keep_PG.all()  # all of them: 59 / 11
    assert not judged([[row, row]], top_k=5, worst_share=1.0)[0].keep_PG.any()


def test_of_those_within_reach_the_lowest_share_by_the_largest_sigma_goes():
    spread = [0.05, 0.10, 0.15, 0.20]
    ranks = [[[0, 0], [0, 0]]] * 5
    probabilities = [[[0.4 - s, 0.4], [0.4 + s, 0.4]] for s in [*spread, 0.001]]
    ranks[4] = [[999, 999]] * 2  # out of reach: its sigma does not count
    settings = {"window": 4, "drop_share": 0.34}
    result, state = judged(ranks, probabilities, **settings)
    assert result.keep_PG[:, 0].tolist() == [True, True, True, True, False]  # no window yet
    assert state["window"] == pytest.approx(spread)
    result, _ = judged(ranks, probabilities, state=state, step=1, **settings)
    assert result.keep_PG[:, 0].tolist() == [False, False, True, True, False]
    assert result.reasons_P[0] == "sigma_max 0.05 < floor 0.101"
    assert result.metrics["sigma_floor"] == pytest.approx(0.05 + 0.34 * 0.15)


def test_drop_share_0_drops_nothing_for_its_variance():
    state = {"window": [0.4], "threshold": 0.4, "refreshed": 0}
    probabilities = [[[0.3, 0.4], [0.31, 0.4]]]
    assert judged([[[0, 0]] * 2], probabilities, state=state, drop_share=0)[0].keep_PG.all()
    assert not judged([[[0, 0]] * 2], probabilities, state=state, drop_share=0.1)[0].keep_PG.any()


def test_eos_counts_only_when_asked():
    assert judged([[[0], [0]]])[0].keep_PG.all()
    assert not judged([[[0], [0]]], include_eos=True)[0].keep_PG.any()


def test_a_reference_without_tokens_is_dropped_and_says_so():
    result, state = judged([[[], []]], [[[], []]])
    assert not result.keep_PG.any()
    assert "no tokens" in result.reasons_P[0]
    assert state["window"] == []
    assert math.isnan(result.metrics["worst_rank"])


def test_needs_and_a_missing_statistic():
    assert module.needs() == {Need(Stat.REFERENCE), Need(Stat.RANKS)}
    with pytest.raises(ValueError, match=r"Stat\.RANKS"):
        rank(
            groups_of(1, 2),
            stats_of([[[0.5, EOS]] * 2]),
            Rewards(outcome_PG=torch.zeros(1, 2)),
            state=module.initial_state(),
        )


BAD = [
    ({"worst_share": 0}, r"filtering\.worst_share=0: must be a share above 0 and at most 1"),
    ({"worst_share": 1.2}, r"filtering\.worst_share=1\.2"),
    ({"top_k": 0}, r"filtering\.top_k=0: must be a whole number of at least 1"),
    ({"top_k": 2.5}, r"filtering\.top_k=2\.5"),
    ({"drop_share": 1}, r"filtering\.drop_share=1: must be a share of at least 0 and below 1"),
    ({"drop_share": -0.1}, r"filtering\.drop_share=-0\.1"),
    ({"window": 0}, r"filtering\.window=0"),
    ({"clip_low": 0.85}, r"filtering\.clip_low=0\.85 with filtering\.clip_high=0\.85"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        module.check(**arguments)
