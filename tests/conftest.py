"""What holds for the whole suite."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

from tests import tried

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")  # whether a property holds does not depend on how busy the machine is

LONG = ("invariants", "notebooks", "browser", "faults", "configs")
"""Folders of whole runs."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: half a minute; runs with `-m long` alone (make test-long)")
    config.addinivalue_line(
        "markers", "tried(what, count=1): each case tries kills, faults or bad inputs (tests/tried.py)"
    )
    """xdist would hand out the files with the most tests first, and end on those of a few whole runs."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, so that all processes end together: whole runs, then files with a slow test, then the rest."""
    if "long" not in (config.option.markexpr or ""):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    tried.note(items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.parent.name not in LONG, item.path not in slow))


def pytest_collection_finish() -> None:
    """What the imports made stays for good: later garbage collections (each run starts with one) skip it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured and want read: their property ``printed``, from every process."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "printed" and report.when == "call":
                terminalreporter.write_line(str(text))
    reports = terminalreporter.getreports
    if line := tried.line(reports("passed"), [*reports("failed"), *reports("error")]):
        terminalreporter.write_line(line)
