"""Every reward against its stored golden values, and the store against the independent float64 implementation."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import replace

import pytest
import torch

from dro_lab.types import TokenStats
from tests.golden.make_golden import FOLDER, NAMES, PREFIXES, REWARDS, TEXTS, golden
from tests.prefix_step import prefix_fields, reasoning_groups
from tests.tiny_step import groups_of, stats_of


def stored(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def function(name):
    return getattr(importlib.import_module(f"dro_lab.rewards.{name}"), name)


@pytest.mark.parametrize("name", NAMES)
def test_the_store_is_what_the_independent_implementation_gives(name):
    for case, again in zip(stored(name)["cases"], golden(name)["cases"], strict=True):
        assert case["arguments"] == again["arguments"]
        for row, row_again in zip(case["outcome"], again["outcome"], strict=True):
            assert row == pytest.approx(row_again, rel=1e-9) if None not in row else row == row_again


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_equal_their_golden_values(name):
    store = stored(name)
    stats = stats_of(store["probabilities"])
    for case in store["cases"]:
        got = function(name)(groups_of(4, 6), stats, **case["arguments"])
        torch.testing.assert_close(got.outcome_PG, torch.tensor(case["outcome"]), atol=1e-6, rtol=1e-5)
        for p, weights in enumerate(case["weights"]):
            if weights is None:
                assert got.token_weights_PR is None
                continue
            want = torch.zeros(got.token_weights_PR.shape[1])
            want[: len(weights)] = torch.tensor(weights)
            torch.testing.assert_close(got.token_weights_PR[p], want, atol=1e-6, rtol=1e-5)


def written(store, *, with_probabilities=True):
    """Groups with the store's texts, and its statistics."""
    groups = replace(groups_of(4, 6), references_P=store["references"], answers_PG=store["answers"])
    if not with_probabilities:
        return groups, TokenStats()
    stats = stats_of(store["probabilities"])
    masked = stats_of(store["masked"]).reference_logps_PGR if "masked" in store else None
    return groups, replace(stats, masked_logps_PGR=masked)


def test_rouge_equals_its_golden_values():
    store = stored("rouge")
    got = function("rouge")(*written(store, with_probabilities=False))
    torch.testing.assert_close(got.outcome_PG, torch.tensor(store["cases"][0]["outcome"]), atol=1e-6, rtol=1e-6)


def test_r3_v1_equals_its_golden_values():
    store = stored("r3_v1")
    groups, stats = written(store)
    for case in store["cases"]:
        got = function("r3_v1")(groups, stats, **case["arguments"])
        torch.testing.assert_close(got.outcome_PG, torch.tensor(case["outcome"]), atol=1e-5, rtol=1e-5)
        for p, weights in enumerate(case["weights"]):
            want = torch.zeros(got.token_weights_PR.shape[1])
            want[: len(weights)] = torch.tensor(weights)
            torch.testing.assert_close(got.token_weights_PR[p], want, atol=1e-5, rtol=1e-5)


def test_mix_equals_its_golden_values():
    store = stored("mix")
    groups, stats = written(store)
    for case in store["cases"]:
        parts = {
            name: {"weight": weight, "reward": {"_target_": f"dro_lab.rewards.{name}.{name}"}}
            for name, weight in case["arguments"]["weights"].items()
        }
        got = function("mix")(groups, stats, parts=parts, normalise=case["arguments"]["normalise"])
        torch.testing.assert_close(got.outcome_PG, torch.tensor(case["outcome"]), atol=1e-5, rtol=1e-4)


def test_every_reward_has_its_golden_values():
    shipped = {path.stem for path in (FOLDER.parents[1] / "conf" / "reward").glob("*.yaml")}
    assert shipped == set(NAMES) == {*REWARDS, *TEXTS, *PREFIXES, "verifier"}


@pytest.mark.parametrize("name", PREFIXES)
def test_repro_equals_its_golden_values(name):
    store, again = stored(name), golden(name)
    stats = TokenStats(
        verifier_PG=torch.tensor(store["quality"]),
        **prefix_fields(store["points"], store["baselines"], store["ends"]),
    )
    outcome = {"_target_": "dro_lab.rewards.verifier.verifier"}
    for case, made_again in zip(store["cases"], again["cases"], strict=True):
        assert case == made_again
        got = function("repro")(reasoning_groups(3, 6), stats, outcome=outcome, **case["arguments"])
        assert got.outcome_PG.tolist() == case["outcome"]
        want, scored = torch.zeros(3, 6, 12), torch.zeros(3, 6, 12, dtype=torch.bool)
        for p, g in itertools.product(range(3), range(6)):
            for place, value in zip(store["ends"][p][g], case["process"][p][g], strict=True):
                if place >= 0:
                    want[p, g, place], scored[p, g, place] = value, True
        torch.testing.assert_close(got.process_PGC, want, atol=1e-6, rtol=1e-5)
        assert torch.equal(got.process_mask_PGC, scored)
        for part in ("magnitude", "stability"):
            torch.testing.assert_close(got.parts[part], torch.tensor(case[part]), atol=1e-6, rtol=1e-5)
        for key, field in (("alpha", "weight"), ("center", "center"), ("count_correction", "count_correction")):
            if key in case["arguments"]:
                assert getattr(got, f"process_{field}") == case["arguments"][key]


def test_verifier_equals_its_golden_values():
    store = stored("verifier")
    quality = torch.tensor([[float("nan") if q is None else q for q in row] for row in store["quality"]])
    got = function("verifier")(groups_of(2, 3), TokenStats(verifier_PG=quality))
    want = [[float("nan") if q is None else q for q in row] for row in store["cases"][0]["outcome"]]
    torch.testing.assert_close(got.outcome_PG, torch.tensor(want), equal_nan=True, rtol=0, atol=0)
    assert got.metrics["unjudged_share"] == pytest.approx(2 / 6)
