"""NaN and infinity at every place of a step: named, dumped, and no weight is changed by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dro_lab.advantages.group_norm import group_norm
from dro_lab.errors import NonFiniteError
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.training.nonfinite import DUMP, FiniteGuard
from dro_lab.types import Need, Rewards, Stat
from tests import lab_fixture as lab

INF, NAN = float("inf"), float("nan")
BAD_STEP = 1  # counted from 0: the second of three


def broken(bad: float):
    """A reward that is ``bad`` at one rollout of the second step."""

    def reward(groups, stats):
        good = lab.count_reward(groups, stats).outcome_PG
        if groups.step == BAD_STEP:
            good = good.clone()
            good[1, 2] = bad
        return Rewards(outcome_PG=good)

    return lab.component("broken", reward)


def broken_advantage(rewards, keep_PG, loss_mask_PGC):
    advantages = group_norm(rewards, keep_PG, loss_mask_PGC)
    if broken_advantage.calls == BAD_STEP:
        advantages = advantages.clone()
        advantages[0, 3] = NAN
    broken_advantage.calls += 1
    return advantages


def poison(trainer, place: str) -> None:
    """Make one place of the second step a number that is none."""
    model = trainer.policy
    if place == "gradient":

        def spoil(gradient):
            return gradient * NAN if trainer.state.global_step == BAD_STEP else gradient

        dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"].register_hook(spoil)
    elif place == "logits":

        def overflow(module, inputs, output):
            if trainer.state.global_step == BAD_STEP and output.last_hidden_state.requires_grad:
                output.last_hidden_state = output.last_hidden_state.clone()
                output.last_hidden_state[5, -3] = INF
            return output

        model.base_model.register_forward_hook(overflow)
    elif place == "loss":
        own = trainer._compute_loss
        trainer._compute_loss = lambda model, inputs: (
            own(model, inputs) * (NAN if trainer.state.global_step == BAD_STEP else 1.0)
        )


def built(folder: Path, place: str, action: str):
    said: list[str] = []
    parts: dict[str, Any] = {}
    if place == "reward":
        parts["reward"] = broken(INF)
    if place == "advantages":
        broken_advantage.calls = 0
        parts["advantage"] = lab.component("broken", broken_advantage)
    chosen = replace(lab.pipeline(**parts), infinite="unscorable" if action == "skip" else "refuse")
    guard = FiniteGuard(action=action, folder=folder, say=said.append)
    trainer = lab.trainer(folder, chosen=chosen, extra={"guard": guard})
    poison(trainer, place)
    return trainer, said


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.policy.named_parameters()}


PLACES = {
    "reward": ("reward=broken", "6", "row-"),
    "advantages": ("advantages", "3", "row-"),
    "logits": ("update: logits", "5", "row-"),
    "loss": ("update: loss", "", ""),
    "gradient": ("gradient of model.layers.0.mlp.up_proj.weight", "", ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_stop_names_step_place_and_rows_and_changes_no_weight(tmp_path: Path, place: str) -> None:
    trainer, _ = built(tmp_path, place, "stop")
    before: dict[str, torch.Tensor] = {}
    make = trainer._generate_and_score_completions

    def remember(inputs):
        before.update(weights(trainer))
        return make(inputs)

    trainer._generate_and_score_completions = remember
    with pytest.raises(NonFiniteError) as refused:
        trainer.train()
    source, row, prompt = PLACES[place]
    message = str(refused.value)
    for part in ("step 2", source, row, prompt, DUMP):
        assert part in message
    for name, value in weights(trainer).items():
        assert torch.equal(value, before[name]), name
    with safe_open(tmp_path / DUMP, "pt") as dump:
        about = json.loads(dump.metadata()["found"])
        tensors = {name: dump.get_tensor(name) for name in list(dump.keys())}
    assert about["step"] == 2
    assert source in about["source"]
    assert about["rows"] == ([int(row)] if row else [])
    assert any((~torch.isfinite(value.float())).any() for value in tensors.values()) or place == "logits"


@pytest.mark.parametrize("place", PLACES)
def test_skip_leaves_the_update_out_and_goes_on(tmp_path: Path, place: str) -> None:
    trainer, said = built(tmp_path, place, "skip")
    at: list[dict[str, torch.Tensor]] = []
    make = trainer._generate_and_score_completions

    def remember(inputs):
        at.append(weights(trainer))
        return make(inputs)

    trainer._generate_and_score_completions = remember
    trainer.train()
    after = weights(trainer)
    assert trainer.state.global_step == 3
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(at, [*at[1:], after], strict=True)]
    if place == "reward":  # one rollout cannot be scored, the others teach
        assert moved == [True, True, True]
        assert said == []
    else:
        assert moved == [True, False, True]
        assert len(said) == 1
        assert "step 2" in said[0]
        assert "left out" in said[0]


def test_updates_left_out_in_a_row_end_the_run(tmp_path: Path) -> None:
    guard = FiniteGuard(action="skip", folder=tmp_path, say=lambda line: None, patience=3)
    for skipped in (True, True, False, True, True):
        guard.updated(skipped=skipped)
    with pytest.raises(NonFiniteError, match=r"3 updates in a row.*on_nonfinite=skip"):
        guard.updated(skipped=True)


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_policy_that_is_already_nan_stops_at_the_first_sampling(tmp_path: Path, action: str) -> None:
    trainer, _ = built(tmp_path, "none", action)
    with torch.no_grad():
        trainer.policy.get_input_embeddings().weight.fill_(NAN)
    with pytest.raises(NonFiniteError, match=r"step 1: sampling: logits.*row-"):
        trainer.train()


def test_what_scoring_measured_is_looked_at(tmp_path: Path) -> None:
    chosen = lab.pipeline(reward=lab.component("avg_prob", avg_prob, needs=frozenset({Need(Stat.REFERENCE)})))
    trainer = lab.trainer(tmp_path, chosen=chosen)
    score = trainer.scoring.score

    def spoiled(*args, **kwargs):
        found = score(*args, **kwargs)
        logps = found.stats_for_reports.reference_logps_PGR.clone()
        logps[1, 0, 2] = NAN
        return replace(found, stats_for_reports=replace(found.stats_for_reports, reference_logps_PGR=logps))

    trainer.scoring.score = spoiled
    with pytest.raises(NonFiniteError, match=r"step 1: scoring: reference_logps_PGR.* in row 4 \(prompt row-"):
        trainer.train()


def test_a_masked_word_is_not_infinity(tmp_path: Path) -> None:
    guard = FiniteGuard(action="stop", folder=tmp_path, say=print)
    logits = torch.zeros(2, 3, 5)
    logits[:, :, 4] = -INF
    guard._note(torch.nn.Identity(), None, SimpleNamespace(logits=logits))
    assert guard.bad_logits() == []
    logits[1, 2, 0] = NAN
    guard._note(torch.nn.Identity(), None, SimpleNamespace(logits=logits))
    assert guard.bad_logits() == [1]
