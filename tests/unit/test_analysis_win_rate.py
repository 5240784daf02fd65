"""Win rates with planted answers: literals, crossed intervals that cover, judges, messages."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from analysis import ask
from analysis.answers import pairwise
from analysis.bootstrap import crossed_mean
from analysis.load import load_runs
from analysis.win_rate import draw, main
from dro_lab.judges.protocol import Pair
from dro_lab.types import Row
from tests.analysis_fixture import write_run

CURVE = [(0, 0.25), (4, 0.5)]


def answers(qualities, *, win_rates, tokens=(20, 26), flips=math.nan, text="answer"):
    """Two queries by two samples, before and after training; ``qualities`` by query and sample after training."""
    rows = []
    for q, s in itertools.product(range(2), range(2)):
        shared = {"prompt_id": f"q{q}", "prompt": f"prompt {q}", "sample": s}
        rows.append({**shared, "step": 0, "quality": 0.0, "reasoning_tokens": tokens[0]})
        rows.append(
            {**shared, "step": 4, "quality": qualities[q][s], "reasoning_tokens": tokens[1], "answer": f"{text} {q}{s}",
             "row_win_rate": win_rates[q], "row_order_disagreement": flips}
        )  # fmt: skip
    return rows


@pytest.fixture
def places(tmp_path):
    for seed in (0, 1):
        good = answers([[1.0, 1.0], [1.0, 0.0]], win_rates=[0.9, 0.7 + 0.1 * seed])
        fair = answers([[1.0, 0.0], [0.0, 0.0]], win_rates=[0.6, 0.5], tokens=(20, 17))
        write_run(tmp_path / f"runs/r3_{seed}", CURVE, seed=seed, answers=good)
        write_run(tmp_path / f"runs/avg_{seed}", CURVE, seed=seed, reward="avg_prob", answers=fair)
    return tmp_path / "runs"


def value_of(frame, shows, label, against=""):
    rows = frame[(frame["shows"] == shows) & (frame["label"] == label) & (frame["against"] == against)]
    assert len(rows) == 1
    return rows["value"].iloc[0]


def test_win_rates_are_means_over_seeds_and_queries_with_ties_half(places):
    found = draw(places, resamples=200)
    # (0.9 + 0.7 + 0.9 + 0.8) / 4
    assert value_of(found.frame, "win rate", "r3", "base") == pytest.approx(0.825)
    assert value_of(found.frame, "win rate", "avg_prob", "base") == pytest.approx(0.55)
    # query 0: [1, 1] meets [1, 0]: two wins, two ties = 0.75; query 1: [1, 0] meets [0, 0]: likewise
    assert value_of(found.frame, "win rate", "r3", "avg_prob") == pytest.approx(0.75)
    assert value_of(found.frame, "win rate", "avg_prob", "r3") == pytest.approx(0.25)
    assert value_of(found.frame, "change in reasoning tokens", "r3", "base") == pytest.approx(6)
    assert value_of(found.frame, "change in reasoning tokens", "avg_prob", "base") == pytest.approx(-3)
    assert "| avg_prob against r3 | 0.25 [0.25, 0.25] | none: judge=exact computes | r3 wins |" in found.page
    assert "none: judge=exact computes" in found.page
    assert "fewer than 3 seeds (avg_prob, r3)" in found.page


def test_pairs_are_all_seeds_with_all_and_unknown_quality_is_left_out(places):
    from analysis.answers import answers_of
    from analysis.load import by_label

    runs = by_label(load_runs([places]))
    r3, avg = (answers_of(runs[label], label, split=None, decoding="sampled") for label in ("r3", "avg_prob"))
    assert pairwise(r3, avg).shape == (2, 2, 2)
    assert pairwise(r3, avg) + pairwise(avg, r3).swapaxes(0, 1) == pytest.approx(np.ones((2, 2, 2)))
    r3.quality_SQN[0, 0] = np.nan
    r3.quality_SQN[0, 1, 0] = np.nan
    assert np.isnan(pairwise(r3, avg)[0, :, 0]).all()
    assert pairwise(r3, avg)[0, 0, 1] == 0.5  # only the wrong answer is left, and it ties


def test_a_judge_that_was_asked_shows_its_flips_and_is_asked_again_on_demand(tmp_path, monkeypatch):
    for seed, (reward, text) in itertools.product((0, 1), {"r3": "long answer", "avg_prob": "short"}.items()):
        rows = answers([[math.nan] * 2] * 2, win_rates=[0.8, 0.6], flips=0.25, text=text)
        write_run(
            tmp_path / f"{reward}_{seed}", CURVE, reward=reward, seed=seed, answers=rows, judge="openai",
            keys={"names.judge": "openai", "evaluation.pairs": "matched"},
        )  # fmt: skip
    found = draw(tmp_path, resamples=200)
    assert "0.25 [0.25, 0.25]" in found.page
    assert "not in the record: judge=openai was not asked (--ask asks the judge now" in found.page
    assert set(found.frame["against"]) == {"base", ""}

    class PrefersLong:
        name, asked = "openai", 0

        def preferences(self, pairs: list[Pair]) -> list[float]:
            self.asked += len(pairs)
            # long answers win, but on query 1 the one that stands first does
            return [float(pair.row.id == "q1" or len(pair.first) > len(pair.second)) for pair in pairs]

    judge = PrefersLong()
    rows = [Row(id=f"q{q}", prompt=[{"role": "user", "content": ""}], reference="", columns={}) for q in range(2)]
    monkeypatch.setattr(ask, "judge_and_rows", lambda run, queries: (judge, rows))
    again = draw(tmp_path, resamples=200, ask=True)
    assert value_of(again.frame, "win rate", "r3", "avg_prob") == 0.75
    assert value_of(again.frame, "order flips", "avg_prob", "r3") == 0.5
    assert judge.asked == 2 * 2 * 2 * 2  # seeds, queries, matched samples, both orders


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": []}, "has no answers.parquet"),
        (
            {"answers": [{"step": 0, "prompt_id": q, "prompt": q} for q in ("q0", "q1")]},
            "was evaluated at step 0 alone",
        ),
        ({"keys": {"names.judge": "openai"}}, "judge is exact in the first and openai in the second"),
    ],
)
def test_runs_without_comparable_answers_are_refused(places, tmp_path, capsys, changes, said):
    rows = answers([[1.0] * 2] * 2, win_rates=[1.0, 1.0])
    rows = [{**row, "prompt": f"prompt {row['prompt_id'][1]}"} for row in changes.pop("answers", rows)]
    write_run(places / "rouge_0", CURVE, reward="rouge", answers=rows, **changes)
    assert main([str(places), "-o", str(tmp_path / "fig.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "fig.png").exists()


def test_the_command_writes_everything(places, tmp_path, capsys):
    assert main([str(places), "--resamples", "200", "-o", str(tmp_path / "fig.png")]) == 0
    assert {path.suffix for path in tmp_path.glob("fig.*")} == {".png", ".csv", ".md"}
    assert "python -m analysis.win_rate" in capsys.readouterr().out
    assert main([str(places), "--decoding", "greedy"]) == 2
    assert "no greedy answers on split validation; it has sampled on validation" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- intervals


def test_a_crossed_mean_of_equal_cells_is_certain_and_unknown_cells_weigh_nothing():
    assert crossed_mean(np.full((3, 4), 0.7), over=(0, 1), confidence=0.9, resamples=200, seed=0) == pytest.approx(
        (0.7, 0.7, 0.7)
    )
    values = np.array([[1.0, np.nan], [0.0, np.nan]])
    mean, low, high = crossed_mean(values, over=(0, 1), confidence=0.9, resamples=2000, seed=0)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    assert all(map(math.isnan, crossed_mean(np.full((2, 2), np.nan), over=(0, 1), confidence=0.9, resamples=9, seed=0)))
    alone = crossed_mean(np.array([[0.4]]), over=(0, 1), confidence=0.9, resamples=9, seed=0)
    assert alone[0] == 0.4
    assert math.isnan(alone[1])


def test_a_crossed_interval_is_that_of_resampling_by_hand():
    rng = np.random.default_rng(0)
    values = rng.random((3, 4, 5))
    by_hand = []
    for _ in range(4000):
        a, b, c = (rng.integers(size, size=size) for size in values.shape)
        by_hand.append(values[np.ix_(a, b, c)].mean())
    found = crossed_mean(values, over=(0, 1, 2), confidence=0.9, resamples=4000, seed=1)
    assert found[1:] == pytest.approx(np.quantile(by_hand, [0.05, 0.95]), abs=0.01)


@pytest.mark.slow
def test_the_win_rate_interval_covers_a_planted_win_rate(record_property):
    """5 seeds by 32 queries: seeds differ by 0.05, queries by 0.2, and a query's rate is of 4 pairs."""
    rng, held, truth = np.random.default_rng(0), [], 0.6
    for repetition in range(1000):
        rates = truth + 0.05 * rng.normal(size=(5, 1)) + np.clip(0.2 * rng.normal(size=(1, 32)), -0.35, 0.35)
        values = rng.binomial(4, np.clip(rates, 0, 1)) / 4
        _, low, high = crossed_mean(values, over=(0, 1), confidence=0.9, resamples=300, seed=repetition)
        held.append(low <= truth <= high)
    share = float(np.mean(held))
    record_property("printed", f"win rate: the 90% interval covers a planted 0.60 in {share:.1%} of 1,000 repetitions")
    assert 0.85 <= share <= 0.97
