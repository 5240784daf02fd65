"""KL to the policy before training: against a computation token by token, and who measures it."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import torch

from analysis import curves
from dro_lab.evaluation import divergence
from dro_lab.evaluation.divergence import keeps_start, kl_to_start
from dro_lab.record.read import load_run
from dro_lab.training.policies import frozen_copy
from tests.cli_fixture import run_main, save_policy, small_run
from tests.tiny import tiny_gemma2, tiny_qwen3


def moved(model: torch.nn.Module, by: float, seed: int = 0) -> torch.nn.Module:
    """A copy whose weights were pushed about."""
    found = frozen_copy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in found.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return found


PROMPTS = [[5, 6, 7], [8, 9]]
COMPLETIONS = [[1, 2, 3, 4], [10], [11, 12], []]


@pytest.fixture(scope="module")
def policies() -> tuple[torch.nn.Module, torch.nn.Module]:
    start = frozen_copy(tiny_qwen3(64))
    return moved(start, 0.05), start


def by_hand(model: torch.nn.Module, start: torch.nn.Module, prompt: list[int], completions: list[list[int]]) -> float:
    found = []
    for ids in completions:
        for place in range(len(ids)):
            text = torch.tensor([[*prompt, *ids[:place]]])
            p, q = (torch.softmax(policy(input_ids=text).logits[0, -1].double(), 0) for policy in (model, start))
            found.append(float((p * (p / q).log()).sum()))
    return math.fsum(found) / len(found)


@torch.no_grad()
@pytest.mark.parametrize(("tokens", "chunk"), [(2048, 512), (1, 1), (12, 3)])
def test_it_is_the_mean_over_tokens_of_the_divergence_of_whole_distributions(policies, tokens, chunk, monkeypatch):
    monkeypatch.setattr(divergence, "TOKENS", tokens)
    monkeypatch.setattr(divergence, "CHUNK", chunk)
    model, start = policies
    found = kl_to_start(model, start, PROMPTS, COMPLETIONS, group_size=2)
    expected = [by_hand(model, start, PROMPTS[0], COMPLETIONS[:2]), by_hand(model, start, PROMPTS[1], COMPLETIONS[2:])]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(found) > 1e-4


def test_the_policy_before_training_is_nowhere_from_itself_and_flags_stay(policies):
    model = policies[1].train()
    assert kl_to_start(model, model, PROMPTS, COMPLETIONS, group_size=2) == pytest.approx([0.0, 0.0], abs=1e-9)
    assert model.training
    model.eval()


def test_a_prompt_without_a_token_has_no_divergence(policies):
    found = kl_to_start(*policies, [[5], [6]], [[1], []], group_size=1)
    assert math.isnan(found[1])
    assert found[0] > 0


def test_a_model_that_caps_its_logits_is_taken_as_it_is():
    start = frozen_copy(tiny_gemma2(64))
    model = moved(start, 0.05)
    with torch.no_grad():
        expected = [by_hand(model, start, PROMPTS[n], COMPLETIONS[2 * n : 2 * n + 2]) for n in (0, 1)]
    assert kl_to_start(model, start, PROMPTS, COMPLETIONS, group_size=2) == pytest.approx(expected, rel=1e-4)


def test_a_small_policy_is_kept_unless_that_is_refused(policies, monkeypatch):
    assert [keeps_start(asked, policies[1]) for asked in ("auto", True, False)] == [True, True, False]
    monkeypatch.setattr(divergence, "SMALL", 10)
    assert [keeps_start(asked, policies[1]) for asked in ("auto", True, False)] == [False, True, False]


@pytest.mark.slow
def test_a_run_that_is_asked_measures_it_and_the_curves_show_it(tmp_path: Path):
    with contextlib.chdir(tmp_path):
        ended = run_main(small_run(save_policy(tmp_path / "tiny"), ["evaluation.kl=true", "report=false", "threads=1"]))
        assert ended.code == 0, ended.err
        run = load_run(tmp_path / "run")
    values = run.evals[run.evals["metric"] == "kl"].set_index("step")["value"]
    assert values.iloc[0] == 0.0
    assert values.iloc[-1] > 0.0
    shown = curves.draw(run.folder).frame
    assert shown[shown["panel"] == "kl"]["value"].tolist() == pytest.approx(values.tolist())
