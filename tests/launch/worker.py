"""One of the processes of a test: runs jobs, with completions from a file, and reports how the policy was wrapped."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dro_lab.training.trainer import LabTrainer
from tests.launch import faults
from tests.launch.replay import Replay


def fsdp_on_a_cpu() -> None:
    """accelerate has FSDP for accelerators alone: let it take this CPU, with gloo, for one."""
    from accelerate.state import DistributedType, PartialState

    if not dist.is_initialized():
        dist.init_process_group("gloo")

    def set_device(self: Any) -> None:
        if self.device is None:
            self.device = torch.device("cpu")

    PartialState._prepare_backend = lambda self, cpu=False, sagemaker_dp=False, backend=None: (
        "gloo",
        DistributedType.MULTI_GPU,
    )
    PartialState.set_device = set_device


def seen(trainer: LabTrainer) -> dict[str, Any]:
    """How the policy is held while it is trained."""
    first = next(p for n, p in trainer.policy.named_parameters() if "up_proj" in n)
    local = first.to_local() if hasattr(first, "to_local") else getattr(first, "ds_tensor", first)  # ZeRO's is flat
    return {
        "processes": trainer.accelerator.num_processes,
        "type": trainer.accelerator.distributed_type.value,
        "wrapper": [kind.__name__ for kind in type(trainer.model_wrapped).__mro__],
        "shape": list(getattr(first, "ds_shape", first.shape)),
        "local": list(local.shape),
        "gradients": sorted(n for n, p in trainer.policy.named_parameters() if p.requires_grad),
    }


def main() -> None:
    from tests.cli_fixture import run_main

    rank = int(os.environ["RANK"])
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for job in jobs:
        os.environ.update(job.get("env", {}))
        if job.get("fsdp_on_a_cpu"):
            fsdp_on_a_cpu()
        replay = Replay.load(Path(job["completions"])) if job.get("completions") else None
        report: dict[str, Any] = {"rank": rank}
        calculate = LabTrainer._calculate_rewards

        def look(self: LabTrainer, *args: Any, report=report, calculate=calculate, **kwargs: Any) -> Any:
            report |= seen(self)
            return calculate(self, *args, **kwargs)

        LabTrainer._calculate_rewards = look
        if replay:
            replay.play()
        if job.get("before"):  # a fault that the test plants
            getattr(faults, job["before"])(rank)
        try:
            ended = run_main(job["arguments"])
        finally:
            LabTrainer._calculate_rewards = calculate
            faults.undo()
            if replay:
                replay.stop()
        report |= {"code": ended.code, "out": ended.out, "err": ended.err}
        Path(f"{job['name']}_rank{rank}.json").write_text(json.dumps(report))
        print(job["name"], ended.code, ended.err[-3000:], flush=True)
        if ended.code != job.get("code", 0):
            sys.exit(ended.code or 1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
