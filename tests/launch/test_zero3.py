"""``launch=zero3`` on a CPU, where DeepSpeed is installed: two processes come to the numbers of one, leave out what DDP
leaves out, and go on where they were stopped.

DeepSpeed is no part of the environment for tests, and builds an extension at its first start (a minute; needs g++):
``pip install deepspeed``, then ``DS_ACCELERATOR=cpu pytest -m long tests/launch/test_zero3.py``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests import resume_fixture as stopping
from tests.cli_fixture import save_policy
from tests.launch import test_goes_on, test_same_numbers
from tests.launch.group import run_two
from tests.launch.test_same_numbers import ADAPTER, FILTERED, by_one, logged, report, rollouts

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs `pip install deepspeed`"),
]

SECONDS = 400
EMPTY = ["steps=3"]
NAN = ["steps=3", "on_nonfinite=skip"]
JOBS = {  # name: overrides, what goes wrong
    "filtered": (FILTERED, None),
    "adapter": (ADAPTER, None),
    "empty": (EMPTY, "nothing_to_learn_in_step_2"),
    "nan": (NAN, "nan_gradient_on_the_second"),
}


def same_numbers(folder: Path, policy: Path, name: str, launch: str) -> dict[str, Any]:
    own, fault = JOBS[name]
    replayed = {} if fault is None else {"completions": None, "before": fault}
    made = test_same_numbers.job(folder, policy, name, launch, own, **replayed)
    where = [one for one in made["arguments"] if not one.startswith("hydra.run.dir=")]
    return made | {"name": f"{launch}_{name}", "arguments": [*where, f"hydra.run.dir={launch}_{name}"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero3")
    policy = save_policy(folder / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("PYTHONWARNINGS", "ignore")
        for name in ("filtered", "adapter"):
            by_one(folder, policy, name, JOBS[name][0])
        ddp = [same_numbers(folder, policy, name, "ddp") for name in ("empty", "nan")]
        ended = run_two(folder, ddp, timeout=SECONDS)
        assert ended.codes == [0, 0], "\n".join(ended.texts)
        zero = [same_numbers(folder, policy, name, "zero3") for name in JOBS]
        stopped = [
            test_goes_on.job(policy, "whole", "whole", launch="zero3"),
            test_goes_on.job(policy, "cut", "cut", launch="zero3", before="kill_in_step_5"),
        ]
        ended = run_two(folder, [*zero, *stopped], timeout=SECONDS)
        assert set(ended.codes) <= {-9, None}, "\n".join(ended.texts)
        ended = run_two(folder, [test_goes_on.job(policy, "cut_on", "cut", launch="zero3")], timeout=SECONDS)
        assert ended.codes == [0, 0], "\n".join(ended.texts)
    return folder


@pytest.mark.parametrize("name", [*(f"zero3_{name}" for name in JOBS), "whole", "cut_on"])
def test_there_were_two_processes_with_a_half_each(runs: Path, name: str) -> None:
    for rank in (0, 1):
        how = report(runs, name, rank)
        assert (how["rank"], how["processes"], how["type"]) == (rank, 2, "DEEPSPEED")
        assert "DeepSpeedEngine" in how["wrapper"]
        assert how["local"][0] * 2 == how["shape"][0] * how["shape"][1]


@pytest.mark.parametrize("name", ["filtered", "adapter"])
def test_two_processes_judge_as_one(runs: Path, name: str) -> None:
    one, two = rollouts(runs / f"one_{name}"), rollouts(runs / f"zero3_{name}")
    assert len(one) == len(two)
    for column in ("prompt_id", "reasoning", "answer", "kept", "reason"):
        assert one[column].tolist() == two[column].tolist(), column
    for column in ("reward", "advantage"):
        assert_near(one[column], two[column], within=1e-5)
    assert one.advantage.abs().max() > 0.1
    losses = [torch.tensor(logged(runs / f"{kind}_{name}", "loss")) for kind in ("one", "zero3")]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
    norms = [logged(runs / f"{kind}_{name}", "grad_norm") for kind in ("one", "zero3")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3, abs=1e-5)


def assert_near(one: pd.Series, two: pd.Series, *, within: float) -> None:
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=within, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["empty", "nan"])
def test_what_ddp_leaves_out_is_left_out(runs: Path, name: str) -> None:
    """Had Adam's momentum moved the weights in step 2, they would be a learning rate (1e-3) apart."""
    ddp, zero = (load_file(runs / f"{launch}_{name}/policy/model.safetensors") for launch in ("ddp", "zero3"))
    for key, value in ddp.items():
        torch.testing.assert_close(zero[key], value, atol=1e-4, rtol=0)
    norms = [logged(runs / f"{launch}_{name}", "grad_norm") for launch in ("ddp", "zero3")]
    if name == "empty":
        assert norms[1] == pytest.approx(norms[0], rel=1e-3)
        assert norms[1][1] == 0
    else:  # the norm of step 2 is nan, of which nothing is logged; DDP's first rank had a gradient without it
        assert norms[1] == pytest.approx([norms[0][0], norms[0][2]], rel=1e-3)
    said = " ".join(report(runs, f"zero3_{name}", 0)["out"].split())
    assert said.count("the update is left out") == (name == "nan")
    if name == "nan":
        dump = load_file(runs / "zero3_nan/nonfinite.safetensors")
        assert [tuple(value.shape) for value in dump.values()] == [(48, 32)], "whole, of both processes' halves"
        assert next(iter(dump.values()))[24:].isnan().all()


def test_the_numbers_are_those_of_a_run_that_nothing_stopped(
    runs: Path, record_property: Callable[[str, object], None]
) -> None:
    assert "resume   cut: goes on from step 4 of 7 (resume=never: a new run)" in report(runs, "cut_on", 0)["out"]
    assert stopping.differing(*(stopping.facts(runs / name) for name in ("whole", "cut"))) == []
    assert json.loads((runs / "cut/summary.json").read_text())["status"] == "finished"
    record_property("printed", "launch=zero3: killed in step 5 and gone on from step 4, nothing lost")
