"""Gating by structure: the checks are compiled from a JSON schema and named predicates; no judge is asked.

It answers DRO's open question on structured outputs (ours). One check for the object (strictly one JSON value: no prose
around it, no key twice), one for each top-level property, one for each predicate; an answer that is not read meets
none. A row without a schema is judged as text, by its predicates alone. Coverage, consistency and ``on_reject`` are
those of rubric-gating (`dro_lab.gating._decide`), but ``nu`` is 1: a structure is kept or broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dro_lab.errors import UserError
from dro_lab.gating._decide import OnReject, Rules, check_rules, decide
from dro_lab.gating._json import compile_schema, strict_json
from dro_lab.gating._structure import prepare_structure
from dro_lab.gating.predicates import predicate
from dro_lab.judges.protocol import NO, UNKNOWN, YES
from dro_lab.judges.quality import rows_of
from dro_lab.types import GateResult, Need, Rewards, RolloutGroups, Row, Task, TokenStats


def schema(
    groups: RolloutGroups,
    stats: TokenStats,
    rewards: Rewards,
    *,
    mu: int = 1,
    rho: float = 0.25,
    nu: float = 1.0,
    on_reject: OnReject = "drop",
    patience: int = 5,
    schema: str | None = None,
    predicates: Sequence[str] | None = None,
) -> GateResult:
    """Coverage and consistency over the verdicts of schema and predicates.

    Args:
        mu, rho, nu, on_reject, patience: as in `dro_lab.gating.rubric.rubric`.
        schema: path of a JSON schema for all rows; None: the rows' column ``schema``.
        predicates: names for all rows; None: the rows' column ``predicates``.
    """
    del patience, schema, predicates  # read by the alarms and by `prepare`, which leaves them in the rows
    rows = rows_of(groups)
    names = [list(verdicts(row.reference, row)) for row in rows]
    width = max(map(len, names)) or 1
    verdicts_PGV = torch.full((*groups.shape, width), UNKNOWN, dtype=torch.int8)
    mask_PV = torch.zeros(len(rows), width, dtype=torch.bool)
    for p, (row, answers_G) in enumerate(zip(rows, groups.answers_PG, strict=True)):
        mask_PV[p, : len(names[p])] = True
        found = {answer: list(verdicts(answer, row).values()) for answer in dict.fromkeys(answers_G)}
        for g, answer in enumerate(answers_G):
            verdicts_PGV[p, g, : len(names[p])] = torch.tensor(found[answer], dtype=torch.int8)
    rules = Rules(mu=mu, rho=rho, nu=nu, on_reject=on_reject)
    return decide(verdicts_PGV, mask_PV, rewards, rules=rules, names_PV=names)


def verdicts(answer: str, row: Row) -> dict[str, int]:
    """1 met, 0 not met, -1 unknown, by check: of the row's ``schema`` and ``predicates``. Empty without either."""
    named = [(name, predicate(name, where=f"row {row.id}")) for name in row.columns.get("predicates") or ()]
    if not row.columns.get("schema"):
        return {name: decides(answer, row) for name, decides in named}
    checks = compile_schema(row.columns["schema"])
    try:
        value = strict_json(answer)
    except ValueError:
        return dict.fromkeys([*checks.names, *(name for name, _ in named)], NO)
    faults = checks.faults(value)
    met = {name: NO if name in faults else YES for name in checks.names}
    return met | {name: decides(value, row) for name, decides in named}


def needs(**_: Any) -> frozenset[Need]:
    """Nothing: the answers are read as they stand."""
    return frozenset()


def check(
    *,
    mu: int = 1,
    rho: float = 0.25,
    nu: float = 1.0,
    on_reject: str = "drop",
    patience: int = 5,
    schema: str | None = None,
    predicates: Sequence[str] | None = None,
) -> None:
    """Raises `UserError` for thresholds that make no sense and predicates that do not exist."""
    check_rules(mu=mu, rho=rho, nu=nu, on_reject=on_reject, patience=patience)
    if schema is not None and not isinstance(schema, str):
        raise UserError(f"gating.schema={schema}: must be the path of a JSON schema, or null for the rows' own")
    if predicates is None:
        return
    if isinstance(predicates, str) or not isinstance(predicates, Sequence):
        raise UserError(f"gating.predicates={predicates}: must be a list of names, for example [is_a_number]")
    for name in predicates:
        predicate(name, where="gating.predicates")


def prepare(
    task: Task, *, schema: str | None = None, predicates: Sequence[str] | None = None, **_: Mapping[str, Any]
) -> Task:
    """The data set with schema and predicates in its rows, each checked on the reference."""
    return prepare_structure(task, path=schema, predicates=predicates, verdicts=verdicts)
