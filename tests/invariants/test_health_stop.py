"""A run that a health monitor stops: exit code 0, evaluated, saved, and recorded with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from dro_lab.errors import UserError
from dro_lab.record.read import load_run
from tests.cli_fixture import run_main, save_policy, small_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


def test_a_stopped_run_is_a_whole_record_with_the_reason(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions of a random policy are cut, which this run takes as a reason to stop."""
    monkeypatch.chdir(tmp_path)
    stop = ["health.truncated.share=0.0", "health.truncated.action=stop", "steps=6", "evaluation.every=4"]
    ended = run_main(small_run(policy, stop))
    assert ended.code == 0, ended.err
    out = ended.out
    assert "stop     health.truncated.action=stop: training ends here, at step 1" in out
    found = load_run(tmp_path / "run")
    summary = found.summary
    assert summary["status"] == "stopped"
    assert summary["stopped"].startswith("health.truncated at step 1: ")
    assert f"stopped  {summary['stopped']}" in out
    assert (summary["steps"], summary["planned_steps"]) == (1, 6)
    assert summary["after"] is not None
    assert summary["objective"] == summary["after"]["value"]
    assert set(found.all_evals["decoding"][found.all_evals["step"] == 1]) == {"sampled", "greedy"}
    assert (tmp_path / "run/policy/model.safetensors").exists()
    page = (tmp_path / "run/report.html").read_text()
    assert "A health monitor stopped this run at step 1 of 6" in page
    with pytest.raises(UserError, match="the run's status is 'stopped' at step 1 of 6"):
        load_run(tmp_path / "run", require_finished=True)
