"""The same seed on the same machine gives the same numbers, and a record holds what is needed to repeat its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dro_lab.record.environment import PACKAGES, VARIABLES, environment
from dro_lab.record.read import load_run
from tests.cli_fixture import run_main, save_policy, small_run

VARIED = ("steps=2", "rollout.max_completion_length=12", "algorithm.num_generations=4", "report=false")
TIMES = ("seconds", "time")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Every number of the record but the times, steps and evaluations."""
    rows = [json.loads(line) for name in ("metrics", "evals") for line in (folder / f"{name}.jsonl").open()]
    return [{key: value for key, value in row.items() if not key.endswith(TIMES)} for row in rows]


def process(arguments: list[str], folder: Path, **variables: str) -> None:
    """``python -m dro_lab.run`` in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "dro_lab.run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


OTHERS = ("reward=repro", "reward@reward.outcome=r3", "reward.segment_on=line", "reward.k=3", "reward.w=0.5")
"""A reward with a part of its own, whose yaml interpolates, and values that are not the defaults."""


@pytest.mark.long
def test_a_record_repeats_its_run_in_another_process(policy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Groups keep their names, what is interpolated keeps its value, and hash seeds make no difference."""
    monkeypatch.chdir(tmp_path)
    given = [*VARIED, *OTHERS, "advantage=leave_one_out", "health=none", "judge=none", "objective=reward", "seed=4"]
    ended = run_main(small_run(policy, [*given, "scored_by=lagged", "lag=1", "algorithm.learning_rate=3e-3"]))
    assert ended.code == 0, ended.err
    again = ["--config-path", str(tmp_path / "run"), "--config-name", "config", "hydra.run.dir=again"]
    process(again, tmp_path, PYTHONHASHSEED="77")
    assert numbers(tmp_path / "again") == numbers(tmp_path / "run")
    first, second = (load_run(tmp_path / name) for name in ("run", "again"))
    assert len(first.metrics) == 2
    assert first.metrics["grad_norm"].max() > 0, "something was learned"
    assert first.rollouts.equals(second.rollouts)
    assert first.config == second.config
    config = OmegaConf.create(first.config)
    names = {"reward": "repro", "advantage": "leave_one_out", "health": "none", "judge": "none"}
    assert {group: config.names[group] for group in names} == names
    assert (config.reward.k, config.reward.w, config.scored_by, config.seed) == (3, 0.5, "lagged", 4)
    assert "${" not in first.config.split("\nhydra:")[0], "what was interpolated is written out"
    for key in ("reward", "dataset", "policy", "seed", "objective", "provenance", "comparison"):
        assert first.summary[key] == second.summary[key], key


def test_the_environment_holds_what_a_repetition_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_no_business_here")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    found = environment(seeds={"seed": 0, "evaluation": 7}, threads=2, command=["python", "-m", "dro_lab.run", "a b"])
    assert found["seeds"] == {"seed": 0, "evaluation": 7}
    assert found["threads"] == 2
    assert found["command"] == "python -m dro_lab.run 'a b'"
    assert set(found["versions"]) == {"python", *PACKAGES}
    assert found["versions"]["torch"].startswith("2.")
    assert found["variables"]["PYTHONHASHSEED"] == "3"
    assert "CUBLAS_WORKSPACE_CONFIG" not in found["variables"]
    assert set(found["variables"]) <= set(VARIABLES)
    assert "hf_no_business_here" not in json.dumps(found)
    assert set(found["git"]) == {"commit", "dirty"}
    assert set(found["devices"]) == {"accelerators", "cuda", "cudnn", "deterministic"}


def test_the_environment_asks_torch_only_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = environment(seeds={}, threads=1)
    assert found["devices"] == {"accelerators": [], "cuda": None, "cudnn": None, "deterministic": None}
