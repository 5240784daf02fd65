"""The line on what was tried counts what ran: passed is held, failed is lost, and nothing else is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import tried


def report(name: str, what: list[Any] | None, when: str = "call") -> Any:
    properties = [("printed", "text"), *([("tried", what)] if what else [])]
    return SimpleNamespace(nodeid=name, when=when, user_properties=properties)


def test_what_passed_has_held_and_what_failed_is_lost() -> None:
    passed = [report("a", ["kills", 6], phase) for phase in ("setup", "call", "teardown")]
    passed += [report("b", ["bad inputs", 1]), report("c", ["bad inputs", 1]), report("d", None)]
    passed += [report("only set up", ["faults", 1], "setup")]
    assert tried.line(passed, []) == "tried: 6 kills, 2 bad inputs; 8 held, 0 lost"
    failed = [report("e", ["faults", 1]), report("f", ["faults", 1], "setup"), report("g", None)]
    assert tried.line(passed, failed) == "tried: 6 kills, 2 faults, 2 bad inputs; 8 held, 2 lost"
    again = [report("b", ["bad inputs", 1], "teardown")]
    assert tried.line(passed, again) == "tried: 6 kills, 2 bad inputs; 7 held, 1 lost", "each once"
    assert tried.line([report("b", ["bad inputs", 1])], []) == "tried: 1 bad input; 1 held, 0 lost"
    assert tried.line([report("d", None)], []) is None


CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests import tried

def pytest_configure(config):
    config.addinivalue_line("markers", "tried: x")

def pytest_collection_modifyitems(items):
    tried.note(items)

from tests.conftest import pytest_terminal_summary
"""
TESTS = """
import pytest

@pytest.mark.tried("bad inputs")
@pytest.mark.parametrize("n", range(5))
def test_inputs(n):
    assert n != 3

@pytest.mark.tried("kills", 6)
def test_kills():
    pass

@pytest.mark.tried("faults")
def test_skipped():
    pytest.skip("no such disk here")

@pytest.mark.tried("faults")
def test_deselected():
    pass
"""


@pytest.mark.long
@pytest.mark.parametrize("processes", ["0", "1"])
def test_the_line_of_a_session_with_and_without_other_processes(tmp_path: Path, processes: str) -> None:
    root = str(Path(__file__).parents[2])
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=root))
    (tmp_path / "test_some.py").write_text(TESTS)
    line = [sys.executable, "-m", "pytest", "-n", processes, "-p", "no:cacheprovider", "--deselect"]
    ended = subprocess.run(
        [*line, "test_some.py::test_deselected"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "tried: 6 kills, 5 bad inputs; 10 held, 1 lost" in ended.stdout.splitlines(), ended.stdout + ended.stderr
