"""How many kills, faults and bad inputs were tried, and how many of them did harm: counted from the tests that ran.

A test says what each of its cases tries with ``@pytest.mark.tried("bad inputs")``, or ``tried("kills", 6)`` where one
case tries several. What passed has held; what failed, or could not be set up, is lost. What was not run is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

KINDS = {"kills": "kill", "faults": "fault", "bad inputs": "bad input"}
"""Each with its singular."""


def note(items: Iterable[pytest.Item]) -> None:
    """Have each report say what its case tries: reports travel from pytest-xdist's processes to the first one."""
    for item in items:
        if (mark := item.get_closest_marker("tried")) is not None:
            kind, count = mark.args[0], mark.args[1] if len(mark.args) > 1 else 1
            assert kind in KINDS, f"{item.nodeid}: tried({kind!r})"
            item.user_properties.append(("tried", [kind, count]))


def line(passed: Iterable[pytest.TestReport], failed: Iterable[pytest.TestReport]) -> str | None:
    """The line of a whole session; None where nothing was tried.

    Args:
        passed: reports of any phase; those of the call count.
        failed: reports of any phase.
    """
    held = {report.nodeid: _said(report) for report in passed if report.when == "call"}
    lost = {report.nodeid: _said(report) for report in failed}
    held = {name: said for name, said in held.items() if name not in lost}
    tried = Counter[str]()
    for said in (*held.values(), *lost.values()):
        tried.update(said)
    if not tried:
        return None
    counts = ", ".join(f"{tried[kind]} {kind if tried[kind] > 1 else KINDS[kind]}" for kind in KINDS if tried[kind])
    return f"tried: {counts}; {_total(held.values())} held, {_total(lost.values())} lost"


def _said(report: pytest.TestReport) -> dict[str, int]:
    return {value[0]: value[1] for name, value in report.user_properties if name == "tried"}


def _total(said: Iterable[dict[str, int]]) -> int:
    return sum(sum(one.values()) for one in said)
