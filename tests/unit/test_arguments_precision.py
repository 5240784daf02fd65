"""A precision that the machine does not have is refused in one message, before anything is loaded."""

from __future__ import annotations

import pytest
import torch
import transformers.utils

from dro_lab.data.__main__ import compose
from dro_lab.errors import UserError
from dro_lab.training.arguments import arguments, check_precision


@pytest.fixture
def machine(monkeypatch):
    def pretend(*, gpu: bool, bf16: bool = False) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
        monkeypatch.setattr(transformers.utils, "is_torch_bf16_gpu_available", lambda: bf16)

    return pretend


@pytest.mark.parametrize("key", ["bf16", "bf16_full_eval", "fp16"])
def test_a_machine_without_a_gpu_is_told_so(key, machine):
    machine(gpu=False)
    with pytest.raises(UserError) as error:
        check_precision({key: True, "use_cpu": False})
    for part in (f"algorithm.{key}=true", "no GPU was found", "scale=gpu", "scale=laptop", "python -m dro_lab.plan"):
        assert part in str(error.value)


def test_what_the_machine_has_passes(machine):
    machine(gpu=False)
    check_precision({"bf16": False})
    check_precision({"bf16": True, "use_cpu": True})
    machine(gpu=True, bf16=True)
    check_precision({"bf16": True})
    machine(gpu=True)
    check_precision({"fp16": True})
    with pytest.raises(UserError, match=r"algorithm\.bf16=true: the GPU .* does not compute in bfloat16"):
        check_precision({"bf16": True})


def test_trls_arguments_ask_it_first(machine, tmp_path):
    machine(gpu=False)
    with pytest.raises(UserError, match=r"algorithm\.bf16=true: no GPU was found"):
        arguments(compose(["scale=gpu"]).algorithm, output_dir=str(tmp_path), steps=1)
