"""NaN and infinity at every place of a step: named, dumped, and no weight is changed by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dro_lab.advantages.group_norm import group_norm
from dro_lab.errors import NonFiniteError
from dro_lab.launch.group import Ranks
from dro_lab.pipeline import unexplained_nan
from dro_lab.rewards.avg_prob import avg_prob
from dro_lab.training.findings import DUMP, NAN_REWARDS
from dro_lab.training.nonfinite import FiniteGuard
from dro_lab.types import Need, Rewards, Stat, TokenStats
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
@pytest.mark.tried("faults")
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
@pytest.mark.tried("faults")
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
        assert "such rollouts count as not scored and teach nothing" in said[0]
    else:
        assert moved == [True, False, True]
        assert "the update is left out" in said[0]
    assert len(said) == 1
    for part in ("step 2", *PLACES[place], str(tmp_path / DUMP)):
        assert part in said[0]
    assert (tmp_path / DUMP).exists()


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


@pytest.mark.parametrize("greedy", [False, True])
def test_a_policy_without_probabilities_is_not_evaluated(tmp_path: Path, greedy: bool) -> None:
    trainer, _ = built(tmp_path, "none", "skip")
    prompts = [[5, 6, 7], [8, 9]]
    assert len(trainer.sample(prompts, 2, batch_size=4, seed=1, greedy=greedy)) == 4
    with torch.no_grad():
        trainer.policy.model.norm.weight[3] = INF
    with pytest.raises(NonFiniteError, match=r"^step 1: evaluation before this step: logits: .*look at its weights"):
        trainer.sample(prompts, 2, batch_size=4, seed=1, greedy=greedy)
    assert not (tmp_path / DUMP).exists(), "there is nothing to look at"


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


def test_a_nan_reward_is_said_once_and_counted(tmp_path: Path) -> None:
    def reward(groups, stats):
        good = lab.count_reward(groups, stats).outcome_PG.clone()
        if groups.step >= BAD_STEP:
            good[1, 2] = good[1, 2] * 0 / 0
        return Rewards(outcome_PG=good)

    for action in ("stop", "skip"):
        (folder := tmp_path / action).mkdir()
        chosen = lab.pipeline(reward=lab.component("broken", reward))
        chosen = replace(chosen, infinite="unscorable" if action == "skip" else "refuse")
        said: list[str] = []
        guard = FiniteGuard(action=action, folder=folder, say=said.append)
        trainer = lab.trainer(folder, chosen=chosen, extra={"guard": guard})
        trainer.train()
        assert trainer.state.global_step == 3
        assert len(said) == 1
        for part in ("step 2: reward=broken: nan", "in row 6 (prompt row-", "reward/unscorable_share", NAN_REWARDS):
            assert part in said[0]
        assert guard.nan_rewards == 2
        assert not (folder / DUMP).exists()
        with safe_open(folder / NAN_REWARDS, "pt") as dump:
            assert dump.get_tensor("outcome_PG").isnan().nonzero().tolist() == [[1, 2]]


def test_nan_is_no_surprise_where_something_that_the_reward_read_is_missing() -> None:
    nan_PG = torch.tensor([[NAN, 1.0, NAN], [0.5, NAN, NAN]])

    def unexplained(**stats: torch.Tensor) -> list[list[bool]]:
        scored: Any = SimpleNamespace(sampled=Rewards(outcome_PG=nan_PG), stats=TokenStats(**stats), given=None)
        return unexplained_nan(scored).tolist()

    assert unexplained() == [[True, False, True], [False, True, True]]
    no_reference = torch.tensor([[False, False], [True, False]])
    assert unexplained(reference_mask_PR=no_reference) == [[False] * 3, [False, True, True]]
    no_points = torch.tensor([[[True], [True], [False]], [[True], [True], [False]]])
    assert unexplained(prefix_mask_PGK=no_points) == [[True, False, False], [False, True, False]]
    not_judged = torch.tensor([[NAN, NAN, 0.0], [0.0, NAN, 1.0]])
    assert unexplained(verifier_PG=not_judged) == [[False, False, True], [False, False, True]]


def test_an_update_that_shares_its_batch_names_its_own_step(tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, num_iterations=2)
    poison(trainer, "loss")
    with pytest.raises(NonFiniteError, match=r"^step 2: update: loss"):
        trainer.train()


@pytest.mark.parametrize("bad", [2, 3])
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_an_update_of_two_batches_one_of_which_is_bad(tmp_path: Path, action: str, bad: int) -> None:
    said: list[str] = []
    guard = FiniteGuard(action=action, folder=tmp_path, say=said.append)
    trainer = lab.trainer(
        tmp_path, extra={"guard": guard}, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    own, calls, at = trainer._compute_loss, [0], [weights(trainer)]

    def compute(model, inputs):
        if calls[0] % 2 == 0 and calls[0]:
            at.append(weights(trainer))
        calls[0] += 1
        return own(model, inputs) * (NAN if calls[0] == bad + 1 else 1.0)

    trainer._compute_loss = compute
    if action == "stop":
        with pytest.raises(NonFiniteError, match=r"^step 2: update: loss"):
            trainer.train()
    else:
        trainer.train()
        assert [line.startswith("step 2: update: loss") and "left out" in line for line in said] == [True]
    moved = [
        any(not torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(at, [*at[1:], weights(trainer)], strict=True)
    ]
    assert moved == ([True, False] if action == "stop" else [True, False, True])


def test_a_row_that_cannot_be_sampled_leaves_the_update_out(tmp_path: Path) -> None:
    trainer, said = built(tmp_path, "none", "skip")

    def spoil(module, inputs, output):
        decoding = output.last_hidden_state.shape[1] == 1 and not output.last_hidden_state.requires_grad
        if trainer.state.global_step == BAD_STEP and decoding:
            output.last_hidden_state[5] = NAN
        return output

    trainer.policy.base_model.register_forward_hook(spoil)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(said) == 1
    assert "step 2: sampling: logits: not a finite number in row 5 (prompt row-" in said[0]
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


def test_a_dump_that_cannot_be_written_does_not_hide_what_was_found(tmp_path: Path) -> None:
    values = torch.tensor([1.0, NAN])
    guard = FiniteGuard(action="stop", folder=tmp_path / "gone", say=print)
    with pytest.raises(NonFiniteError, match=r"^step 1: there: not a finite number in row 1; it could not be dumped"):
        guard.report("there", [1], {"values": values})
    guard = FiniteGuard(action="stop", folder=tmp_path, say=print)
    with pytest.raises(NonFiniteError, match="dumped to"):  # safetensors itself takes no tensors that share memory
        guard.report("there", [1], {"values": values, "the same": values})
    with safe_open(tmp_path / DUMP, "pt") as dump:
        assert dump.get_tensor("the same").isnan().tolist() == [False, True]


def together(folder: Path, action: str, does: Callable[[FiniteGuard], object]) -> list[tuple[str, list[str], bool]]:
    """What two ranks do, each in a thread of its own: its error, what it said, and whether its update is left out."""
    meet, given = Barrier(2, timeout=20), [None, None]

    def rank(index: int) -> tuple[str, list[str], bool]:
        def exchange(value: Any) -> list[Any]:
            given[index] = value
            meet.wait()
            everything = list(given)
            meet.wait()
            return everything

        said: list[str] = []
        guard = FiniteGuard(action=action, folder=folder, say=said.append, ranks=Ranks(index, 2, exchange))
        guard.rollouts(["a", "b"], [[1], [2]])
        try:
            does(guard)
        except NonFiniteError as error:
            return str(error) if error.together else "alone", said, guard.poisoned
        return "", said, guard.poisoned

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_what_one_rank_finds_all_hear(tmp_path: Path, action: str) -> None:
    def second_finds(guard: FiniteGuard) -> None:
        guard.advantages(torch.tensor([[0.0], [NAN if guard.ranks.index else 1.0]]))

    (error, said, poisoned), second = together(tmp_path, action, second_finds)
    assert (error, said, poisoned) == second
    text = "step 1, rank 1: advantages: not a finite number in row 1 (prompt b); dumped to "
    assert (error or said[0]).startswith(f"{text}{tmp_path}/nonfinite-rank1.safetensors")
    assert [found.name for found in tmp_path.iterdir()] == ["nonfinite-rank1.safetensors"]
    assert poisoned
    assert bool(error) == (action == "stop")


def test_ranks_tell_their_own_rows_of_what_a_component_refused(tmp_path: Path) -> None:
    def refuse(guard: FiniteGuard) -> None:
        outcome = torch.tensor([[0.0], [0.0], [0.0], [INF]])  # two prompts a rank
        guard.refuse(NonFiniteError("no", source="reward=r", rows=[3], tensors={"outcome_PG": outcome}))
        guard.agree()

    first, second = together(tmp_path, "stop", refuse)
    assert first == second
    assert first[0].startswith("step 1, rank 1: no. Not finite in row 1 (prompt b); dumped to ")
    with safe_open(tmp_path / "nonfinite-rank1.safetensors", "pt") as dump:
        assert dump.get_tensor("outcome_PG").tolist() == [[0.0], [INF]]


def test_a_rank_of_which_nothing_is_left_ends_the_run_only_with_the_others(tmp_path: Path) -> None:
    def sample(guard: FiniteGuard) -> None:
        if guard.ranks.index or everywhere:
            guard.sampling([0, 1], ["a", "b"], [[3], [4, 5]])
        guard.agree()

    everywhere = False
    assert [error for error, *_ in together(tmp_path, "skip", sample)] == ["", ""]
    everywhere = True
    assert all("step 1, rank 0: sampling: logits" in error for error, *_ in together(tmp_path, "skip", sample))
    with safe_open(tmp_path / DUMP, "pt") as dump:
        assert dump.get_tensor("completion_ids_of_row_1").tolist() == [4, 5]
