"""Which policy a run saves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dro_lab.record.read import load_run
from dro_lab.training.keep import PolicyKeeper
from tests.cli_fixture import assert_refused, run_main, save_policy, small_run


def keeper(folder: Path, keep: str) -> tuple[PolicyKeeper, dict[str, Any]]:
    policy = {"weights": "start"}

    def save(target: Path) -> None:
        target.mkdir(parents=True)
        (target / "weights").write_text(policy["weights"])

    return PolicyKeeper(keep=keep, objective="quality", folder=folder / "policy", save=save), policy


def evaluation(step: int, value: float) -> Any:
    return SimpleNamespace(step=step, estimates={"quality": SimpleNamespace(value=value)})


def trained(folder: Path, keep: str, values: list[float]) -> PolicyKeeper:
    found, policy = keeper(folder, keep)
    for step, value in enumerate(values):
        policy["weights"] = f"step {step}"
        found.evaluated(evaluation(step, value))
    found.trained()
    return found


@pytest.mark.parametrize(
    ("keep", "values", "kept"),
    [
        ("last", [0.2, 0.9, 0.5], "step 2"),
        ("best", [0.2, 0.9, 0.5], "step 1"),
        ("best", [0.2, 0.9, 0.9], "step 1"),
        ("best", [0.9, 0.2, 0.5], "step 0"),
        ("best", [float("nan"), 0.3, 0.1], "step 1"),
        ("best", [float("nan"), float("nan")], "step 1"),  # nothing could be measured: the last one
    ],
)
def test_the_policy_that_should_be_kept_is_kept(tmp_path: Path, keep: str, values: list[float], kept: str) -> None:
    found = trained(tmp_path, keep, values)
    assert (tmp_path / "policy" / "weights").read_text() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert (found.note is not None) == (found.best is not None)


def test_a_run_says_which_policy_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = save_policy(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    # random weights answer nothing right: quality stays 0, so the best policy is the one before training
    ended = run_main(small_run(policy, ["keep=best", "evaluation.every=1", "algorithm.learning_rate=0.1"]))
    assert ended.code == 0, ended.text
    run = load_run(tmp_path / "run", require_finished=True)
    assert any("policy/ is that of step 0" in note for note in run.summary["notes"])
    assert (tmp_path / "run/policy/model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["keep=all"], ["keep=all", "last, best"]),
        (["keep=best", "evaluation.split=test"], ["keep=best", "evaluation.split=test", "validation"]),
        (["keep=best", "objective=quality/ood"], ["keep=best", "objective=quality/ood", "evaluation.extras=every"]),
    ],
)
def test_bad_choices_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], expected: list[str]
) -> None:
    policy = save_policy(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert_refused(run_main(small_run(policy, overrides)), tmp_path / "run", expected)
