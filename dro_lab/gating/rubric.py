"""Rubric-gating: only groups whose answers meet the query's checks may teach (DRO, arXiv 2506.13351).

The checks stand in the rows (``columns["rubric"]``), or come from a file that ``python -m dro_lab.rubrics`` wrote; the
run's judge answers them about the sampled *answer*, never the reasoning. `dro_lab.gating._decide` has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dro_lab.gating._decide import OnReject, OnUnknown, Rules, check_rules, decide
from dro_lab.rubrics.attach import Rubrics, prepare_rubrics
from dro_lab.rubrics.checks import checks_of
from dro_lab.types import GateResult, Need, Rewards, RolloutGroups, Stat, Task, TokenStats


def rubric(
    groups: RolloutGroups,
    stats: TokenStats,
    rewards: Rewards,
    *,
    mu: int = 1,
    rho: float = 0.25,
    nu: float = 0.60,
    on_reject: OnReject = "drop",
    on_unknown: OnUnknown = "reject",
    patience: int = 5,
    rubrics: Mapping[str, Any] | None = None,
) -> GateResult:
    """Coverage and consistency over the run's verdicts.

    Args:
        mu: every check is met by at least so many rollouts of the group.
        rho: share of the group, by reward, of which each rollout must meet
        nu: at least this share of the checks.
        on_reject: what becomes of a failing group: drop, zero, or floor its failing rollouts.
        on_unknown: what the judge does not answer speaks against the group (reject), or for it (pass).
        patience: steps in a row without any admitted group before the starvation alarm, which reads it, speaks.
        rubrics: where rubrics come from, and their corruption for robustness studies (`dro_lab.rubrics.attach`).
    """
    del patience, rubrics  # read by the alarms and by `prepare`
    assert stats.verdicts_PGV is not None
    assert stats.checks_mask_PV is not None
    return decide(
        stats.verdicts_PGV,
        stats.checks_mask_PV,
        rewards,
        rules=Rules(mu=mu, rho=rho, nu=nu, on_reject=on_reject, on_unknown=on_unknown),
        names_PV=[[check.id for check in checks_of(columns)] for columns in groups.columns_P],
    )


def needs(**_: Any) -> frozenset[Need]:
    """The run's judge answers every check about every rollout."""
    return frozenset({Need(Stat.VERDICTS)})


def check(
    *,
    mu: int = 1,
    rho: float = 0.25,
    nu: float = 0.60,
    on_reject: str = "drop",
    on_unknown: str = "reject",
    patience: int = 5,
    rubrics: Mapping[str, Any] | None = None,
) -> None:
    """Raises `UserError` for thresholds and rubric settings that make no sense."""
    check_rules(mu=mu, rho=rho, nu=nu, on_reject=on_reject, patience=patience, on_unknown=on_unknown)
    Rubrics.of(rubrics)


def prepare(task: Task, *, rubrics: Mapping[str, Any] | None = None, **_: Any) -> Task:
    """The data set with its rubrics attached, checked and, where asked, corrupted."""
    return prepare_rubrics(task, Rubrics.of(rubrics))
