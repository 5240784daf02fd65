"""Fixtures that several tests of bad input and faults share."""

from pathlib import Path

import pytest

from tests.cli_fixture import save_policy
from tests.openai_judge_fixture import KEY


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy on disk."""
    return save_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that must turn up nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
