"""A run whose weights are split over two processes is killed, or interrupted, and goes on: the same numbers to the last
digit as without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import resume_fixture as stopping
from tests.cli_fixture import save_policy
from tests.launch.group import launcher_env, run_two

pytestmark = pytest.mark.long

SECONDS = 200
ADAPTER = (
    "model.peft=lora",
    "algorithm.learning_rate=1e-2",
    "scored_by=current",
    "filtering.refill=false",
    "evaluation.every=100",  # the first policy is the best until the end
)
"""Less than all of `stopping.WITH_MEMORY`, to be quick."""


def job(policy: Path, name: str, folder: str, *more: str, launch: str = "fsdp", **about: Any) -> dict[str, Any]:
    """One of the runs, by two processes."""
    given = {one.split("=")[0] for one in more}
    arguments = [one for one in stopping.arguments(policy, folder) if one.split("=")[0] not in given]
    return {
        "name": name,
        "arguments": [*arguments, *more, f"launch={launch}", "launch.num_processes=2"],
        "env": launcher_env(launch),
        "fsdp_on_a_cpu": launch == "fsdp",
    } | about


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs and stopped ones, in two processes; then the killed one in two others."""
    folder = tmp_path_factory.mktemp("goes_on")
    policy = save_policy(folder / "policy")
    first = [
        job(policy, "whole", "whole"),
        job(policy, "adapter", "adapter", *ADAPTER),
        job(policy, "adapter_cut", "adapter_cut", *ADAPTER, before="interrupt_in_step_5", code=130),
        job(policy, "adapter_on", "adapter_cut", *ADAPTER),
        job(policy, "cut", "cut", before="kill_in_step_5"),
    ]
    ended = run_two(folder, first, timeout=SECONDS)
    assert set(ended.codes) <= {-9, None}, "\n".join(ended.texts)
    assert -9 in ended.codes
    assert json.loads((folder / "cut/summary.json").read_text())["status"] == "running"
    ended = run_two(folder, [job(policy, "cut_on", "cut")], timeout=SECONDS)
    assert ended.codes == [0, 0], "\n".join(ended.texts)
    return folder


def report(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"{name}_rank{rank}.json").read_text())


@pytest.mark.parametrize("name", ["whole", "adapter", "adapter_cut", "adapter_on", "cut_on"])
def test_there_were_two_processes_with_a_half_each(runs: Path, name: str) -> None:
    for rank in (0, 1):
        how = report(runs, name, rank)
        assert (how["rank"], how["processes"], how["type"]) == (rank, 2, "FSDP")
        assert "FSDPModule" in how["wrapper"]
        assert how["local"][0] * 2 == how["shape"][0]


@pytest.mark.parametrize(
    ("whole", "cut", "on", "step"), [("whole", "cut", "cut_on", 4), ("adapter", "adapter_cut", "adapter_on", 6)]
)
@pytest.mark.tried("faults")
def test_the_numbers_are_those_of_a_run_that_nothing_stopped(
    runs: Path, whole: str, cut: str, on: str, step: int, record_property: Callable[[str, object], None]
) -> None:
    said = f"resume   {cut}: goes on from step {step} of 7 (resume=never: a new run)"
    assert said in report(runs, on, 0)["out"]
    facts = stopping.facts(runs / whole)
    assert stopping.differing(facts, stopping.facts(runs / cut)) == []
    assert len({row["loss"] for row in facts["metrics.jsonl"]}) > 1, "there was something to learn"
    assert [row["step"] for row in facts["metrics.jsonl"]] == list(range(1, 8))
    record_property("printed", f"launch=fsdp: stopped in step 5 and gone on from step {step}, nothing lost ({cut})")


def test_the_first_policy_is_evaluated_once(runs: Path) -> None:
    for name in ("cut", "adapter_cut"):
        rows = [json.loads(line) for line in (runs / name / "evals.jsonl").read_text().splitlines()]
        found = [(row["step"], row["split"], row["metric"], row.get("decoding")) for row in rows]
        assert len(found) == len(set(found))
        assert any(step == 0 for step, *_ in found)


def test_ctrl_c_in_one_process_saves_and_says_how_to_go_on(runs: Path) -> None:
    said = report(runs, "adapter_cut", 0)["out"]
    assert "go on " in said
    assert "(from step 6)" in said
    assert (runs / "adapter_cut/policy/adapter/adapter_model.safetensors").exists()
