"""A run that trains an adapter, and scores with the policy below it, is killed and goes on to the same digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import resume_fixture as stopping
from tests.kills.test_points import POINTS

ADAPTER = ("model.peft=lora", "scored_by=reference", "algorithm.learning_rate=1e-2")


@pytest.mark.tried("faults")
@pytest.mark.parametrize("point", ["in the middle of a line of metrics"])
def test_an_adapter_goes_on(policy: Path, place: Path, point: str) -> None:
    stopping.go(policy, "adapter", *ADAPTER)
    fault, step = POINTS[point]
    stopping.kill(policy, "adapter_cut", fault(), *ADAPTER)
    saved = load_file(place / f"adapter_cut/checkpoints/step-{step:06d}/adapter_model.safetensors")
    assert all("lora_" in name for name in saved), "a checkpoint holds the adapter alone"
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name), "it has learned something"
    ended = stopping.go(policy, "adapter_cut", *ADAPTER)
    assert stopping.said(ended) == [f"resume   adapter_cut: goes on from step {step} of 7 (resume=never: a new run)"]
    first, second = (stopping.facts(place / name) for name in ("adapter", "adapter_cut"))
    assert stopping.differing(first, second) == []
    files = [place / name / "policy/adapter/adapter_model.safetensors" for name in ("adapter", "adapter_cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len({row["loss"] for row in first["metrics.jsonl"]}) > 1
