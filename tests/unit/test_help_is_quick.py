"""``--help`` of the commands that draw and study answers without importing what is slow to import."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from analysis import options
from analysis.crossings import Crossing

COMMANDS = [
    *(f"analysis.{name}" for name in options.FIGURES),
    "dro_lab.report",
    "dro_lab.probe",
    "experiments.all",
    "experiments.omega.study",
    "experiments.lambda_.study",
    "experiments.steps_to_target.study",
]
ASK = """\
import contextlib, io, runpy, sys
found = []
for name in sys.argv[1].split(","):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert out.getvalue().startswith("usage: "), name
    slow = [module for module in ("torch", "matplotlib", "pandas", "scipy") if module in sys.modules]
    assert not slow, (name, slow)
"""


def test_help_imports_nothing_slow() -> None:
    ended = subprocess.run([sys.executable, "-c", ASK, ",".join(COMMANDS)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_choices_of_an_option_are_those_of_the_code() -> None:
    assert get_args(Crossing) == options.CROSSINGS


@pytest.mark.parametrize("name", options.FIGURES)
def test_help_of_a_figure_names_its_own_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.FIGURES[name]("about").parse_args(["--help"])
    assert f"python -m analysis.{name}" in capsys.readouterr().out
