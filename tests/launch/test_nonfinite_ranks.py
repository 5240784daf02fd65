"""What is not finite on the second of two processes alone: the first one says it, and both do the same about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.cli_fixture import save_policy, small_run
from tests.launch.group import launcher_env, run_two

pytestmark = pytest.mark.long

SECONDS = 90
"""Far more than these runs need, and far less than one process would wait for the other."""
SETTINGS = (
    "steps=3",
    "report=false",
    "algorithm.gradient_accumulation_steps=2",
    "algorithm.learning_rate=1e-2",
    "algorithm.per_device_train_batch_size=2",
    "evaluation.prompts=1",
    "evaluation.every=100",
    "evaluation.greedy=false",
    "evaluation.also=[]",
    "evaluation.kl=false",
)
LOSS, GRADIENT = "nan_loss_on_the_second", "nan_gradient_on_the_second"
JOBS = [  # launch, what goes wrong, on_nonfinite
    ("ddp", LOSS, "skip"),
    ("ddp", LOSS, "stop"),
    ("fsdp", LOSS, "skip"),
    ("fsdp", LOSS, "stop"),
    ("fsdp", GRADIENT, "stop"),
]
NAMED = "model.layers.0.mlp.up_proj.weight"


def job(policy: Path, launch: str, fault: str, action: str) -> dict[str, Any]:
    name = f"{launch}_{fault}_{action}"
    own = [*SETTINGS, f"on_nonfinite={action}", f"launch={launch}", "launch.num_processes=2", f"hydra.run.dir={name}"]
    return {
        "name": name,
        "arguments": small_run(policy, own),
        "env": {"ACCELERATE_USE_FSDP": "false", **launcher_env(launch)},
        "fsdp_on_a_cpu": launch == "fsdp",
        "before": fault,
        "code": 2 if action == "stop" else 0,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nonfinite")
    policy = save_policy(folder / "policy")
    ended = run_two(folder, [job(policy, *one) for one in JOBS], timeout=SECONDS)
    assert ended.codes == [0, 0], "\n".join(ended.texts)
    return folder


@pytest.mark.parametrize(("launch", "fault", "action"), JOBS)
def test_both_leave_the_update_out_or_both_end(runs: Path, launch: str, fault: str, action: str) -> None:
    folder = runs / f"{launch}_{fault}_{action}"
    first, second = (json.loads((runs / f"{folder.name}_rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["type"], first["processes"]) == ("FSDP" if launch == "fsdp" else "MULTI_CPU", 2)
    summary = json.loads((folder / "summary.json").read_text())
    dump = folder / ("nonfinite-rank1.safetensors" if fault == LOSS else "nonfinite.safetensors")
    found = "step 2, rank 1: update: loss" if fault == LOSS else f"step 2: update: gradient of {NAMED}"
    if action == "stop":
        assert summary["status"] == "failed"
        assert summary["steps"] == 1
        for said in (first["err"], second["err"], summary["error"]):
            assert found in " ".join(said.split())
            assert str(dump) in said
        assert "Traceback" not in first["err"] + second["err"]
    else:
        assert summary["status"] == "finished"
        assert summary["steps"] == 3
        assert " ".join(first["out"].split()).count(found) == 1
        weights = load_file(folder / "policy/model.safetensors")
        assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(("launch", "fault", "action"), JOBS)
def test_the_dump_lies_in_the_folder_of_the_run(runs: Path, launch: str, fault: str, action: str) -> None:
    folder = runs / f"{launch}_{fault}_{action}"
    (file,) = folder.glob("nonfinite*.safetensors")
    with safe_open(file, "pt") as dump:
        about = json.loads(dump.metadata()["found"])
        tensors = {name: dump.get_tensor(name) for name in list(dump.keys())}
    assert about["step"] == 2
    if fault == LOSS:
        assert file.name == "nonfinite-rank1.safetensors"
        assert tensors["loss"].isnan()
        assert len(tensors["completion_ids"]) == 2
    else:  # whole, though each process has a half: the second one's is nan
        gradient = tensors[NAMED]
        half = len(gradient) // 2
        assert gradient.shape == load_file(runs / "policy/model.safetensors")[NAMED].shape
        assert torch.isfinite(gradient[:half]).all()
        assert gradient[half:].isnan().all()
