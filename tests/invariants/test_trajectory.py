"""A refactor must reproduce the stored trajectory: rewards, advantages, loss and gradient of five steps, to 1e-4."""

import json

import pytest
import torch

from tests.invariants.trajectory import STEPS, STORED, run


def test_five_steps_come_out_as_stored(tmp_path):
    stored = json.loads(STORED.read_text())
    assert len(stored) == STEPS
    fresh = run([step["completions"] for step in stored], tmp_path)
    for number, (now, then) in enumerate(zip(fresh, stored, strict=True)):
        assert now["completions"] == then["completions"]
        for key in ("rewards", "advantages"):
            torch.testing.assert_close(
                torch.tensor(now[key]), torch.tensor(then[key]), atol=1e-4, rtol=0, msg=f"step {number} {key}"
            )
        assert now["loss"] == pytest.approx(then["loss"], abs=1e-4)
        assert now["grad_norm"] == pytest.approx(then["grad_norm"], abs=1e-4)


def test_the_stored_trajectory_has_something_to_lose():
    stored = json.loads(STORED.read_text())
    assert len({round(step["grad_norm"], 6) for step in stored}) == STEPS
    assert all(torch.tensor(step["rewards"]).std(dim=1).max() > 1e-3 for step in stored)
    # equal lengths in a group make a loss of 0 up to rounding: one step has others, and the gradient shows the rest
    assert max(abs(step["loss"]) for step in stored) > 0.05
    assert all(step["grad_norm"] > 0.05 for step in stored)
    assert all(torch.tensor(step["advantages"]).abs().max() > 0.5 for step in stored)
