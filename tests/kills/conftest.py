"""Runs that are killed and go on, over and over: ``make test-long``, or ``pytest -m kills tests/kills``.

The default suite leaves this folder out: it takes minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import resume_fixture as stopping
from tests.cli_fixture import save_policy

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kills: killed runs; runs with `-m kills` alone (make test-long)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = "kills" in (config.option.markexpr or "")
    return True if collection_path.name.startswith("test_") and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kills)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all runs lie."""
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="session")
def policy(place: Path) -> Path:
    return save_policy(place / "tiny")


@pytest.fixture(autouse=True)
def _own_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="session")
def whole(place: Path, policy: Path) -> dict[str, Any]:
    """The facts of the run that nothing disturbed."""
    return stopping.undisturbed(policy, place)
