"""A judge that is down: groups it did not judge are rejected or pass (``gating.on_unknown``), and are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dro_lab.errors import UserError
from dro_lab.gating._decide import UNJUDGED, Rules, check_rules, decide
from dro_lab.record.read import load_run
from dro_lab.types import Rewards
from tests.cli_fixture import run_main, small_run
from tests.openai_server import Reply, ScriptedServer

REWARDS = Rewards(outcome_PG=torch.tensor([[0.9, 0.5, 0.1, 0.0]] * 3))
MASK_PV = torch.ones(3, 2, dtype=torch.bool)
# a group that is judged and fails, one of which nothing is known, one whose best rollout is known by half
VERDICTS = torch.tensor(
    [
        [[0, 0], [0, 0], [1, 1], [0, 0]],
        [[-1, -1], [-1, -1], [-1, -1], [-1, -1]],
        [[1, -1], [-1, -1], [-1, -1], [1, 0]],
    ],
    dtype=torch.int8,
)


@pytest.mark.parametrize(
    ("on_unknown", "on_reject", "rejected"),
    [
        ("reject", "drop", [True, True, True]),
        ("pass", "drop", [True, False, False]),
        ("reject", "zero", [True, True, True]),
        ("pass", "zero", [True, False, False]),
        ("reject", "floor", [False, True, False]),
        ("pass", "floor", [False, False, False]),
    ],
)
def test_what_is_unknown_speaks_against_a_group_or_for_it(
    on_unknown: str, on_reject: str, rejected: list[bool]
) -> None:
    rules = Rules(on_unknown=on_unknown, on_reject=on_reject)  # type: ignore[arg-type]
    found = decide(VERDICTS, MASK_PV, REWARDS, rules=rules)
    assert found.rejected_P is not None
    assert found.rejected_P.tolist() == rejected
    assert found.metrics["unjudged_share"] == pytest.approx(1 / 3), "counted in both cases"
    assert found.metrics["unknown_share"] == pytest.approx(13 / 24)
    assert found.reasons_P[1] == (UNJUDGED if rejected[1] else "")
    assert [bool(reason) for reason in found.reasons_P] == rejected
    if on_reject == "drop":
        assert (~found.admit_P).tolist() == rejected


def test_a_query_without_checks_is_not_unjudged() -> None:
    found = decide(VERDICTS, torch.zeros_like(MASK_PV), REWARDS, rules=Rules())
    assert found.metrics["unjudged_share"] == 0.0
    assert found.admit_P.all()


@pytest.mark.parametrize("value", ["accept", None, True])
@pytest.mark.tried("bad inputs")
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"gating.on_unknown=.*reject"):
        check_rules(mu=1, rho=0.25, nu=0.6, on_reject="drop", patience=5, on_unknown=value)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("openai_key")
@pytest.mark.parametrize(("on_unknown", "rejected"), [("reject", 1.0), ("pass", 0.0)])
@pytest.mark.tried("faults")
def test_a_run_goes_on_without_its_judge(policy: Path, own_folder: Path, on_unknown: str, rejected: float) -> None:
    """The endpoint is there when the run begins, and hangs up on every question."""
    with ScriptedServer(lambda request: Reply(break_after=0)) as server:
        judge = ["judge=openai", f"judge.base_url={server.base_url}", "judge.model=scripted", "judge.max_retries=0"]
        given = ["gating=rubric", f"gating.on_unknown={on_unknown}", *judge, "steps=1", "report=false"]
        ended = run_main(small_run(policy, given))
    assert ended.code == 0, ended.err
    assert "no connection to" in ended.err
    found = load_run(own_folder / "run", require_finished=True)
    row = json.loads((own_folder / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert (row["gate/unjudged_share"], row["gate/rejected_share"]) == (1.0, rejected)
    assert found.summary["judge_counts"]["unanswered"] > 0
    assert found.summary["judge_counts"]["unknown_verdicts"] == found.summary["judge_counts"]["verdicts"]
    assert set(found.rollouts["reason"]) == ({UNJUDGED} if rejected else {""})
