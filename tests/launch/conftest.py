"""Two processes, started over and over, take minutes: ``make test-long``, or ``pytest -m processes tests/launch``."""

from __future__ import annotations

from pathlib import Path

import pytest

TWO_PROCESSES = ("test_same_numbers.py", "test_wrong_launches.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "processes: two processes; runs with `-m processes` alone (make test-long)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = "processes" in (config.option.markexpr or "")
    return True if collection_path.name in TWO_PROCESSES and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in TWO_PROCESSES:
            item.add_marker(pytest.mark.processes)
