"""Corrupted rubrics for robustness studies: what do the gates do when the checks are wrong?

``shuffle``     the rubric of another query (a rotation of the chosen rows in random order);
``negate``      every check expects the opposite answer;
``irrelevant``  checks about nothing in the query, as many as the row has, which no answer meets (a program that does
                not know them says unknown, which never counts as met).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from dro_lab.rubrics.checks import as_column, checks_of
from dro_lab.types import MAX_CHECKS, Check, Row

Corruption = Literal["none", "shuffle", "negate", "irrelevant"]
CORRUPTIONS = ("none", "shuffle", "negate", "irrelevant")

SUBJECTS = (
    "how to tune a piano",
    "the tides of the North Sea",
    "how to mend a bicycle's chain",
    "the recipe of a lemon cake",
    "the rules of chess openings",
    "how bees build their combs",
    "the orbit of the moon",
    "how to glaze pottery",
    "the harvest of olives",
    "how to fold a paper crane",
)
assert len(SUBJECTS) == MAX_CHECKS


def irrelevant(count: int) -> list[Check]:
    """``count`` checks about nothing in any query of the data sets here."""
    return [
        Check(id=f"irrelevant-{number}", text=f"Does the answer explain {subject}?", predicate={"kind": "irrelevant"})
        for number, subject in enumerate(SUBJECTS[:count], start=1)
    ]


def negated(check: Check) -> Check:
    """The same question with the opposite answer expected."""
    return replace(check, expect="no" if check.expect == "yes" else "yes")


def corrupt(rows: Sequence[Row], how: Corruption, *, share: float, seed: int) -> tuple[list[Row], int]:
    """``(rows, number corrupted)``: ``round(share * n)``, at least 1, of the n rows that have a rubric.

    Which rows is a pure function of their order, ``share`` and ``seed``; rows that stay are the same objects.
    """
    places = [place for place, row in enumerate(rows) if checks_of(row.columns)] if how != "none" else []
    if not places:
        return list(rows), 0
    order = [places[number] for number in np.random.default_rng(seed).permutation(len(places))]
    chosen = order[: max(1, round(share * len(places)))]
    changed = list(rows)
    for number, place in enumerate(chosen):
        row, checks = rows[place], checks_of(rows[place].columns)
        if how == "shuffle":
            donor = order[(number + 1) % (len(chosen) if len(chosen) > 1 else len(order))]
            checks = checks_of(rows[donor].columns)
        elif how == "negate":
            checks = tuple(negated(check) for check in checks)
        else:
            checks = tuple(irrelevant(len(checks)))
        changed[place] = replace(row, columns={**row.columns, "rubric": as_column(checks)})
    return changed, len(chosen)
