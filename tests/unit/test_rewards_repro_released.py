"""REPRO on the method authors' own values: tau, scores on stored log-probabilities, and the slips not repeated."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from dro_lab.rewards._repro import kendall
from dro_lab.rewards.repro import repro
from dro_lab.types import Rewards, TokenStats
from tests.prefix_step import VERIFIER, prefix_fields, process, reasoning_groups

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


@cache
def released(name: str) -> dict:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"the released values are not here (../shared/golden/{name})")
    return json.loads(path.read_text())


def naive_tau(series) -> float:
    pairs = [(a, b) for b in range(len(series)) for a in range(b)]
    signs = [(series[b] > series[a]) - (series[b] < series[a]) for a, b in pairs]
    return sum(signs) / len(pairs) if pairs else 0.0


def test_tau_equals_the_released_one_and_where_nothing_ties_scipys():
    for case in released("kendall.json")["cases"]:
        series = case["y"]
        got = kendall(torch.tensor(series, dtype=torch.float64)[None, None])[0, 0]
        assert got[-1].item() == pytest.approx(case["kendall_batch"])
        assert ((got[-1] + 1) / 2).item() == pytest.approx(case["S_stab=(tau_a+1)/2"])
        assert got.tolist() == pytest.approx([naive_tau(series[: n + 1]) for n in range(len(series))])
        if len(set(series)) == len(series):
            assert got[-1].item() == pytest.approx(scipy_stats.kendalltau(range(len(series)), series).statistic)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_tau_equals_a_naive_count_of_pairs(series):
    got = kendall(torch.tensor(series, dtype=torch.float64)[None, None])[0, 0]
    assert got.tolist() == pytest.approx([naive_tau(series[: n + 1]) for n in range(len(series))])


def released_series() -> tuple[list[float], list[list[float]], list[list[int]]]:
    """Baselines, J at the points, and the tokens they end with, of the released end-to-end values."""
    data = released("repro_e2e_tiny_qwen2.json")
    rows: list[list[tuple[int, float]]] = [[] for _ in data["responses"]]
    for (row, prefix), nll in zip(data["forking_token_indices"], data["nll"], strict=True):
        rows[row].append((prefix, -nll))
    assert all(row[0][0] == 0 for row in rows)  # the baseline comes first
    points = [[j for _, j in row[1:]] for row in rows]
    return [row[0][1] for row in rows], points, [[prefix - 1 for prefix, _ in row[1:]] for row in rows]


def of_released(**keys) -> Rewards:
    baselines, points, ends = released_series()
    groups = reasoning_groups(len(points), 1, tokens=24, reasoning=24)  # its last point sits on the closing tag
    stats = TokenStats(
        verifier_PG=torch.ones(len(points), 1),
        **prefix_fields([[row] for row in points], baselines, [[row] for row in ends]),
    )
    return repro(groups, stats, outcome=VERIFIER, **keys)


@pytest.mark.parametrize("w", [0.0, 0.25, 1.0])
def test_scores_on_released_log_probabilities_equal_an_independent_count(w):
    baselines, points, ends = released_series()
    got = of_released(w=w)
    for p, (baseline, row, places) in enumerate(zip(baselines, points, ends, strict=True)):
        before, wanted = 0.0, []
        for j, value in enumerate(row):
            # 1 - tanh x is twice the logistic distribution's upper tail at 2x
            size = 2 * scipy_stats.logistic.sf(2 * value / baseline)
            score = (1 - w) * size + w * (naive_tau([baseline, *row[: j + 1]]) + 1) / 2
            wanted.append(score - before)
            before = score
        assert process(got, p) == {place: pytest.approx(r, abs=1e-6) for place, r in zip(places, wanted, strict=True)}


def test_the_released_rewards_are_our_magnitude_alone():
    """A slip of the released code: the stability is computed and left out, whatever its weight."""
    want = torch.tensor(released("repro_e2e_tiny_qwen2.json")["as_code_token_level_repro_rewards"])[:, None]
    torch.testing.assert_close(of_released(w=0.0).process_PGC, want, atol=1e-6, rtol=1e-5)
    assert (of_released(w=0.25).process_PGC - want).abs().max() > 0.1


def test_the_released_mask_has_one_more_column_the_baselines():
    """Another: the baseline's index -1 lands on the last column, where its 0 enters every mean."""
    want = torch.tensor(released("repro_e2e_tiny_qwen2.json")["as_code_repro_mask"]).bool()[:, None]
    ours = of_released().process_mask_PGC
    assert want[..., -1].all()
    assert not ours[..., -1].any()
    assert torch.equal(ours[..., :-1], want[..., :-1])
