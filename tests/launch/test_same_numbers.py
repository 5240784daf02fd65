"""Two processes on a CPU come to what one comes to: rewards, decisions, advantages, loss. With completions replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cli_fixture import run_main, save_policy, small_run
from tests.launch.group import launcher_env, run_two
from tests.launch.replay import Replay

SHARED = [
    "steps=2",
    "report=false",
    "algorithm.num_generations=4",
    "algorithm.learning_rate=1e-3",
    "rollout.max_completion_length=16",
    "evaluation.prompts=1",
    "evaluation.every=100",
    "evaluation.greedy=false",
    "evaluation.also=[]",
    "evaluation.kl=false",
    "dataset.sizes={train: 24, validation: 4, test: 2, ood: 2}",
]
FILTERED = [
    "steps=5",
    "model.path=null",
    "rollout.max_completion_length=96",
    "algorithm.learning_rate=2e-4",
    "filtering=r3_variance",
    "filtering.window=8",
    "gating=rubric",
    "gating.rubrics.corrupt=negate",
    "gating.rubrics.share=0.3",
]
WHITENED = ["advantage=reinforce_pp", "reward=repro", "reward@reward.outcome=r3", "reward.segment_on=line"]
ADAPTER = ["model.peft=lora", "scored_by=reference", "algorithm.learning_rate=1e-2"]
REJECTED = ["gating._target_=tests.launch.faults.second_half", "scorer.tokens_per_batch=40", "steps=1"]
JOBS = {  # name: launch, overrides
    "ddp": ("ddp", FILTERED),
    "ddp_whitened": ("ddp", WHITENED),
    "fsdp": ("fsdp", FILTERED),
    "fsdp_adapter": ("fsdp", ADAPTER),
    "fsdp_rejected": ("fsdp", REJECTED),
}


def overrides(policy: Path, own: list[str], *, batch: int, folder: str) -> list[str]:
    last = {one.split("=")[0]: one for one in [*SHARED, *own, f"algorithm.per_device_train_batch_size={batch}"]}
    return small_run(policy, [*last.values(), f"hydra.run.dir={folder}"])


def job(folder: Path, policy: Path, name: str, launch: str, own: list[str], **more: Any) -> dict[str, Any]:
    """What two processes do: half of the batch each, with the completions that one sampled."""
    return {
        "name": name,
        "arguments": [
            *overrides(policy, own, batch=8, folder=f"two_{name}"),
            f"launch={launch}",
            "launch.num_processes=2",
        ],
        "completions": str(folder / f"{name}.json"),
        "env": {"ACCELERATE_USE_FSDP": "false", **launcher_env(launch)},
        "fsdp_on_a_cpu": launch == "fsdp",
    } | more


def by_one(folder: Path, policy: Path, name: str, own: list[str]) -> Replay:
    """The run by one process; what it sampled is written down."""
    replay = Replay()
    replay.record()
    try:
        ended = run_main(overrides(policy, own, batch=16, folder=f"one_{name}"))
    finally:
        replay.stop()
    assert ended.code == 0, ended.text
    replay.save(folder / f"{name}.json")
    return replay


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each job by one process and by two."""
    folder = tmp_path_factory.mktemp("launch")
    policy = save_policy(folder / "policy")
    jobs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (launch, own) in JOBS.items():
            if name == "fsdp":  # the same run
                (folder / "one_fsdp").symlink_to("one_ddp")
                (folder / "fsdp.json").symlink_to("ddp.json")
            else:
                by_one(folder, policy, name, own)
            jobs.append(job(folder, policy, name, launch, own))
        jobs.sort(key=lambda one: one["fsdp_on_a_cpu"])
        ended = run_two(folder, jobs, timeout=280)
    assert ended.codes == [0, 0], "\n".join(ended.texts)
    return folder


def rollouts(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "rollouts.parquet")
    return rows.sort_values(["step", "prompt_id", "rollout"]).reset_index(drop=True)


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line.get(key) is not None]


def report(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"{name}_rank{rank}.json").read_text())


@pytest.mark.parametrize("name", JOBS)
def test_there_were_two_processes_and_the_wrapper_was_what_the_launch_says(runs: Path, name: str) -> None:
    for rank in (0, 1):
        how = report(runs, name, rank)
        assert (how["rank"], how["processes"]) == (rank, 2)
        if JOBS[name][0] == "ddp":
            assert how["type"] == "MULTI_CPU"
            assert "DistributedDataParallel" in how["wrapper"]
            assert how["local"] == how["shape"]
        else:
            assert how["type"] == "FSDP"
            assert "FSDPModule" in how["wrapper"]
            assert how["local"][0] * 2 == how["shape"][0], "each holds half of the matrix"


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_judge_as_one(runs: Path, name: str) -> None:
    one, two = rollouts(runs / f"one_{name}"), rollouts(runs / f"two_{name}")
    assert len(one) == len(two) == 16 * (one.step.max() - one.step.min() + 1)
    for column in ("prompt_id", "reasoning", "answer", "kept", "reason"):
        assert one[column].tolist() == two[column].tolist(), column
    for column in ("reward", "advantage"):
        torch.testing.assert_close(
            torch.tensor(two[column]), torch.tensor(one[column]), atol=1e-5, rtol=0, equal_nan=True, msg=column
        )
    assert one.reward.std() > 0.01
    assert one.advantage.abs().max() > 0.1
    losses = [torch.tensor(logged(runs / f"{many}_{name}", "loss")) for many in ("one", "two")]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
    norms = [logged(runs / f"{many}_{name}", "grad_norm") for many in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3, abs=1e-5)
    assert max(norms[0]) > 0, "there was something to learn"


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_gate_and_running_threshold_decided_something_and_alike(runs: Path, name: str) -> None:
    one, two = rollouts(runs / f"one_{name}"), rollouts(runs / f"two_{name}")
    assert one.step.nunique() == 5
    assert 0 < one.kept.mean() < 1
    assert len(set(one.reason)) >= 3, set(one.reason)  # kept, rejected by the gate, dropped by the filter
    tau = [logged(runs / f"{many}_{name}", "filter/tau") for many in ("one", "two")]
    assert len(set(tau[0])) > 1
    assert tau[1] == pytest.approx(tau[0], abs=1e-5)
    assert len(two) == len(one)


@pytest.mark.parametrize("name", JOBS)
def test_the_first_process_alone_writes_and_prints(runs: Path, name: str) -> None:
    first, second = (report(runs, name, rank) for rank in (0, 1))
    assert "held-out quality" in first["out"]
    assert second["out"] == ""
    summary = json.loads((runs / f"two_{name}/summary.json").read_text())
    assert summary["status"] == "finished"
    steps = logged(runs / f"two_{name}", "step")
    assert sorted(set(steps)) == sorted(set(logged(runs / f"one_{name}", "step")))
    assert not list(runs.glob("outputs*")), "no process made a folder of its own"


@pytest.mark.parametrize("name", JOBS)
def test_the_saved_policy_is_plain_and_the_one_that_one_process_saves(runs: Path, name: str) -> None:
    one, two = (AutoModelForCausalLM.from_pretrained(runs / f"{many}_{name}/policy") for many in ("one", "two"))
    assert type(two).__name__ == "Qwen3ForCausalLM"
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        apart = (one(ids).logits - two(ids).logits).abs().max().item()
    assert apart < 0.05, "updates of Adam grow with the least differences where a gradient is next to nothing"


def test_an_adapter_is_all_that_is_trained(runs: Path) -> None:
    how = report(runs, "fsdp_adapter", 0)
    assert how["gradients"]
    assert all(".lora_" in weight for weight in how["gradients"])
    assert (runs / "two_fsdp_adapter/policy/adapter/adapter_model.safetensors").exists()


def test_a_rank_whose_groups_are_all_rejected_holds_nobody_up(runs: Path) -> None:
    rows = rollouts(runs / "two_fsdp_rejected")
    assert rows.kept.mean() == 0.5
    assert set(rows[~rows.kept].reason) == {"the second rank's"}
