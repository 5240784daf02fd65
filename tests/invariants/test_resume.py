"""The law of resuming: stopped anywhere and continued by the same command, a run ends with the numbers of one that was
never stopped, to the last digit; and a resume that forgets anything breaks that law."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from transformers import Trainer

from dro_lab.resume import going_on, steps
from tests import resume_fixture as stopping
from tests.cli_fixture import save_policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy, the undisturbed run ``whole`` and the run ``cut``, killed in step 7 behind 6."""
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def policy(place: Path) -> Path:
    return save_policy(place / "tiny")


@pytest.fixture(autouse=True)
def _own_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def whole(place: Path, policy: Path) -> dict[str, Any]:
    """The facts of the run that nothing disturbed."""
    return stopping.undisturbed(policy, place)


@pytest.fixture(scope="module")
def cut(place: Path, policy: Path, whole: dict[str, Any]) -> Path:
    """A run that was killed when step 7 was done and not yet written."""
    return stopping.killed_in_step_7(policy, place)


def resumed(policy: Path, cut: Path, name: str, *more: str) -> tuple[dict[str, Any], list[str]]:
    """A copy of the killed run, continued: its facts, and what was said."""
    folder = stopping.copied(cut, cut.with_name(name))
    ended = stopping.go(policy, name, *more)
    return stopping.facts(folder), list(stopping.said(ended))


def test_the_run_that_is_tested_remembers_much(whole: dict[str, Any], cut: Path) -> None:
    """Else the law would hold for runs without memory alone."""
    rows = whole["metrics.jsonl"]
    assert len({row["filter/tau"] for row in rows if "filter/tau" in row}) > 1, "the filter's threshold never moved"
    assert any(row.get("filter/refill_rounds", 0) > 0 for row in rows), "nothing was sampled again"
    assert any(row["grad_norm"] > 0 for row in rows)
    assert whole["summary.json"]["alarms"]
    carried = json.loads((cut / "checkpoints/step-000006/lab.json").read_text())["parts"]
    assert set(carried) == {
        "clock", "observer", "watch", "keeper", "pipeline", "guard", "judge", "references", "prompts",
    }  # fmt: skip
    assert carried["pipeline"]["state"]["filter"]["window"]
    assert carried["pipeline"]["refreshed"] > 0
    assert carried["prompts"]["position"] > 0


def test_a_killed_run_goes_on_to_the_numbers_of_an_undisturbed_one(policy: Path, whole: dict, cut: Path) -> None:
    found, said = resumed(policy, cut, "again")
    assert said == ["resume   again: goes on from step 6 of 7 (resume=never: a new run)"]
    assert stopping.differing(whole, found) == []
    assert not (cut.with_name("again") / "checkpoints").exists()
    assert not (cut.with_name("again") / "trainer").exists()
    environment = json.loads((cut.with_name("again") / "env.json").read_text())
    assert len(environment["resumed"]) == 1


def forgetting(part: str) -> Any:
    """A resume that forgets one part."""
    kept = going_on.parts_of
    return patch.object(going_on, "parts_of", lambda run: {k: v for k, v in kept(run).items() if k != part})


def _no_lagged() -> Any:
    return patch.object(going_on, "_policies", lambda run: type("Nobody", (), {"lagged": None}))


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "the sampler stays in the first epoch": (
        lambda: patch.object(steps, "advance_sampler", lambda *_, **__: None), "rollouts.parquet",
    ),
    "random numbers anew": (lambda: patch.object(Trainer, "_load_rng_state", lambda *_: None), "rollouts.parquet"),
    "the optimizer begins anew": (
        lambda: patch.object(Trainer, "_load_optimizer_and_scheduler", lambda *_: None), "metrics.jsonl",
    ),
    "the filter's window is empty": (lambda: forgetting("pipeline"), "metrics.jsonl"),
    "the lagged policy is the first one": (_no_lagged, "metrics.jsonl"),
    "refill begins at its first prompt": (lambda: forgetting("prompts"), "rollouts.parquet"),
    "monitors forget what they said": (lambda: forgetting("watch"), "summary.json"),
    "counts begin at 0": (lambda: forgetting("observer"), "metrics.jsonl"),
    "the best policy is forgotten": (lambda: forgetting("keeper"), "summary.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_resume_that_forgets_breaks_the_law(policy: Path, whole: dict, cut: Path, name: str) -> None:
    broken, where = BROKEN[name]
    folder = f"broken_{list(BROKEN).index(name)}"
    with broken():
        found, _ = resumed(policy, cut, folder)
    assert where in stopping.differing(whole, found)
